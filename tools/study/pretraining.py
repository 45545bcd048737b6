"""MAE pre-training and what it is worth: what job.py does for the parts of that kind.

Two scores. The linear probe: a logistic regression on the pooled features of whole pictures, the encoder as it is. And
fine-tuning, which is the CIFAR-10 part's training of the arm's kind with other weights to begin with: the same images
and labels, order, augmentation, schedule and learning rate. ViT keeps the class token that it was pre-trained with.
"""

import copy
from pathlib import Path
from typing import Dict, List, Tuple

import classification
import numpy as np
import torch
from logs import best_rate, scalars
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from plan import CONFIGS, HELD_OUT, PARTS, SCRATCH, Job

from mmvisionllama import launch
from mmvisionllama.analysis import resolution_transfer
from mmvisionllama.checkpoints import find_state_dict, read_checkpoint

PREFIX = 'backbone.'


def config_of(job: Job, rate: float, data_root: Path, options: Dict[str, object]) -> Config:
    """The config of the pre-training."""
    plan = PARTS[job.part]
    merged = {**plan.options, **(plan.tuning if job.rate is not None else {}), 'optim_wrapper.optimizer.lr': rate}
    merged.update({'randomness.seed': job.seed, 'randomness.deterministic': True, **options})
    cfg = launch.load_config(str(CONFIGS / plan.arms[job.arm].config), merged)
    train = cfg.train_dataloader.dataset
    train.data_root = str(data_root / 'cifar10')
    if job.rate is not None:
        train.indices = [index for index in range(len(classification.folder_images(train))) if index % HELD_OUT]
    return cfg


facts = classification.facts


def write_encoder(checkpoint: str, path: Path) -> None:
    """The encoder's weights. ViT's patches have attended to its class token, VisionLLaMA's never meet it."""
    found = find_state_dict(read_checkpoint(checkpoint))
    weights = {name[len(PREFIX) :]: value for name, value in found.items() if name.startswith(PREFIX)}
    if 'pos_embed' not in weights:
        weights.pop('cls_token')
    torch.save(dict(state_dict=weights), path)


def classifier_config(job: Job, cfg: Config, encoder: Path) -> Tuple[Config, bool]:
    """The CIFAR-10 part's config of the arm's kind with the encoder's size and weights; whether the size is its own."""
    arm = PARTS[job.part].arms[job.arm].fine_tuned
    root = Path(cfg.train_dataloader.dataset.data_root).parent
    rate = best_rate(SCRATCH, arm)
    found = classification.config_of(Job(SCRATCH, arm, job.seed), rate, root, {})
    arch = cfg.model.backbone.arch
    same, found.model.backbone.arch = found.model.backbone.arch == arch, arch
    found.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(encoder))
    if found.model.backbone.type == 'VisionTransformer':
        found.model.backbone.with_cls_token = True
    return found, same


def build_classifier(cfg: Config) -> torch.nn.Module:
    """The classifier as fine-tuning begins with it."""
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(copy.deepcopy(cfg.model), data_preprocessor=copy.deepcopy(cfg.data_preprocessor)))
    model.init_weights()
    return model


@torch.no_grad()
def features(model: torch.nn.Module, cfg: Config, folder: str) -> Tuple[np.ndarray, np.ndarray]:
    """Pooled features ``(N, C)`` and labels of a folder's pictures, without augmentation."""
    cfg = cfg.copy()
    cfg.test_dataloader.dataset.update(data_prefix=folder, indices=None)
    model.eval()
    found, labels = [], []
    for batch in resolution_transfer.build_test_data(cfg, cfg.image_size):
        batch = model.data_preprocessor(batch, False)
        found.append(model.extract_feat(batch['inputs'])[-1])
        labels += [int(sample.gt_label) for sample in batch['data_samples']]
    return torch.cat(found).numpy(), np.array(labels)


def probe(train: Tuple[np.ndarray, np.ndarray], test: Tuple[np.ndarray, np.ndarray]) -> float:
    """Top-1 of a logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return round(100 * classifier.fit(*train).score(*test), 4)


def results(job: Job, cfg: Config, work_dir: Path, checkpoint: str) -> List[dict]:
    """Records of the pre-training, the probe and the fine-tuning; of the probe alone where a rate is to be chosen."""
    records = [
        {'kind': 'train', **{key: record[key] for key in ('epoch', 'iter', 'lr', 'loss')}}
        for record in scalars(work_dir)
        if 'loss' in record
    ]
    encoder, folder = work_dir / 'encoder.pth', work_dir / 'fine_tuning'
    write_encoder(checkpoint, encoder)
    tuned, same = classifier_config(job, cfg, encoder)
    model = build_classifier(tuned)
    labelled = features(model, tuned, cfg.train_dataloader.dataset.data_prefix)
    if job.rate is not None:
        held_out = np.arange(len(labelled[1])) % HELD_OUT == 0
        top1 = probe(*([part[chosen] for part in labelled] for chosen in (~held_out, held_out)))
        return [*records, dict(kind='val', epoch=cfg.train_cfg.max_epochs, top1=top1)]
    tested = features(model, tuned, tuned.val_dataloader.dataset.data_prefix)
    top1 = probe(labelled, tested)
    size = sum(value.numel() for value in model.backbone.parameters())
    records.append(
        dict(kind='probe', top1=top1, images=len(labelled[1]), tested=len(tested[1]), encoder=size, as_scratch=same)
    )
    tuned.work_dir, tuned.experiment_name = str(folder), f'{cfg.experiment_name}_fine_tuning'
    launch.train(launch.prepare_train(tuned, resume='auto'))
    last = (folder / 'last_checkpoint').read_text().strip()
    scratch = Job(SCRATCH, PARTS[job.part].arms[job.arm].fine_tuned, job.seed)
    return records + classification.results(scratch, tuned, folder, last)
