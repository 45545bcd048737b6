"""A batch of images of different sizes, padded: each image comes out as it does alone."""

import pytest
import torch

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.layers import ValidGrid
from mmvisionllama.pretraining import MAEVisionLLaMA

#: none is a multiple of a patch, window and cell at once; the third is lower than the second and wider
SIZES = ((32, 32), (17, 40), (40, 23), (5, 9))
PLAIN = dict(
    arch=dict(embed_dims=32, num_layers=3, num_heads=2),
    patch_size=4,
    img_size=32,
    anchor=32,
    layer_scale_init_value=0.0,
)
WINDOWED = dict(PLAIN, out_type='featmap', with_cls_token=False, window_size=3, window_block_indexes=(0, 2))
PYRAMID = dict(
    arch=dict(embed_dims=(16, 32, 32, 32), depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 2), window_sizes=(3, 3, 3, 3)),
    anchor=32,
    img_size=32,
    out_indices=(0, 1, 2, 3),
    layer_scale_init_value=0.0,
)
MODELS = {
    'class token': (VisionLLaMA, PLAIN),
    'class token above the grid': (
        VisionLLaMA,
        dict(PLAIN, cls_position='above_top_right', rope_cfg=dict(scale='height')),
    ),
    'unscaled positions': (VisionLLaMA, dict(PLAIN, cls_position='top_right', rope_cfg=dict(scale='none'))),
    '1D positions': (VisionLLaMA, dict(PLAIN, rope_cfg=dict(kind='1d', scale='per_axis'))),
    'maps': (VisionLLaMA, dict(PLAIN, out_type='featmap', out_indices=(0, 1, 2))),
    'pooled': (VisionLLaMA, dict(PLAIN, out_type='avg_featmap', with_cls_token=False)),
    'learnable embedding, PEG': (
        VisionLLaMA,
        dict(PLAIN, out_type='featmap', peg=True, abs_pos_embed=True, pre_norm=True, backend='eager'),
    ),
    'MAE': (MAEVisionLLaMA, dict(PLAIN, out_type='avg_featmap')),
    'windows': (VisionLLaMA, WINDOWED),
    'windows, eager': (VisionLLaMA, dict(WINDOWED, backend='eager')),
    'windows that see their padding': (VisionLLaMA, dict(WINDOWED, mask_padding=False)),
    'iLLaMA': (iLLaMA, PLAIN),
    'iLLaMA, maps': (iLLaMA, dict(PLAIN, out_type='featmap', rope_scale='none')),
    'iLLaMA, soft mask': (iLLaMA, dict(PLAIN, soft_mask=0.3, cls_token_position='first')),
    'iLLaMA, multiplicative': (iLLaMA, dict(PLAIN, soft_mask=0.3, mask_mode='multiplicative')),
    'iLLaMA, bidirectional': (iLLaMA, dict(PLAIN, mask_mode='none', out_type='avg_featmap')),
    'pyramid': (PyramidVisionLLaMA, PYRAMID),
    'pyramid, pooled': (PyramidVisionLLaMA, dict(PYRAMID, out_type='avg_featmap', out_indices=(3,), gap_norm='twice')),
    'pyramid as released': (
        PyramidVisionLLaMA,
        dict(
            PYRAMID,
            key_position='flat_index',
            mask_padding=False,
            norm_after_stage='in_trunk',
            rope_cfg=dict(scale='height', anchor_grid=(14, 14)),
        ),
    ),
    'pyramid, learnable embedding, PEG': (
        PyramidVisionLLaMA,
        dict(PYRAMID, peg=True, abs_pos_embed=True, rope_cfg=dict(ntk_alpha=2.0, ntk_keys='plain_base')),
    ),
    'pyramid, 1D positions': (PyramidVisionLLaMA, dict(PYRAMID, rope_cfg=dict(kind='1d', scale='per_axis'))),
}


def build(kind, **kwargs):
    torch.manual_seed(0)
    model = kind(**kwargs)
    for param in model.parameters():  # weights that make every difference show
        if param.ndim in (1, 3):
            torch.nn.init.normal_(param.data, 0.5, 0.3)
    return model.eval()


def pictures(sizes=SIZES, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


def padded(images, more=(5, 3), value=7.0):
    """One batch, padded right and bottom by more than its largest image needs; ``value`` must not matter."""
    height, width = (max(image.shape[axis] for image in images) + more[axis - 1] for axis in (1, 2))
    batch = images[0].new_full((len(images), 3, height, width), value)
    for row, image in zip(batch, images):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch


def run(model, *args, **kwargs):
    if isinstance(model, MAEVisionLLaMA):
        kwargs['mask'] = False
    return model(*args, **kwargs)


@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_an_image_in_a_batch_comes_out_as_it_does_alone(name):
    kind, kwargs = MODELS[name]
    model, images = build(kind, **kwargs), pictures()
    outs = run(model, padded(images), valid_sizes=SIZES)
    without = run(model, padded(images))
    changed = 0.0
    for n, image in enumerate(images):
        for out, other, alone in zip(outs, without, run(model, image[None])):
            out, other, alone = out[n], other[n], alone[0]
            if alone.ndim == 3:
                own = (slice(None), slice(alone.shape[1]), slice(alone.shape[2]))
                assert out.abs().sum() == pytest.approx(float(out[own].abs().sum())), 'zeros outside of the image'
                out, other = out[own], other[own]
            torch.testing.assert_close(out, alone, atol=1e-5, rtol=0)
            changed = max(changed, float((other - alone).abs().max()))
    assert changed > 1e-3, 'the padding matters where nobody gives the sizes'


DOUBLE = {
    **{name: MODELS[name] for name in ('iLLaMA', 'learnable embedding, PEG', 'pyramid, learnable embedding, PEG')},
    'temperature': (VisionLLaMA, dict(PLAIN, logit_scale='log_n')),
}


@pytest.mark.parametrize('name', DOUBLE)
@torch.no_grad()
def test_double_precision_is_double(name):
    """Padded and packed; nothing on the way is float32."""
    kind, kwargs = DOUBLE[name]
    model, images = build(kind, **kwargs).double(), [image.double() for image in pictures()]
    outs = model(padded(images).double(), valid_sizes=SIZES)
    packed = model.forward_packed(images) if name == 'temperature' else [None] * len(outs)
    for n, image in enumerate(images):
        for out, whole, alone in zip(outs, packed, model(image[None])):
            out, alone = out[n], alone[0]
            out = out[:, : alone.shape[1], : alone.shape[2]] if alone.ndim == 3 else out
            torch.testing.assert_close(out, alone, atol=1e-12, rtol=0)
            if whole is not None:
                torch.testing.assert_close(whole[n], alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize('name', ['maps', 'windows', 'iLLaMA', 'pyramid'])
@torch.no_grad()
def test_sizes_that_fill_the_batch_change_nothing(name):
    kind, kwargs = MODELS[name]
    model = build(kind, **kwargs)
    x = torch.stack(pictures([(30, 37)] * 2))
    for out, expected in zip(model(x, valid_sizes=[(30, 37)] * 2), model(x)):
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', ['class token', 'iLLaMA', 'pyramid, pooled'])
@torch.no_grad()
def test_padding_of_any_amount_leaves_the_logits_of_a_classifier(name):
    """A model for 32 pixels, its images padded to 36, 40 and 48."""
    kind, kwargs = MODELS[name]
    model, x = build(kind, **kwargs), torch.stack(pictures([(32, 32)] * 3))
    expected = model(x)[-1]
    for size in (36, 40, 48):
        batch = torch.nn.functional.pad(x, (0, size - 32, 0, size - 32))
        torch.testing.assert_close(model(batch, valid_sizes=[(32, 32)] * 3)[-1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', ['windows', 'iLLaMA', 'pyramid'])
def test_gradients_are_those_of_the_images_alone(name):
    """Also with activation checkpointing; the padding gets none."""
    kind, kwargs = MODELS[name]
    images, grads = pictures(), []
    for with_cp in (False, True):
        model = build(kind, **kwargs, with_cp=with_cp).train()
        batch = padded(images).requires_grad_()
        sum(out.pow(2).sum() for out in model(batch, valid_sizes=torch.tensor(SIZES))).backward()
        grads.append([param.grad for param in model.parameters()])
        for row, size in zip(batch.grad, SIZES):
            assert not row[:, size[0] :].any() and not row[:, :, size[1] :].any()
    model = build(kind, **kwargs).train()
    for image in images:
        sum(out.pow(2).sum() for out in model(image[None])).backward()
    for once, again, param in zip(*grads, model.parameters()):
        torch.testing.assert_close(once, again, atol=0, rtol=0)
        torch.testing.assert_close(once, param.grad, atol=1e-3, rtol=1e-3)


def test_means_of_many_tokens_in_half_precision():
    """4032 tokens of about 30 sum to twice what fp16 holds; bf16 has no 3969."""
    valid = ValidGrid(torch.tensor([[64, 63], [63, 63]]), (64, 64))
    x = torch.rand(2, 64 * 64, 8) + 30
    expected = torch.stack([x[0].view(64, 64, 8)[:, :63].mean((0, 1)), x[1].view(64, 64, 8)[:63, :63].mean((0, 1))])
    for dtype in (torch.float16, torch.bfloat16):
        mean = valid.mean(x.to(dtype))
        assert mean.dtype == dtype
        torch.testing.assert_close(mean, expected.to(dtype), atol=0, rtol=torch.finfo(dtype).eps)
    torch.testing.assert_close(valid.mean(x), expected)


def test_masking_refuses_padding():
    model = build(MAEVisionLLaMA, **PLAIN)
    with pytest.raises(ValueError, match='one size'):
        model(torch.rand(4, 3, 40, 40), valid_sizes=SIZES)


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [([(32, 32)], 'shape'), ([(32, 49)] * 4, 'does not fit'), ([(0, 3)] * 4, 'does not fit')],
)
def test_sizes_that_do_not_fit_are_named(sizes, message):
    model = build(*MODELS['pooled'][:1], **MODELS['pooled'][1])
    with pytest.raises(ValueError, match=message):
        model(torch.rand(4, 3, 40, 40), valid_sizes=sizes)


@pytest.mark.parametrize('name', ['class token', 'windows', 'iLLaMA', 'pyramid'])
@torch.no_grad()
def test_one_compiled_graph_serves_all_sizes(name):
    kind, kwargs = MODELS[name]
    model, graphs = build(kind, **kwargs), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    batch = padded(pictures())
    for sizes in (SIZES, [(45, 43), (1, 1), (8, 9), (30, 2)]):
        sizes = torch.tensor(sizes)
        for out, expected in zip(compiled(batch, valid_sizes=sizes), model(batch, valid_sizes=sizes)):
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    assert len(graphs) == 1


@pytest.mark.parametrize('name', ['class token', 'windows', 'iLLaMA', 'pyramid'])
@torch.no_grad()
def test_sizes_are_a_second_input_of_an_exported_graph(name):
    kind, kwargs = MODELS[name]
    model = build(kind, **kwargs)
    batch, sizes = padded(pictures()), torch.tensor(SIZES)
    graph = torch.export.export(model, (batch,), dict(valid_sizes=sizes)).module()
    other = torch.tensor([(45, 43), (1, 1), (8, 9), (30, 2)])
    for given in (sizes, other):
        for out, expected in zip(graph(batch, valid_sizes=given), model(batch, valid_sizes=given)):
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
