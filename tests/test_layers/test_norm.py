"""Norms by config, and what optimizers and tools make of them."""

import copy
import pickle

import pytest
import torch
from mmengine.model import initialize
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.layers import RMSNorm, build_norm
from mmvisionllama.layers.layer_scale import LayerScale

ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32)
RMS = dict(type='RMSNorm', eps=1e-6)


@pytest.mark.parametrize('eps', [None, 1e-6, 1e-2])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_rms_norm_is_torch_s(eps, dtype):
    ours, theirs = RMSNorm(24, eps).to(dtype), nn.RMSNorm(24, eps).to(dtype)
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(3, 5, 24, dtype=dtype)
    assert torch.equal(ours(x), theirs(x))
    assert [name for name, _ in ours.named_parameters()] == ['weight']
    assert torch.equal(copy.deepcopy(ours)(x), theirs(x))
    assert torch.equal(pickle.loads(pickle.dumps(ours))(x), theirs(x))


def test_traced_rms_norm_has_the_same_values():
    norm, x = RMSNorm(24, None), torch.randn(3, 24)
    nn.init.normal_(norm.weight)
    assert torch.allclose(torch.jit.trace(norm, x)(x), norm(x), atol=1e-6)


def decays(model, **paramwise):
    """Weight decay of every parameter under a stock schedule."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, **paramwise),
        ),
    )
    found = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    return {name: found[id(param)] for name, param in model.named_parameters()}


@pytest.mark.parametrize(
    'build',
    [
        lambda: iLLaMA(ARCH),
        lambda: VisionLLaMA(ARCH, norm_cfg=RMS, layer_scale_init_value=0.0),
        lambda: PyramidVisionLLaMA('small', norm_cfg=RMS, layer_scale_init_value=0.0),
    ],
    ids=['iLLaMA', 'plain', 'pyramid'],
)
def test_stock_schedules_decay_no_rms_norm(build):
    model = build()
    norms = {f'{name}.weight' for name, module in model.named_modules() if isinstance(module, RMSNorm)}
    assert norms
    assert {name for name, decay in decays(model).items() if decay == 0} >= norms
    matrices = {name for name, param in model.named_parameters() if param.ndim == 2}
    assert all(decay == 0.05 for name, decay in decays(model).items() if name in matrices)


def test_layer_scale_is_no_norm_and_flat_decay_mult_reaches_it():
    """As for mmpretrain's DeiT III; taken for a norm it would be initialised to 1 by stock configs."""
    model = VisionLLaMA(ARCH)
    scales = {f'{name}.weight' for name, module in model.named_modules() if isinstance(module, LayerScale)}
    assert len(scales) == 4
    assert {decays(model)[name] for name in scales} == {0.05}
    assert {decays(model, flat_decay_mult=0.0)[name] for name in scales} == {0.0}
    initialize(model, [dict(type='Constant', layer='LayerNorm', val=2.0, bias=0.5)])
    assert all((module.weight == 1e-4).all() for module in model.modules() if isinstance(module, LayerScale))


def test_stock_initialisers_reach_rms_norm():
    model = iLLaMA(ARCH)
    initialize(model, [dict(type='Constant', layer='LayerNorm', val=2.0, bias=0.5)])
    assert all((module.weight == 2).all() for module in model.modules() if isinstance(module, RMSNorm))


def test_a_registered_class_and_frozen_norms_still_build():
    norm = build_norm(dict(type=nn.LayerNorm, eps=1e-3, requires_grad=False), 8)
    assert norm.eps == 1e-3 and not any(param.requires_grad for param in norm.parameters())
