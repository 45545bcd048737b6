"""Images of any sizes in one sequence: each comes out as it does alone."""

import pytest
import torch

from mmvisionllama.backbones import VisionLLaMA, iLLaMA
from mmvisionllama.layers import Segments
from mmvisionllama.layers.segments import attend_segments
from mmvisionllama.pretraining import MAEVisionLLaMA

#: the last two have equal numbers of tokens on other grids, two share a grid and one of them not its size
SIZES = ((32, 32), (17, 40), (40, 23), (5, 9), (31, 30), (16, 24), (24, 16))
PLAIN = dict(
    arch=dict(embed_dims=32, num_layers=3, num_heads=2),
    patch_size=4,
    img_size=32,
    anchor=32,
    layer_scale_init_value=0.0,
)
CASES = {
    'class token': dict(),
    'maps': dict(out_type='featmap', out_indices=(0, 2), with_cls_token=False),
    'tokens': dict(out_type='raw', cls_position='above_top_right'),
    'pooled': dict(out_type='avg_featmap', with_cls_token=False, rope_cfg=dict(share_heads=False), backend='eager'),
    'learnable embedding, PEG': dict(out_type='featmap', abs_pos_embed=True, peg=True, pre_norm=True),
}


def build(kind=VisionLLaMA, **kwargs):
    torch.manual_seed(0)
    model = kind(**dict(PLAIN, **kwargs))
    for param in model.parameters():
        if param.ndim in (1, 3):
            torch.nn.init.normal_(param.data, 0.5, 0.3)
    return model.eval()


def pictures(sizes=SIZES):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


@pytest.mark.parametrize('name', CASES)
@torch.no_grad()
def test_a_packed_image_comes_out_as_it_does_alone(name):
    model, images = build(**CASES[name]), pictures()
    outs = model.forward_packed(images)
    assert len(outs) == len(model.out_indices)
    for n, image in enumerate(images):
        for out, alone in zip(outs, model(image[None])):
            torch.testing.assert_close(out[n], alone[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_forward_takes_a_list_and_pooled_outputs_are_one_tensor():
    model, images = build(), pictures()
    (out,) = model(images)
    assert out.shape == (len(images), 32)
    torch.testing.assert_close(out, model.forward_packed(images)[0], atol=0, rtol=0)


@torch.no_grad()
def test_no_token_is_padding():
    model, images, tokens = build(), pictures(), []
    model.layers[0].register_forward_pre_hook(lambda module, args: tokens.append(args[0].shape[1]))
    model.forward_packed(images)
    assert tokens == [sum(-(-h // 4) * -(-w // 4) + 1 for h, w in SIZES)]


@pytest.mark.parametrize('with_cp', [False, True])
def test_gradients_are_those_of_the_images_alone(with_cp):
    packed, single = build(with_cp=with_cp).train(), build().train()
    packed.forward_packed(pictures())[0].pow(2).sum().backward()
    for image in pictures():
        single(image[None])[0].pow(2).sum().backward()
    for mine, theirs in zip(packed.parameters(), single.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_stochastic_depth_drops_whole_images_and_no_others():
    model = build(drop_path_rate=0.5, drop_path_mode='uniform', out_type='raw', with_cls_token=False, final_norm=False)
    model.train()
    seen = []
    model.layers[0].drop_path.register_forward_hook(lambda module, args, out: seen.append(out))
    torch.manual_seed(3)
    model.forward_packed(pictures())
    lengths = sorted(-(-h // 4) * -(-w // 4) for h, w in SIZES)
    dropped = [not run.any() for run in seen[0][0].split(lengths)]
    assert 0 < sum(dropped) < len(dropped)
    assert all(run.any(dim=1).all() for run, gone in zip(seen[0][0].split(lengths), dropped) if not gone)


@torch.no_grad()
def test_masked_autoencoder_hides_a_part_of_each_image():
    model, images = build(MAEVisionLLaMA), pictures()
    noise = [torch.rand(-(-h // 4) * -(-w // 4)) for h, w in SIZES]
    for (latent, mask, restore), image, ranks in zip(model(images, noise=noise), images, noise):
        for mine, alone in zip((latent, mask, restore), model(image[None], noise=ranks[None])):
            torch.testing.assert_close(mine, alone[0], atol=1e-5, rtol=0)
    (features,) = model.forward_packed(images)
    torch.testing.assert_close(features[3], model(images[3][None], mask=False)[0][0], atol=1e-5, rtol=0)


def test_variable_length_kernels_get_the_bounds_of_the_runs():
    def varlen(q, k, v, bounds, longest):
        assert bounds.dtype == torch.int32 and longest == 5
        runs = list(zip(bounds[:-1], bounds[1:]))
        parts = [[t[start:end].transpose(0, 1) for t in (q, k, v)] for start, end in runs]
        return torch.cat([attend(*part).transpose(0, 1) for part in parts])

    attend = torch.nn.functional.scaled_dot_product_attention
    segments, (q, k, v) = Segments([(3, 3), (2, 5)]), torch.randn(3, 1, 19, 2, 8)
    expected = attend_segments(q, k, v, segments, attend)
    torch.testing.assert_close(attend_segments(q, k, v, segments, None, varlen), expected, atol=1e-6, rtol=0)


def test_attention_of_segments_is_that_of_each_alone():
    segments = Segments([(2, 3), (1, 3), (2, 5)])
    assert segments.groups == [(3, 3), (2, 5)] and segments.lengths == [3, 3, 3, 5, 5]
    assert segments.bounds(torch.device('cpu')).tolist() == [0, 3, 6, 9, 14, 19]
    q, k, v = torch.randn(3, 1, 19, 2, 4)
    out = attend_segments(q, k, v, segments, torch.nn.functional.scaled_dot_product_attention)
    start = 0
    for length in segments.lengths:
        run = slice(start, start + length)
        scores = torch.einsum('nhd,mhd->hnm', q[0, run], k[0, run]) / 2
        expected = torch.einsum('hnm,mhd->nhd', scores.softmax(-1), v[0, run])
        torch.testing.assert_close(out[0, run], expected, atol=1e-6, rtol=0)
        start += length


@pytest.mark.parametrize(
    'kind, kwargs',
    [(iLLaMA, {}), (VisionLLaMA, dict(with_cls_token=False, window_block_indexes=(0,), out_type='featmap'))],
)
def test_backbones_that_cannot_pack_say_what_to_do(kind, kwargs):
    with pytest.raises(ValueError, match='valid_sizes'):
        build(kind, **kwargs).forward_packed(pictures())
    with pytest.raises(ValueError, match='one or more'):
        build().forward_packed([])
