"""Learning rates over a whole training, from each config's own optimizer constructor and schedules."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from torch import nn

ROOT = Path(__file__).parents[2]
#: iterations that stand for an epoch, and iterations of a training by iterations that stand for one here
EPOCH, STRIDE = 4, 50


def decaying_configs():
    """Configs with layer-wise decay of the rates."""
    paths = [path for path in (ROOT / 'configs').glob('mm*/*/*.py') if path.parent.name not in ('quickstart', 'study')]
    return sorted(path for path in paths if 'LayerDecay' in constructor(path) or 'RateDecay' in constructor(path))


def constructor(path):
    return Config.fromfile(path, import_custom_modules=False).get('optim_wrapper', {}).get('constructor', '')


def schedule(cfg, optimizer):
    """The config's schedulers for epochs of ``EPOCH`` iterations, or an iteration of ``STRIDE``; their length."""
    schedulers, by_epoch = [], 'max_epochs' in cfg.train_cfg
    for item in map(dict, cfg.param_scheduler):
        cls = PARAM_SCHEDULERS.get(item.pop('type'))
        if item.get('by_epoch', True):
            item.pop('convert_to_iter_based', None)
            schedulers.append(cls.build_iter_from_epoch(optimizer, **item, epoch_length=EPOCH))
            continue
        stride = 1000 if by_epoch else STRIDE  # an epoch of detection has some 4000 iterations
        for key in ('begin', 'end'):
            item[key] = -(-item[key] // stride)
        if 'milestones' in item:
            item['milestones'] = [step // stride for step in item['milestones']]
        schedulers.append(cls(optimizer, **item))
    return schedulers, cfg.train_cfg.max_epochs * EPOCH if by_epoch else cfg.train_cfg.max_iters // STRIDE


def curves(cfg):
    """``(steps, groups)``: the rate of every parameter group in every step."""
    init_default_scope(cfg.default_scope)
    backbone = cfg.model.backbone
    depth = 24 if 'large' in backbone.arch else 12
    backbone.update(arch=dict(embed_dims=8, num_layers=depth, num_heads=2), init_cfg=None)
    with torch.device('meta'):
        model = Model(MODELS.build(backbone))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    schedulers, steps = schedule(cfg, optimizer)
    rates = []
    for _ in range(steps):
        rates.append([group['lr'] for group in optimizer.param_groups])
        for scheduler in schedulers:
            scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


class Model(nn.Module):
    """A backbone and something behind it: mmpretrain's constructor asks the model, ours the backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)

    def get_layer_depth(self, name, prefix=''):
        if name.startswith('backbone.'):
            return self.backbone.get_layer_depth(name, 'backbone.')
        depth = self.backbone.get_layer_depth('ln2.weight', '')[1]
        return depth - 1, depth


@pytest.mark.parametrize('path', decaying_configs(), ids=lambda path: f'{path.parts[-3]}-{path.stem}')
def test_no_rate_rises_after_the_warmup(path):
    """But in the released fine-tuning, whose absolute floor lies above the peaks of the lowest layers."""
    pytest.importorskip('mmpretrain.engine')
    rates = curves(Config.fromfile(path))
    peak = rates.max(dim=1).values.argmax()
    after = rates[peak:]
    assert 0 < peak < len(rates) // 5
    rises = (after.diff(dim=0) > 1e-15 + 1e-9 * after[:-1]).any(dim=0)
    assert rises.any() == (path.stem.endswith('_released') and '-ft-' in path.stem)
    if not rises.any():
        # the layers keep their proportions
        late = after[int(0.9 * len(after))]
        torch.testing.assert_close(late / late.max(), after[0] / after[0].max(), rtol=1e-6, atol=0)


def test_layer_decay_is_found():
    assert len(decaying_configs()) == 12
