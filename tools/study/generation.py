"""Trainings and tests of image generators: what job.py does for the parts of that kind.

Two scores, of the averaged weights. The held-out loss: that of training on pictures not trained on, with the same noise
and times for every arm. And the Frechet distance of samples to the test pictures, in the features of a classifier that
was trained on the same training pictures: a number to compare within the study, and no FID of a publication.
"""

import re
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch
from logs import scalars
from plan import CONFIGS, PARTS, Job
from torch.utils.data import DataLoader, Subset

from mmvisionllama import launch, zoo
from mmvisionllama.generation import ClassifierFeatures, LabelledImages, held_out_loss, load_generator
from mmvisionllama.generation.metrics import frechet_distance, statistics
from mmvisionllama.generation.pictures import image_grid, save_picture

#: the classifier whose features are compared
EXTRACTOR = 'visionllama-micro-20e_cifar10'
SAMPLES = 2000
BATCH = 100


def config_of(job: Job, rate: float, data_root: Path, options: Dict[str, object]) -> 'launch.config.Config':
    """The config as it is trained."""
    plan = PARTS[job.part]
    merged = {**plan.options, **(plan.tuning if job.rate is not None else {}), 'optim_wrapper.optimizer.lr': rate}
    merged.update({'randomness.seed': job.seed, 'randomness.deterministic': True, **options})
    cfg = launch.load_config(str(CONFIGS / plan.arms[job.arm].config), merged)
    root = data_root / 'cifar10'
    cfg.train_dataloader.dataset.data_root = str(root / ('train' if job.rate is None else 'fit'))
    cfg.held_out = str(root / ('test' if job.rate is None else 'held'))
    return cfg


def facts(cfg: 'launch.config.Config') -> dict:
    """Length of the training and number of its images."""
    folder = Path(cfg.train_dataloader.dataset.data_root)
    return dict(iterations=cfg.train_cfg.max_iters, images=sum(path.is_file() for path in folder.glob('*/*')))


def features(images: torch.Tensor) -> np.ndarray:
    """Pooled features ``(N, 96)`` of RGB pictures ``(N, 3, 32, 32)``, uint8."""
    extractor = ClassifierFeatures(zoo.get_model(EXTRACTOR, pretrained=True))
    return torch.cat([extractor(batch)['pool'] for batch in images.split(BATCH)]).numpy()


def samples(model: torch.nn.Module, seed: int) -> torch.Tensor:
    """``SAMPLES`` pictures, the classes in turn, without guidance."""
    labels = torch.arange(SAMPLES) % model.network.num_classes
    indices = torch.arange(SAMPLES).split(BATCH)
    return torch.cat([model.sample(labels[part], indices=part.tolist(), seed=seed) for part in indices])


def results(job: Job, cfg: 'launch.config.Config', work_dir: Path, checkpoint: str) -> List[dict]:
    """Records of the training, the held-out loss of every checkpoint, and the distance of the last one's samples."""
    records = [
        {'kind': 'train', **{key: record[key] for key in ('iter', 'lr', 'loss')}}
        for record in scalars(work_dir)
        if 'loss' in record
    ]
    images = LabelledImages(cfg.held_out, size=cfg.train_dataloader.dataset.size)
    loader = DataLoader(Subset(images, range(0, len(images), PARTS[job.part].test_every)), BATCH)
    for path in sorted(work_dir.glob('iter_*.pth'), key=lambda path: int(re.search(r'\d+', path.stem).group())):
        model = load_generator(cfg, str(path))
        loss = held_out_loss(model, loader)
        records.append(dict(kind='held_out', iter=int(path.stem[5:]), loss=round(loss, 6), images=len(loader.dataset)))
    if job.rate is not None:
        return records
    drawn = samples(model, job.seed)
    real = torch.cat([((batch['inputs'] + 1) * 127.5).round().byte() for batch in DataLoader(images, BATCH)])
    distance = frechet_distance(statistics(features(drawn)), statistics(features(real)))
    if job.seed == PARTS[job.part].seeds[0]:
        save_picture(str(job.log.with_name(f'{job.arm}.png')), image_grid(drawn[:40], 10))
    final = dict(
        kind='final', loss=records[-1]['loss'], distance=round(distance, 3), samples=len(drawn), reals=len(real)
    )
    return [*records, final]
