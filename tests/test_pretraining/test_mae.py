"""The MAE encoder against an attention over the whole image, and inside mmpretrain's MAE."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.engine.hooks import MAEReconstructionHook
from mmvisionllama.pretraining import MAEVisionLLaMA

TINY = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=48)


def rotate(vectors, positions):
    """Eq. 3, pair by pair: planes turn by x theta_0, y theta_0, x theta_1, ...; ``(N, d)`` and ``(N, 2)``."""
    out = vectors.clone()
    dim = vectors.shape[-1]
    for plane in range(dim // 2):
        theta = 10000 ** (-4 * (plane // 2) / dim)
        angle = positions[:, plane % 2] * theta
        a, b = vectors[:, 2 * plane], vectors[:, 2 * plane + 1]
        out[:, 2 * plane] = a * angle.cos() - b * angle.sin()
        out[:, 2 * plane + 1] = a * angle.sin() + b * angle.cos()
    return out


def masked_attention_encoder(model, image, visible):
    """All tokens of one image run through every block; nobody sees a hidden one. Returns the visible latents."""
    weights = {key: value.double() for key, value in model.state_dict().items()}
    patch = model.patch_embed.patch_size[0]
    x = F.conv2d(image[None].double(), weights['patch_embed.projection.weight'], stride=patch)
    rows, cols = x.shape[2:]
    x = x[0].flatten(1).T + weights['patch_embed.projection.bias']
    anchor_rows, anchor_cols = model.anchor_grid
    positions = [(j * anchor_cols / cols, i * anchor_rows / rows) for i in range(rows) for j in range(cols)]
    positions = torch.tensor(positions, dtype=torch.float64)
    bias = torch.zeros(len(x), dtype=torch.float64)
    bias[~visible] = -math.inf

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[f'{name}.weight'], weights[f'{name}.bias'], 1e-6)

    def linear(x, name):
        return F.linear(x, weights[f'{name}.weight'], weights.get(f'{name}.bias'))

    dim = model.embed_dims // model.num_heads
    for i in range(model.num_layers):
        name = f'layers.{i}'
        q, k, v = linear(norm(x, f'{name}.ln1'), f'{name}.attn.qkv').chunk(3, dim=-1)
        heads = []
        for h in range(model.num_heads):
            part = slice(h * dim, (h + 1) * dim)
            scores = rotate(q[:, part], positions) @ rotate(k[:, part], positions).T / dim**0.5 + bias
            heads.append(scores.softmax(dim=-1) @ v[:, part])
        x = x + linear(torch.cat(heads, dim=-1), f'{name}.attn.proj')
        hidden = norm(x, f'{name}.ln2')
        x = x + linear(
            F.silu(linear(hidden, f'{name}.ffn.gate')) * linear(hidden, f'{name}.ffn.up'), f'{name}.ffn.down'
        )
    return norm(x, 'ln1')


@pytest.mark.parametrize('size', [(64, 64), (48, 80)])
@torch.no_grad()
def test_latents_equal_an_attention_that_hides_the_masked_tokens(size):
    model = MAEVisionLLaMA(TINY, anchor=64).eval()
    for param in model.parameters():
        param.add_(torch.randn_like(param) * 0.1)
    images = torch.randn(2, 3, *size)
    noise = torch.rand(2, size[0] * size[1] // 256)
    latent, mask, ids_restore = model(images, noise=noise)
    order = noise.argsort(dim=1)
    for i, image in enumerate(images):
        expected = masked_attention_encoder(model, image, mask[i] == 0)
        kept = order[i, : latent.shape[1] - 1]
        assert set(kept.tolist()) == set((mask[i] == 0).nonzero().flatten().tolist())
        torch.testing.assert_close(latent[i, 1:].double(), expected[kept], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'ratio, tokens, kept', [(0.75, 16, 4), (0.75, 15, 3), (0.9, 100, 10), (0.6, 25, 10), (0.0, 4, 4)]
)
def test_number_of_visible_patches(ratio, tokens, kept):
    model = MAEVisionLLaMA(TINY, mask_ratio=ratio)
    noise = torch.rand(3, tokens)
    ids_keep, mask, ids_restore = model.random_masking(noise)
    assert ids_keep.shape == (3, kept) and mask.sum(1).tolist() == [tokens - kept] * 3
    assert torch.equal(mask.gather(1, ids_keep), torch.zeros(3, kept))
    # in the order visible, hidden, ids_restore brings every patch back to its place
    shuffled = noise.sort(dim=1).values
    assert torch.equal(shuffled.gather(1, ids_restore), noise)


@torch.no_grad()
def test_masks_follow_the_seed():
    model = MAEVisionLLaMA(TINY).eval()
    images = torch.randn(2, 3, 96, 96)

    def run(seed):
        torch.manual_seed(seed)
        return model(images)

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[1], other[1])
    assert not torch.equal(first[1][0], first[1][1]), 'every image has a mask of its own'


@pytest.mark.parametrize('size', [(32, 32), (224, 224), (50, 100), (16, 128)])
def test_any_image_size(size):
    model = MAEVisionLLaMA(TINY)
    rows, cols = -(-size[0] // 16), -(-size[1] // 16)
    latent, mask, ids_restore = model(torch.randn(2, 3, *size))
    assert latent.shape == (2, 1 + rows * cols // 4, 32) and mask.shape == ids_restore.shape == (2, rows * cols)
    assert model(torch.randn(1, 3, *size), mask=False)[0].shape == (1, rows * cols, 32)


@pytest.mark.parametrize('out_type', ['raw', 'featmap', 'avg_featmap'])
@torch.no_grad()
def test_without_a_mask_it_is_the_plain_backbone(out_type):
    settings = dict(arch=TINY, out_type=out_type, layer_scale_init_value=0.0)
    model = MAEVisionLLaMA(**settings, out_indices=(0, 1)).eval()
    plain = VisionLLaMA(**settings, out_indices=(0, 1), with_cls_token=False).eval()
    left = plain.load_state_dict(model.state_dict(), strict=False)
    assert left.missing_keys == [] and left.unexpected_keys == ['cls_token']
    images = torch.randn(2, 3, 64, 96)
    for mask in (False, None):
        for actual, expected in zip(model(images, mask=mask), plain(images)):
            assert torch.equal(actual, expected)


@torch.no_grad()
def test_the_decoders_token_passes_the_final_norm_only():
    model = MAEVisionLLaMA(TINY)
    latent = model(torch.randn(2, 3, 64, 64))[0]
    torch.testing.assert_close(latent[:, 0], model.ln1(model.cls_token)[0].expand(2, -1))


def test_state_holds_nothing_positional():
    keys = MAEVisionLLaMA(TINY).state_dict().keys()
    assert not [key for key in keys if 'pos' in key or 'rotary' in key or 'rope' in key]


def test_initial_values_are_mae_s():
    model = MAEVisionLLaMA(TINY)
    bound = (6 / (32 + 3 * 32)) ** 0.5
    assert 0.95 * bound < model.layers[0].attn.qkv.weight.abs().max() <= bound
    bound = (6 / (32 + 3 * 256)) ** 0.5
    assert 0.95 * bound < model.patch_embed.projection.weight.abs().max() <= bound
    assert 0.01 < model.cls_token.std() < 0.03


@pytest.mark.parametrize('arch, hidden, params', [('base-wide', 8192, 255_676_416), ('large-wide', 11008, 913_801_216)])
def test_wide_architectures_have_the_released_size(arch, hidden, params):
    with torch.device('meta'):
        model = MAEVisionLLaMA(arch)
    assert model.layers[0].ffn.gate.weight.shape[0] == hidden and model.layers[0].ffn.down.bias is not None
    assert sum(p.numel() for p in model.parameters()) == params
    # the release counts its unused position embedding of 197 rows too: 255.8 and 914.0 M
    assert round((params + 197 * model.embed_dims) / 1e6, 1) == {'base-wide': 255.8, 'large-wide': 914.0}[arch]


def test_paper_s_architectures_have_vit_s_size():
    with torch.device('meta'):
        sizes = [sum(p.numel() for p in MAEVisionLLaMA(arch).parameters()) for arch in ('base', 'large')]
    assert sizes == [85_601_280, 309_268_480]


def test_compiles_to_one_graph():
    model = MAEVisionLLaMA(TINY)
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for actual, expected in zip(compiled(images, noise=noise), model(images, noise=noise)):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_trains_in_mmpretrain_s_mae():
    pytest.importorskip('mmpretrain')
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='MAE',
            backbone=dict(type='MAEVisionLLaMA', arch=TINY, mask_ratio=0.75),
            neck=dict(
                type='MAEPretrainDecoder',
                num_patches=16,
                embed_dim=32,
                decoder_embed_dim=32,
                decoder_depth=1,
                decoder_num_heads=2,
            ),
            head=dict(
                type='MAEPretrainHead',
                norm_pix=True,
                patch_size=16,
                loss=dict(type='PixelReconstructionLoss', criterion='L2'),
            ),
        )
    )
    images = torch.randn(2, 3, 64, 64)
    model(images, mode='loss')['loss'].backward()
    without = [key for key, param in model.named_parameters() if param.requires_grad and param.grad is None]
    assert without == []
    assert model(images)[0].shape == (2, 16, 32), 'features of the whole image'


def test_latents_under_autocast():
    model = MAEVisionLLaMA(TINY)
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    expected = model(images, noise=noise)
    with torch.autocast('cpu', torch.bfloat16):
        latent, mask, ids_restore = model(images, noise=noise)
    assert torch.equal(mask, expected[1]) and torch.equal(ids_restore, expected[2])
    torch.testing.assert_close(latent.float(), expected[0], rtol=0.05, atol=0.05)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r'mask_ratio must be in \[0, 1\)'):
        MAEVisionLLaMA(TINY, mask_ratio=1.0)
    for option in (dict(window_block_indexes=(0,)), dict(peg=True), dict(with_cls_token=True)):
        with pytest.raises(ValueError, match=f'leave {next(iter(option))} out'):
            MAEVisionLLaMA(TINY, **option)
    with pytest.raises(ValueError, match='cls_token'):
        MAEVisionLLaMA(TINY, out_type='cls_token')
    with pytest.raises(ValueError, match='hides all 2 patches'):
        MAEVisionLLaMA(TINY)(torch.randn(1, 3, 16, 32))
    with pytest.raises(ValueError, match=r'noise must be of shape \(1, 4\)'):
        MAEVisionLLaMA(TINY)(torch.randn(1, 3, 32, 32), noise=torch.rand(1, 5))


def test_noise_of_packed_images_has_a_number_for_each_patch():
    model = MAEVisionLLaMA(dict(embed_dims=16, num_layers=1, num_heads=2), img_size=64, anchor=64).eval()
    images = [torch.randn(3, 64, 64), torch.randn(3, 32, 64)]
    noise = [torch.rand(16), torch.rand(8)]
    assert [len(mask) for _, mask, _ in model.forward_packed(images, True, noise)] == [16, 8]
    with pytest.raises(ValueError, match='one entry for each of 2 images, got 1'):
        model.forward_packed(images, True, noise[:1])
    with pytest.raises(ValueError, match='one number per patch, 16 here, got 8'):
        model.forward_packed(images, True, [torch.rand(8), torch.rand(8)])


def test_the_decoders_token_is_no_embedding():
    """For layer-wise decay and freezing it belongs to the norm behind the blocks."""
    arch = dict(embed_dims=16, num_layers=2, num_heads=2)
    for frozen, moves in ((0, True), (1, True), (2, False)):
        model = MAEVisionLLaMA(arch, frozen_stages=frozen)
        assert model.cls_token.requires_grad == model.ln1.weight.requires_grad == moves
    assert model.get_layer_depth('backbone.cls_token', 'backbone.') == (3, 4)
    assert model.get_layer_depth('cls_token') == model.get_layer_depth('ln1.weight') == (3, 4)
    assert model.get_layer_depth('layers.0.ln1.weight') == (1, 4)


def test_pictures_by_iteration(monkeypatch):
    hook, steps = MAEReconstructionHook(interval=2, by_epoch=False), []
    monkeypatch.setattr(hook, 'write', lambda runner, step: steps.append(step))
    for i in range(5):
        hook.after_train_iter(SimpleNamespace(iter=i, max_iters=5), i)
    hook.after_train_epoch(SimpleNamespace(epoch=1, max_epochs=2))
    assert steps == [2, 4, 5]
