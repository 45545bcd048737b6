"""Contexts made before: the same tensors where nothing differs, others where anything does."""

import copy
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmvisionllama.backbones import PyramidVisionLLaMA
from mmvisionllama.layers import AS2DRoPE, GSAPositionCalibration, context_cache, use_kernels
from mmvisionllama.layers.valid_grid import ValidGrid
from mmvisionllama.layers.window_attention import window_context


@pytest.fixture(autouse=True)
def empty():
    context_cache.clear_contexts()
    yield
    context_cache.clear_contexts()


def calibrated(grid=(6, 9), device=None, dtype=torch.float32, **options):
    options = {'sr_ratio': 2, 'anchor': (4, 4), **options}
    return GSAPositionCalibration(16, **options)(grid, device, dtype)


def windowed(grid=(6, 9), window_size=4, mask_padding=True, dtype=torch.float32, **options):
    return window_context(AS2DRoPE(16, **options), grid, window_size, mask_padding, dtype=dtype)


OTHERS = {
    calibrated: (
        dict(grid=(9, 6)),
        dict(dtype=torch.float64),
        dict(device=torch.device('meta')),
        dict(sr_ratio=3),
        dict(sr_ratio=1),
        dict(anchor=(4, 5)),
        dict(anchor=None),
        dict(key_position='flat_index'),
        dict(base=100),
        dict(ratio=0.5),
        dict(scale='height'),
        dict(kind='1d', scale='per_axis'),
        dict(ntk_alpha=2.0),
        dict(ntk_alpha=2.0, ntk_keys='plain_base'),
        dict(share_heads=False, num_heads=2),
        dict(share_heads=False, num_heads=3),
        dict(directions='golden', num_heads=2),
        dict(directions='golden', num_heads=2, freq_range=(0.1, 1.0)),
        dict(directions='spiral', num_heads=2, num_directions=2),
        dict(directions='spiral', num_heads=2, num_directions=1),
        dict(yarn_range=(0.01, 0.5)),
        dict(yarn_range=(0.02, 0.6)),
    ),
    windowed: (
        dict(grid=(9, 6)),
        dict(window_size=5),
        dict(mask_padding=False),
        dict(dtype=torch.float64),
        dict(base=100),
        dict(kind='1d'),
    ),
}


@pytest.mark.parametrize('make', OTHERS)
def test_one_context_for_one_set_of_inputs(make):
    first = make()
    assert make() is first and make(dtype=torch.bfloat16) is first  # tables never go below fp32
    with torch.inference_mode():
        inside = make()
    assert inside is not first and inside.query.cos.is_inference() and not first.query.cos.is_inference()
    seen = [first, inside]
    for other in OTHERS[make]:
        seen.append(make(**other))
        assert make(**other) is seen[-1]
        with use_kernels(False):  # made anew
            fresh = make(**other)
        assert fresh is not seen[-1]
        for a, b in ((fresh.query, seen[-1].query), (fresh.key, seen[-1].key)):
            assert a.cos.dtype == b.cos.dtype and a.cos.device == b.cos.device
            if not a.cos.is_meta:
                torch.testing.assert_close(a.cos, b.cos, rtol=0, atol=0)
                torch.testing.assert_close(a.sin, b.sin, rtol=0, atol=0)
        if make is windowed:
            assert (fresh.mask is None) == (seen[-1].mask is None)
            assert fresh.mask is None or torch.equal(fresh.mask, seen[-1].mask)
    assert len({id(context) for context in seen}) == len(OTHERS[make]) + 2


def test_the_default_device_is_a_device():
    first = calibrated()
    with torch.device('meta'):
        assert calibrated().query.cos.is_meta and calibrated() is calibrated()
    assert calibrated() is first
    with torch.device('meta'):
        calibrated((3, 5))
    assert not calibrated((3, 5)).query.cos.is_meta


def test_what_is_not_kept():
    sizes = ValidGrid(torch.tensor([[4, 6], [6, 9]]), (6, 9))
    calibration = GSAPositionCalibration(16, 2)
    assert calibration((6, 9), valid=sizes) is not calibration((6, 9), valid=sizes)

    class Learned(AS2DRoPE):
        pass

    rotary = Learned(16)
    assert window_context(rotary, (6, 9), 4) is not window_context(rotary, (6, 9), 4)
    rotary = AS2DRoPE(16)
    rotary.register_forward_pre_hook(lambda module, args: None)  # sees every pass
    assert window_context(rotary, (6, 9), 4) is not window_context(rotary, (6, 9), 4)
    rotary = AS2DRoPE(16)
    rotary.angles = lambda positions: torch.zeros_like(AS2DRoPE.angles(rotary, positions))  # somebody's experiment
    without = window_context(rotary, (6, 9), 4)
    assert (without.query.cos == 1).all() and (windowed().query.cos != 1).any()
    assert (window_context(rotary, (6, 9), 4).query.cos == 1).all()
    context_cache.clear_contexts()
    calibration.query_positions = lambda *args: GSAPositionCalibration.query_positions(calibration, *args) * 2
    assert calibration((6, 9)) is not calibration((6, 9))
    with FakeTensorMode():
        calibrated()
    assert not context_cache._entries
    assert type(calibrated().query.cos) is torch.Tensor


def test_old_grids_go_first():
    first = calibrated((1, 1))
    for side in range(2, context_cache.MAX_ENTRIES + 1):
        calibrated((side, 1))
    assert calibrated((1, 1)) is first  # used again: now the youngest
    calibrated((context_cache.MAX_ENTRIES + 1, 1))
    assert len(context_cache._entries) == context_cache.MAX_ENTRIES
    assert calibrated((1, 1)) is first
    assert not any(key[0][2] == (2, 1) for key in context_cache._entries)


def test_threads():
    errors = []

    def work():
        try:
            for side in range(1, 100):
                assert calibrated((side, 1)).query.cos.shape[0] == side
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors


def test_a_second_pass_of_a_pyramid_builds_nothing():
    arch = dict(embed_dims=[16, 32], depths=[2, 2], num_heads=[1, 2], window_sizes=[4, 4], sr_ratios=[2, 1])
    model = PyramidVisionLLaMA(arch, out_indices=(0, 1)).eval()
    x = torch.randn(1, 3, 40, 56)

    def operations():
        with torch.profiler.profile() as profiler, torch.no_grad():
            outs = model(x)
        return {event.key: event.count for event in profiler.key_averages()}, outs

    first, before = operations()
    second, after = operations()
    assert first['aten::cos'] == 5 and first['aten::arange'] > 5  # window and queries of both stages, keys of one
    assert not {'aten::cos', 'aten::sin', 'aten::arange', 'aten::exp'} & second.keys()
    for a, b in zip(before, after):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()
