"""Trainings and tests of instance segmentation: what job.py does for the parts of that kind."""

import copy
import json
from pathlib import Path
from typing import Dict, List

import torch
from logs import check_end, scalars
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from plan import CONFIGS, PARTS, Job
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmvisionllama import launch
from mmvisionllama.analysis.resolution_transfer import rotary_variant

#: side of the crops, pixels
SIDE = 256
#: average precision over IoU 0.5 to 0.95 at 200 detections; mmdet's segm_mAP is that at 100
AP = 'coco/nucleus_precision'


def config_of(job: Job, rate: float, data_root: Path, options: Dict[str, object]) -> Config:
    """The config as it is trained."""
    plan = PARTS[job.part]
    merged = {**plan.options, **(plan.tuning if job.rate is not None else {}), 'optim_wrapper.optimizer.lr': rate}
    merged.update({'randomness.seed': job.seed, 'randomness.deterministic': True, **options})
    cfg = launch.load_config(str(CONFIGS / plan.arms[job.arm].config), merged)
    root = data_root / 'nuclei'
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = f'{root}/'
    if job.rate is not None:
        cfg.train_dataloader.dataset.ann_file = 'instances_fit.json'
        cfg.val_dataloader.dataset.update(ann_file='instances_held.json', data_prefix=dict(img='train/'))
    for split in ('val', 'test'):
        cfg[f'{split}_evaluator'].ann_file = str(root / cfg[f'{split}_dataloader'].dataset.ann_file)
    cfg.visualizer.name = job.name.replace('/', '_')  # visualizers are kept by name, with the folder of the first
    return cfg


def facts(cfg: Config) -> dict:
    """Length of the training, number of its images, and what the backbone costs at the size of the crops."""
    data = cfg.train_dataloader.dataset
    images = json.loads((Path(data.data_root) / data.ann_file).read_text())['images']
    init_default_scope('mmdet')
    backbone = MODELS.build(dict(copy.deepcopy(cfg.model.backbone), init_cfg=None))
    backbone.eval()  # mmdet's ResNet returns nothing
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():  # fused attention is not counted on the CPU
        backbone(torch.rand(1, 3, SIDE, SIDE))
    return dict(
        epochs=cfg.train_cfg.max_epochs,
        images=len(images),
        backbone=sum(value.numel() for value in backbone.parameters()),
        gmacs=round(counter.get_total_flops() / 2e9, 3),
    )


def _tests(job: Job, cfg: Config, checkpoint: str) -> List[dict]:
    """Average precision of the masks with the pictures enlarged or reduced, for every variant of the positions."""
    plan, records = PARTS[job.part], []
    for scale in plan.sizes:
        for variant in plan.arms[job.arm].variants:
            tested = copy.deepcopy(cfg)
            tested.work_dir = str(Path(cfg.work_dir) / 'test')
            tested.experiment_name = f'{cfg.experiment_name}_{scale:g}_{variant}'
            tested.model.backbone = rotary_variant(tested.model.backbone, variant)
            (step,) = [step for step in tested.test_dataloader.dataset.pipeline if step.type == 'Resize']
            step.scale_factor = float(scale)
            found = launch.test(launch.prepare_test(tested, checkpoint))
            records.append(
                dict(
                    kind='test',
                    variant=variant,
                    size=scale,
                    ap=round(100 * found[AP], 4),
                    ap50=round(100 * found['coco/segm_mAP_50'], 4),
                )
            )
    return records


def results(job: Job, cfg: Config, work_dir: Path, checkpoint: str) -> List[dict]:
    """Records of the training, and of the tests unless it is one that chooses a rate."""
    records = []
    for record in scalars(work_dir):
        if AP in record:
            records.append(dict(kind='val', epoch=record['step'], ap=round(100 * record[AP], 4)))
        elif 'loss' in record:
            records.append({'kind': 'train', **{key: record[key] for key in ('epoch', 'iter', 'lr', 'loss')}})
    check_end(records, cfg.train_cfg.max_epochs, work_dir)
    return records if job.rate is not None else records + _tests(job, cfg, checkpoint)
