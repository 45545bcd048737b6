"""Weights that fit a model by name and shape and are of another function are noticed."""

import logging
from argparse import Namespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS

from mmvisionllama.backbones import iLLaMA
from mmvisionllama.checkpoints import loading, read_checkpoint
from mmvisionllama.engine.hooks.checkpoint_fit import CheckpointFitHook

ARCH = dict(embed_dims=16, num_layers=1, num_heads=2)


@MODELS.register_module(name='SwitchModel', force=True)
class Model(BaseModel):
    def __init__(self, **options):
        super().__init__()
        self.backbone = iLLaMA(ARCH, img_size=32, **options)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.backbone(inputs)


@pytest.fixture
def path(tmp_path):
    """Weights as the converter writes them."""
    meta = dict(family='illama', model=dict(backbone=dict(mask_mode='multiplicative', rope_scale='none')))
    torch.save(dict(state_dict=Model().state_dict(), meta=meta), tmp_path / 'converted.pth')
    return str(tmp_path / 'converted.pth')


def by_init_cfg(path, options):
    loading.load_pretrained(Model(**options).backbone, path, 'backbone.')


def by_runner(path, options):
    runner = Namespace(_load_from=path, _resume=False, work_dir='', model=Model(**options))
    CheckpointFitHook().after_load_checkpoint(runner, read_checkpoint(path))


def by_deploy(path, options):
    pytest.importorskip('cv2')
    from mmvisionllama.deploy.models import load_model

    cfg = dict(model=dict(type='SwitchModel', **options), default_scope='mmengine')
    load_model(Config(cfg), path)


@pytest.mark.parametrize('door', [by_init_cfg, by_runner, by_deploy])
def test_other_switches_are_warned_of(path, door, monkeypatch):
    warned = []
    monkeypatch.setattr(
        loading, 'print_log', lambda text, level=logging.INFO, **_: level >= logging.WARNING and warned.append(text)
    )
    door(path, dict(mask_mode='released', rope_scale='released'))
    assert not warned
    door(path, dict(rope_scale='none'))
    (line,) = warned
    assert "was trained with mask_mode='multiplicative', and this backbone has mask_mode='additive'" in line
    door(path, {})
    assert "rope_scale='none', and this backbone has mask_mode='additive', rope_scale='sequence'" in warned[-1]


def test_the_names_are_those_of_converters_and_backbones():
    """A renamed option would silence the warning."""
    from mmvisionllama.backbones import VisionLLaMA

    for name, aliases in loading.SWITCHES.items():
        kind = VisionLLaMA if name == 'cls_position' else iLLaMA
        for alias, value in aliases.items():
            assert getattr(kind(ARCH, **{name: alias}), name) == value
    assert {'above_top_right', 'top_right'} == set(VisionLLaMA.CLS_POSITION_ALIASES.values())


def test_what_is_no_reason_to_warn(monkeypatch):
    from mmvisionllama.backbones import VisionLLaMA

    monkeypatch.setattr(loading, 'print_log', lambda text, **_: pytest.fail(text))
    pooled = VisionLLaMA(ARCH, with_cls_token=False, out_type='avg_featmap')
    for module, model in (
        (pooled, dict(backbone=dict(cls_position='above_top_right'))),
        (Model(mask_mode='multiplicative'), dict(backbone=dict(mask_mode='released'))),
        (Model(), dict(backbone=None)),
        (Model(), 3),
    ):
        loading.check_switches(module, dict(meta=dict(model=model)), 'x')
    loading.check_switches(Model(), dict(meta=None), 'x')
