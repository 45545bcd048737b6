"""Options of the backbones that leave shapes as they are, each seen in what it changes."""

import math

import pytest
import torch
from torch import nn

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.pretraining import MAEVisionLLaMA

PLAIN = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32)
PYRAMID = dict(embed_dims=(8, 8), depths=(2, 2), num_heads=(1, 1), feedforward_channels=(8, 8), sr_ratios=(2, 1))


def test_norm_and_dropout_in_front_of_the_blocks():
    model, seen = VisionLLaMA(PLAIN, pre_norm=True, drop_rate=0.5), []
    for module in (model.drop_after_pos, model.pre_norm):
        module.register_forward_hook(lambda module, args, out: seen.append(out))
    model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(torch.randn(1, 3, 32, 32))
    dropped, normed, entered = seen
    assert entered is normed and (dropped == 0).any()


def test_freezing_the_embedding():
    model = VisionLLaMA(PLAIN, pre_norm=True, drop_rate=0.5, frozen_stages=0).train()
    assert not any(param.requires_grad for param in model.pre_norm.parameters())
    assert not model.drop_after_pos.training and model.layers[0].training


def test_registers_begin_apart():
    """Equal ones would stay equal."""
    registers = VisionLLaMA(PLAIN, num_registers=2).registers[0]
    assert not torch.equal(*registers) and 0.01 < registers.std() < 0.03


def test_the_pyramids_positions_follow_the_first_block():
    model, order = PyramidVisionLLaMA(PYRAMID, peg=True, out_indices=(1,)), []
    modules = dict(first=model.stages[0][0], peg=model.pegs[0], second=model.stages[0][1])
    for name, module in modules.items():
        module.register_forward_hook(lambda *args, name=name: order.append(name))
    model(torch.randn(1, 3, 32, 32))
    assert order == ['first', 'peg', 'second']


def test_initial_values_of_the_pyramid():
    """Twins': convolutions by their fan-out, linear layers with 0.02."""
    model = PyramidVisionLLaMA('small', peg=True)
    attn = model.stages[0][1].attn
    for weight, std, rel in (
        (model.patch_embeds[1].projection.weight, math.sqrt(2 / (2 * 2 * 128)), 0.05),
        (attn.sr.weight, math.sqrt(2 / (8 * 8 * 64)), 0.05),
        (model.pegs[0].conv.weight, math.sqrt(2 / (3 * 3)), 0.15),
        (model.stages[2][0].attn.qkv.weight, 0.02, 0.05),
    ):
        assert weight.std().item() == pytest.approx(std, rel=rel)


def test_one_rate_of_stochastic_depth_for_all_blocks():
    model = PyramidVisionLLaMA(PYRAMID, out_indices=(1,), drop_path_rate=0.2, drop_path_mode='uniform')
    assert {block.drop_path.drop_prob for stage in model.stages for block in stage} == {0.2}


def test_the_filter_of_the_position_embedding():
    model = VisionLLaMA(PLAIN, abs_pos_embed=True, img_size=64, interpolate_mode='bilinear')
    nn.init.normal_(model.pos_embed)
    maps = model.pos_embed.mT.unflatten(2, (4, 4))
    expected = nn.functional.interpolate(maps, size=(6, 8), mode='bilinear', align_corners=False).flatten(2).mT
    torch.testing.assert_close(model.pos_embed_for((6, 8)), expected)


@pytest.mark.parametrize('kind', [VisionLLaMA, iLLaMA])
def test_no_bias_of_the_projection(kind):
    assert kind(PLAIN, qkv_bias=False).layers[0].attn.qkv.bias is None
    assert kind(PLAIN).layers[0].attn.qkv.bias is not None


@torch.no_grad()
def test_temperature_of_masked_images():
    """Without hidden patches MAE's encoder computes the same, packed images too, off the anchor."""
    torch.manual_seed(0)
    model = MAEVisionLLaMA(PLAIN, patch_size=4, anchor=32, mask_ratio=0.0, logit_scale='log_n').eval()
    for param in model.parameters():
        if param.ndim > 1:
            nn.init.normal_(param, std=0.2)
    image, noise = torch.rand(1, 3, 48, 40), torch.arange(120.0)
    whole = model(image, mask=False)[0]
    torch.testing.assert_close(model(image, noise=noise[None])[0][:, 1:], whole, atol=1e-5, rtol=0)
    (packed, *_), *_ = model.forward_packed([image[0]], True, [noise])
    torch.testing.assert_close(packed[1:], whole[0], atol=1e-5, rtol=0)
