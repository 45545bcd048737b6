"""bf16 autocast in the optimizer wrapper."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

import mmvisionllama.engine  # noqa: F401


def wrapper_of(model, **settings):
    cfg = dict(type='AutocastOptimWrapper', optimizer=dict(type='SGD', lr=0.1), **settings)
    return build_optim_wrapper(model, cfg)


@pytest.mark.parametrize('dtype, expected', [('bfloat16', torch.bfloat16), ('float32', torch.float32)])
def test_forward_runs_in_dtype_and_parameters_stay_float32(dtype, expected):
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    wrapper = wrapper_of(model, dtype=dtype)
    with wrapper.optim_context(model):
        out = model(torch.randn(2, 4))
    assert out.dtype == expected
    wrapper.update_params(out.float().square().mean())
    assert model.weight.dtype == torch.float32 and not torch.equal(model.weight, before)
    assert model(torch.randn(2, 4)).dtype == torch.float32, 'outside the context nothing changes'


def test_accumulates_gradients():
    model = nn.Linear(4, 4)
    wrapper = wrapper_of(model, accumulative_counts=2)
    before = model.weight.detach().clone()
    for changed in (False, True):
        with wrapper.optim_context(model):
            loss = model(torch.ones(2, 4)).float().square().mean()
        wrapper.update_params(loss)
        assert torch.equal(model.weight, before) != changed


def test_float16_is_refused():
    with pytest.raises(ValueError, match='AmpOptimWrapper'):
        wrapper_of(nn.Linear(4, 4), dtype='float16')
