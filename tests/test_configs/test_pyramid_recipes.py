"""The supervised pyramid configs set what the paper's Table 13 and section D.2 say, and what the release runs."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

FOLDER = Path(__file__).parents[2] / 'configs' / 'mmpretrain' / 'pyramid_vision_llama'
DROP_PATH = {'small': 0.2, 'base': 0.3, 'large': 0.5}


def load(arch, suffix=''):
    return Config.fromfile(FOLDER / f'pyramid-visionllama-{arch}_8xb128-300e_in1k{suffix}.py')


@pytest.mark.parametrize('suffix', ['', '_released'])
@pytest.mark.parametrize('arch', DROP_PATH)
def test_what_paper_and_release_share(arch, suffix):
    cfg = load(arch, suffix)
    assert cfg.model.backbone.arch == arch and cfg.model.backbone.drop_path_rate == DROP_PATH[arch]
    assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ('AdamW', 1e-3)
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05 and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.param_scheduler[0].end == 5 and cfg.param_scheduler[1].end == cfg.train_cfg.max_epochs == 300
    assert (cfg.model.head.loss.label_smooth_val, cfg.model.head.loss.mode) == (0.1, 'original')
    assert {a.type: a.alpha for a in cfg.model.train_cfg.augments} == dict(Mixup=0.8, CutMix=1.0)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert (steps['RandAugment'].magnitude_level, steps['RandAugment'].magnitude_std) == (9, 0.5)
    assert steps['RandomErasing'].erase_prob == 0.25
    resize, crop = cfg.test_dataloader.dataset.pipeline[1:3]
    assert crop.crop_size / resize.scale == 0.875


@pytest.mark.parametrize('arch', DROP_PATH)
def test_paper(arch):
    cfg = load(arch)
    assert cfg.model.backbone.layer_scale_init_value == 0
    assert (cfg.train_dataloader.sampler.type, cfg.train_dataloader.sampler.num_repeats) == ('RepeatAugSampler', 3)
    assert cfg.param_scheduler[1].eta_min == 0


@pytest.mark.parametrize('arch', DROP_PATH)
def test_release(arch):
    cfg = load(arch, '_released')
    backbone = cfg.model.backbone
    assert backbone.layer_scale_init_value == 1e-4 and backbone.rope_cfg.scale == 'none'
    assert (backbone.key_position, backbone.mask_padding, backbone.gap_norm) == ('flat_index', False, 'twice')
    assert cfg.train_dataloader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert cfg.param_scheduler[1].eta_min == 1e-5


def test_ablation_of_table_7g():
    plain, peg, learnable = load('small'), load('small-peg'), load('small-learnable-pe')
    assert peg.model.backbone.pop('peg') is True
    assert learnable.model.backbone.pop('abs_pos_embed') is True
    assert peg.model == learnable.model == plain.model
    assert learnable.optim_wrapper.paramwise_cfg.custom_keys['.pos_embed'].decay_mult == 0


def test_what_decays_with_a_position_encoding_generator():
    """Matrices and patch convolutions; not its kernels, which Twins exempts, nor biases and norms."""
    pytest.importorskip('mmpretrain.models')
    cfg = load('small-peg')
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {id(param): group['weight_decay'] for group in groups for param in group['params']}
    kernels = {id(module.weight) for module in model.modules() if getattr(module, 'groups', 1) > 1}
    assert len(kernels) == 4
    for key, param in model.named_parameters():
        assert found[id(param)] == (0.0 if param.ndim == 1 or id(param) in kernels else 0.05), key
    assert '.cls_token' in cfg.optim_wrapper.paramwise_cfg.custom_keys, 'what is inherited stays'
