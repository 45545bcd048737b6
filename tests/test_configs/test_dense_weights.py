"""Segmentation and detection start from the weights that their configs name: the whole trunk, from the last epoch."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmvisionllama import launch

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for library in ('mmseg', 'mmdet') for path in (ROOT / 'configs' / library).glob('*/*.py'))
CONFIGS = [path for path in CONFIGS if path.parent.name not in ('quickstart', 'study')]


def load(path):
    pytest.importorskip('mmpretrain')
    pytest.importorskip(f'{path.parts[-3]}.models', exc_type=ImportError)
    cfg = launch.load_config(str(path))
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: f'{path.parts[-3]}-{path.stem}')
def test_pretrained_trunk(path, tmp_path):
    """The config's own pre-training, at small width: its checkpoint fills everything but the norms of the outputs."""
    cfg = load(path).model.backbone
    stem, name = Path(cfg.init_cfg.checkpoint).parts[-2:]
    source = load(next((ROOT / 'configs').glob(f'mmpretrain/*/{stem}.py')))
    assert name == f'epoch_{source.train_cfg.max_epochs}.pth'
    trained = source.model.backbone
    assert cfg.arch == trained.arch
    assert cfg.anchor == trained.get('anchor', 224) == trained.get('img_size', 224), 'the resolution of the weights'

    if cfg.type == 'PyramidVisionLLaMA':
        arch = dict(embed_dims=(8, 8, 16, 16), depths=(1, 2, 1, 1), num_heads=(2, 2, 2, 2))
    else:
        arch = dict(embed_dims=16, num_layers=24 if '-large-' in path.stem else 12, num_heads=2)
    cfg.arch = trained.arch = arch
    trained.pop('init_cfg', None)
    weights = {f'backbone.{key}': torch.randn_like(value) for key, value in MODELS.build(trained).state_dict().items()}
    weights['head.weight'] = torch.zeros(2, 2)
    checkpoint = tmp_path / name
    torch.save(dict(meta=dict(epoch=1), state_dict=weights), checkpoint)
    cfg.init_cfg.checkpoint = str(checkpoint)
    model = MODELS.build(cfg)
    model.init_weights()
    state = model.state_dict()
    fresh = {key for key in state if not torch.equal(state[key], weights.get(f'backbone.{key}', torch.empty(0)))}
    norms = {f'norms.{stage}.{part}' for stage in range(3) for part in ('weight', 'bias')}
    assert fresh <= (norms if cfg.type == 'PyramidVisionLLaMA' else {'pos_embed'}), 'a position embedding is resized'
    assert ('pos_embed' in fresh) == (cfg.type == 'iLLaMA')
