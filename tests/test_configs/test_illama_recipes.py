"""iLLaMA's configs against the numbers of the paper (arXiv 2404.06773) and of the release."""

from pathlib import Path

import pytest
from mmengine.config import Config

FOLDER = Path(__file__).parents[2] / 'configs' / 'mmpretrain' / 'illama'


@pytest.mark.parametrize('suffix', ['', '-no-soft-mask'])
@pytest.mark.parametrize('classes, end', [(10, 25), (100, 50)])
def test_transfer_to_cifar(classes, end, suffix):
    """What the paper states, and the defaults of the release's script: decay, smoothing, mixing, erasing, size."""
    cfg = Config.fromfile(FOLDER / f'illama-tiny-p16_in1k-pre_8xb128-300e{suffix}_cifar{classes}.py')
    assert (cfg.model.head.num_classes, cfg.train_dataloader.dataset.type) == (classes, f'CIFAR{classes}')
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (128, 300)
    assert cfg.custom_hooks == ([] if suffix else [dict(type='SoftMaskHook', schedule='linear', end=end)])
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 2e-3, 0.05)
    assert cfg.optim_wrapper.accumulative_counts == 1 and cfg.param_scheduler[0].end == 50
    assert cfg.model.head.loss.label_smooth_val == 0.1 and cfg.model.backbone.drop_path_rate == 0
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [('Mixup', 0.8), ('CutMix', 1.0)]
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomResizedCrop'].scale == 224 and steps['RandomErasing'].erase_prob == 0.25
