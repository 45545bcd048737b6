"""Trainings and tests of classifiers: what job.py does for the parts of that kind."""

from pathlib import Path
from typing import Dict, List

import torch
from logs import check_end, scalars
from plan import CONFIGS, HELD_OUT, PARTS, Job

from mmvisionllama import launch
from mmvisionllama.analysis import resolution_transfer
from mmvisionllama.analysis.classification import predict
from mmvisionllama.analysis.confidence_calibration import reliability


def config_of(job: Job, rate: float, data_root: Path, options: Dict[str, object]) -> 'launch.config.Config':
    """The config as it is trained."""
    plan = PARTS[job.part]
    merged = {**plan.options, **(plan.tuning if job.rate is not None else {}), 'optim_wrapper.optimizer.lr': rate}
    merged.update({'randomness.seed': job.seed, 'randomness.deterministic': not plan.gpu, **options})
    cfg = launch.load_config(str(CONFIGS / plan.arms[job.arm].config), merged)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(data_root / Path(dataset.data_root).name)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    used = [i for i in range(len(folder_images(train))) if i % 10 < plan.train_tenths]
    if job.rate is not None:
        held_out = used[::HELD_OUT]
        val.update(data_prefix=train.data_prefix, indices=held_out)
        train.indices = sorted(set(used) - set(held_out))
    else:
        val.indices = list(range(0, len(folder_images(val)), plan.test_every))
        if plan.train_tenths < 10:
            train.indices = used
    return cfg


def folder_images(dataset: dict) -> List[Path]:
    """The images of a class-folder data set."""
    return [path for path in (Path(dataset.data_root) / dataset.data_prefix).glob('*/*') if path.is_file()]


def _tests(job: Job, cfg: 'launch.config.Config', checkpoint: str) -> List[dict]:
    """Accuracy at every size on some of the test images, and at the training size on all of them."""
    plan, records = PARTS[job.part], []
    variants = plan.arms[job.arm].variants
    device = torch.device('cuda' if plan.gpu and torch.cuda.is_available() else 'cpu')
    model = resolution_transfer.build_variants(cfg, checkpoint, variants[:1], device)[variants[0]]
    loader = resolution_transfer.build_test_data(cfg, cfg.image_size)
    found = predict(model, loader)
    right = (found.scores.argmax(1) == found.labels).double()
    recalls = [right[found.labels == label].mean().item() for label in found.labels.unique()]
    records.append(
        dict(
            kind='final',
            images=len(right),
            top1=round(found.accuracy, 4),
            recall=round(100 * sum(recalls) / len(recalls), 4),
            ece=round(100 * reliability(found.scores, found.labels).expected_error, 4),
            nll=round(-found.scores.gather(1, found.labels[:, None]).clamp(min=1e-12).log().mean().item(), 5),
        )
    )
    cfg.test_dataloader.dataset.indices = cfg.val_dataloader.dataset.indices
    cfg.test_evaluator = dict(type='Accuracy', topk=(1,))
    rows = resolution_transfer.evaluate(cfg, checkpoint, plan.sizes, variants, device=device, batch_size=32)
    return records + [dict(kind='test', **row) for row in rows]


def facts(cfg: 'launch.config.Config') -> dict:
    """Length of the training and number of its images."""
    data = cfg.train_dataloader.dataset
    return dict(epochs=cfg.train_cfg.max_epochs, images=len(data.get('indices', [])) or len(folder_images(data)))


def results(job: Job, cfg: 'launch.config.Config', work_dir: Path, checkpoint: str) -> List[dict]:
    """Records of the training, and of the tests unless it is one that chooses a rate."""
    records = []
    for record in scalars(work_dir):
        if 'accuracy/top1' in record:
            records.append(dict(kind='val', epoch=record['step'], top1=record['accuracy/top1']))
        elif 'loss' in record:
            records.append({'kind': 'train', **{key: record[key] for key in ('epoch', 'iter', 'lr', 'loss')}})
    check_end(records, cfg.train_cfg.max_epochs, work_dir)
    return records if job.rate is not None else records + _tests(job, cfg, checkpoint)
