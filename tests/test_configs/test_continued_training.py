"""Configs that go on from another config's weights keep all that fits, the head included."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

CONFIGS = Path(__file__).parents[2] / 'configs' / 'mmpretrain'
SAME_CLASSES = sorted(path for path in CONFIGS.glob('*/*.py') if Config.fromfile(path).get('load_from'))


def tiny(path):
    """The config's classifier with a small backbone."""
    cfg = Config.fromfile(path)
    assert not cfg.model.backbone.get('init_cfg')
    cfg.model.backbone.arch = dict(embed_dims=32, num_layers=2, num_heads=2)
    cfg.model.head.in_channels = 32
    init_default_scope('mmpretrain')
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('path', SAME_CLASSES, ids=lambda path: path.stem)
def test_backbone_and_head_go_on(path, tmp_path):
    """What the Runner does with ``load_from``: nothing stays at random but what another resolution resizes."""
    pytest.importorskip('mmpretrain.models')
    (source,) = CONFIGS.glob(f'*/{Path(Config.fromfile(path).load_from).parent.name}.py')
    trained = tiny(source)
    for param in trained.parameters():
        torch.nn.init.normal_(param)
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / 'epoch_1.pth')
    model = tiny(path)
    load_checkpoint(model, str(tmp_path / 'epoch_1.pth'), map_location='cpu', strict=True)
    weights = trained.state_dict()
    differs = {key for key, value in model.state_dict().items() if not torch.equal(value, weights[key])}
    assert differs == ({'backbone.pos_embed'} if model.backbone.pos_embed is not None else set())
    if differs:
        assert model.backbone.pos_embed.shape != trained.backbone.pos_embed.shape
        assert model.backbone.pos_embed.std() > 0.5, 'resized from the trained one, not fresh'


def test_configs_with_the_classes_of_their_source():
    """The second stages of the plain B and L, and iLLaMA-B at 384, each as the paper and as the release has it."""
    assert len(SAME_CLASSES) == 6
    for path in CONFIGS.glob('*/*.py'):
        cfg = Config.fromfile(path)
        init_cfg = cfg.model.backbone.get('init_cfg')
        if not init_cfg or path.parent.name in ('quickstart', 'study'):
            continue
        source = Config.fromfile(next(CONFIGS.glob(f'*/{Path(init_cfg.checkpoint).parent.name}.py')))
        head = source.model.head
        assert head.get('num_classes') != cfg.model.head.num_classes, f'{path.stem} throws a trained head away'
