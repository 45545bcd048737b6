"""iLLaMA: sizes, causality, the soft mask, positions at other resolutions and the steps of its design."""

import copy
import math

import pytest
import torch
from torch import nn

from mmvisionllama.backbones import iLLaMA
from mmvisionllama.layers import RMSNorm, attend, soft_mask_matrix

TINY = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=48)


def tiny(**kwargs):
    """A model with weights large enough that positions and masks matter."""
    model = iLLaMA(TINY, **dict(dict(img_size=64, anchor=64), **kwargs)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, param in model.named_parameters():
        if param.ndim > 1:
            std = 0.3 if 'embed' in name or 'token' in name else 1.4 / math.sqrt(param.shape[-1])
            param.data = torch.randn(param.shape, generator=generator) * std
        elif name.endswith('bias'):
            param.data = torch.randn(param.shape, generator=generator) * 0.05
    return model


@pytest.mark.parametrize(
    'arch, size, params',
    [
        ('tiny', 224, 5_701_096),
        ('t', 384, 5_774_056),
        ('small', 224, 22_018_024),
        ('base', 224, 86_502_376),
        ('base', 384, 86_794_216),
        ('large', 224, 310_445_032),
        ('L', 384, 310_834_152),
    ],
)
def test_parameter_counts_with_a_1000_class_head(arch, size, params):
    with torch.device('meta'):
        model = iLLaMA(arch, img_size=size)
        head = nn.Linear(model.embed_dims, 1000)
    assert sum(p.numel() for part in (model, head) for p in part.parameters()) == params


@pytest.mark.parametrize('arch, gmacs', [('tiny', 1.25), ('small', 4.60)])
def test_multiply_adds_at_224(arch, gmacs):
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device('meta'):
        model = iLLaMA(arch).eval()
        head = nn.Linear(model.embed_dims, 1000)
        with FlopCounterMode(display=False) as counter:
            head(model(torch.empty(1, 3, 224, 224))[0])
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.01)


# ---- an independent slow version in float64, written from equations 1 and 2


def slow_tokens(model, image, alpha, mask_mode):
    """Tokens before the final norm, with loops over heads and tokens."""
    w = {k: v.double() for k, v in model.state_dict().items()}
    image = image.double()
    p = model.patch_embed.patch_size[0]
    rows, cols = image.shape[2] // p, image.shape[3] // p
    tokens = []
    for i in range(rows):
        for j in range(cols):
            patch = image[:, :, i * p : (i + 1) * p, j * p : (j + 1) * p].flatten(1)
            tokens.append(patch @ w['patch_embed.projection.weight'].flatten(1).T + w['patch_embed.projection.bias'])
    tokens.append(w['cls_token'][0].expand(image.shape[0], -1))
    x = torch.stack(tokens, dim=1) + w['pos_embed']
    n, heads = x.shape[1], model.num_heads
    d = model.embed_dims // heads

    def rms(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def rotate(x, position):
        out = x.clone()
        for k in range(d // 2):
            angle = position * 10000 ** (-2 * k / d)
            a, b = x[..., 2 * k], x[..., 2 * k + 1]
            out[..., 2 * k] = a * math.cos(angle) - b * math.sin(angle)
            out[..., 2 * k + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    for i in range(model.num_layers):
        b = f'layers.{i}.'
        qkv = rms(x, w[b + 'ln1.weight']) @ w[b + 'attn.qkv.weight'].T + w[b + 'attn.qkv.bias']
        q, k, v = qkv.split(model.embed_dims, dim=-1)
        out = torch.zeros_like(x)
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            keys = [rotate(k[:, m, part], m) for m in range(n)]
            for t in range(n):
                query = rotate(q[:, t, part], t)
                scores = torch.stack([(query * key).sum(-1) for key in keys], dim=-1) / math.sqrt(d)
                s = torch.tensor([1.0 if m <= t else alpha for m in range(n)], dtype=torch.float64)
                if mask_mode == 'multiplicative':
                    weights = scores.softmax(-1) * s
                else:
                    weights = scores.exp() * s
                    weights = weights / weights.sum(-1, keepdim=True)
                out[:, t, part] = sum(weights[:, m, None] * v[:, m, part] for m in range(n))
        x = x + out @ w[b + 'attn.proj.weight'].T + w[b + 'attn.proj.bias']
        hidden = rms(x, w[b + 'ln2.weight'])
        gate = hidden @ w[b + 'ffn.gate.weight'].T
        x = x + (gate * torch.sigmoid(gate) * (hidden @ w[b + 'ffn.up.weight'].T)) @ w[b + 'ffn.down.weight'].T
    return x


@pytest.mark.parametrize('mask_mode', ['additive', 'multiplicative'])
@pytest.mark.parametrize('alpha', [0, 0.25, 1])
@torch.no_grad()
def test_tokens_equal_a_float64_evaluation_of_the_equations(mask_mode, alpha):
    model = tiny(out_type='raw', final_norm=False, mask_mode=mask_mode, soft_mask=alpha)
    image = torch.randn(2, 3, 64, 64)
    expected = slow_tokens(model, image, alpha, mask_mode)
    torch.testing.assert_close(model(image)[0].double(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_double_precision_throughout():
    model = tiny(out_type='raw', final_norm=False).double()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(model(image)[0], slow_tokens(model, image, 0, 'additive'), rtol=1e-9, atol=1e-9)


# ---- causality


def change_last_patch(image):
    changed = image.clone()
    changed[:, :, -16:, -16:] += 1
    return changed


@torch.no_grad()
def test_additive_causal_mode_hides_later_patches_from_earlier_tokens():
    model = tiny(out_type='raw')
    image = torch.randn(1, 3, 64, 64)
    before, after = model(image)[0], model(change_last_patch(image))[0]
    assert torch.equal(before[:, :15], after[:, :15])
    assert not torch.allclose(before[:, 15:], after[:, 15:], atol=1e-3)  # the last patch and the class token


@torch.no_grad()
def test_the_released_mode_and_a_soft_mask_let_them_through():
    image = torch.randn(1, 3, 64, 64)
    for kwargs in (dict(mask_mode='multiplicative'), dict(soft_mask=0.5), dict(mask_mode='none')):
        model = tiny(out_type='raw', **kwargs)
        before, after = model(image)[0], model(change_last_patch(image))[0]
        assert (before[:, :15] - after[:, :15]).abs().max() > 1e-4, kwargs


@torch.no_grad()
def test_the_causal_kernel_equals_an_explicit_additive_mask():
    q, k, v = (torch.randn(2, 3, 17, 8) for _ in range(3))
    explicit = torch.full((17, 17), -math.inf).triu(1)
    fast = attend(q, k, v, is_causal=True)
    torch.testing.assert_close(fast, attend(q, k, v, mask=explicit), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fast, attend(q, k, v, mask=explicit, backend='eager'), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(soft_mask_matrix(17, torch.tensor(0.0)).log(), explicit)


@torch.no_grad()
def test_a_fully_causal_model_uses_the_causal_kernel(monkeypatch):
    calls = []

    def spy(q, k, v, attn_mask=None, is_causal=False, **kwargs):
        calls.append((attn_mask, is_causal))
        return torch.zeros_like(q)

    model = tiny()
    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', spy)
    image = torch.rand(1, 3, 64, 64)
    model(image)
    assert calls == [(None, True)] * 2
    calls.clear()
    model.set_soft_mask(1)
    model(image)
    assert calls == [(None, False)] * 2
    calls.clear()
    model.set_soft_mask(0.5)
    model(image)
    assert calls[0][0].shape == (17, 17) and not calls[0][1]


@torch.no_grad()
def test_with_the_class_token_first_a_causal_model_sees_no_image():
    collapsed = tiny(cls_token_position='first')
    images = torch.randn(2, 3, 64, 64)
    out = collapsed(images)[0]
    assert torch.equal(out[0], out[1])
    assert not torch.allclose(*tiny()(images)[0])
    assert not torch.allclose(*tiny(cls_token_position='first', mask_mode='none')(images)[0])


# ---- the soft mask is a setting of the model


def test_the_soft_mask_is_checked_and_is_no_weight():
    model = tiny(soft_mask=0.25)
    assert model.soft_mask == 0.25
    assert 'alpha' not in model.state_dict()
    for wrong in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match='must be in 0'):
            model.set_soft_mask(wrong)
    assert model.soft_mask == 0.25
    assert copy.deepcopy(model).soft_mask == 0.25


def test_gradients_reach_every_parameter_under_a_soft_mask():
    model = tiny(soft_mask=0.3, with_cp=True).train()
    model(torch.rand(2, 3, 64, 64))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_compiles_once_for_all_values_of_a_schedule():
    model = tiny(soft_mask=0.9)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for alpha in (0.9, 0.5, 0.1, 0):
            model.set_soft_mask(alpha)
            torch.testing.assert_close(compiled(image)[0], model(image)[0])
    assert len(graphs) == 2  # soft and fully causal


# ---- positions at other resolutions


def test_rotary_positions_span_the_anchors_sequence():
    model = tiny()
    assert model.rotary_positions((4, 4)).flatten().tolist() == list(range(17))
    larger = model.rotary_positions((8, 8)).flatten()
    assert larger[:3].tolist() == [0, 0.25, 0.5] and larger[-2:].tolist() == [15.75, 16]
    released = tiny(rope_scale='none').rotary_positions((8, 8)).flatten()
    assert released.tolist() == list(range(65))
    first = tiny(cls_token_position='first').rotary_positions((4, 4)).flatten()
    assert first.tolist() == list(range(17))


@torch.no_grad()
def test_the_position_embedding_is_interpolated_and_keeps_the_class_tokens_row():
    model = tiny()
    resized = model.resized_pos_embed(model.pos_embed, (4, 4), (6, 8))
    assert resized.shape == (1, 49, 32)
    assert torch.equal(resized[:, -1], model.pos_embed[:, -1])
    maps = model.pos_embed[:, :-1].transpose(1, 2).reshape(1, 32, 4, 4)
    expected = nn.functional.interpolate(maps, size=(6, 8), mode='bicubic', align_corners=False)
    torch.testing.assert_close(resized[:, :-1], expected.flatten(2).transpose(1, 2))
    assert model(torch.rand(2, 3, 96, 128))[0].shape == (2, 32)


@torch.no_grad()
def test_weights_of_another_size_are_resampled_when_loaded(tmp_path):
    small = tiny()
    large = iLLaMA(TINY, img_size=96, anchor=64).eval()
    large.load_state_dict(small.state_dict())
    image = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(large(image), small(image))
    path = str(tmp_path / 'classifier.pth')
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in small.state_dict().items()}}, path)
    cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    large = iLLaMA(TINY, img_size=(96, 64), anchor=64, init_cfg=cfg).eval()
    large.init_weights()
    torch.testing.assert_close(large(image), small(image), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match='img_size'):
        small.load_state_dict(iLLaMA(TINY, img_size=(32, 48)).state_dict())
    large.load_state_dict(iLLaMA(TINY, img_size=(16, 64)).state_dict())  # 1 x 4 patches are taken for 2 x 2


# ---- the steps of the design and the outputs


@pytest.mark.parametrize(
    'step',
    [
        dict(
            ffn_cfg=dict(type='gelu'),
            norm_cfg=dict(type='LN', eps=1e-6),
            mask_mode='none',
            cls_token_position='first',
            with_rope=False,
        ),
        dict(norm_cfg=dict(type='LN', eps=1e-6), mask_mode='none', cls_token_position='first', with_rope=False),
        dict(mask_mode='none', cls_token_position='first', with_rope=False),
        dict(cls_token_position='first', with_rope=False),
        dict(with_rope=False),
        dict(abs_pos_embed=False),
        dict(),
    ],
)
def test_every_step_of_the_design_trains(step):
    model = iLLaMA(dict(embed_dims=16, num_layers=1, num_heads=2), img_size=32, **step)
    is_vit = step.get('ffn_cfg') is not None
    assert type(model.layers[0].ffn).__name__ == ('GELUFFN' if is_vit else 'SwiGLU')
    assert model.layers[0].ffn.up.out_features == (64 if is_vit else 256)
    assert (model.rotary is None) == (step.get('with_rope') is False)
    assert (model.pos_embed is None) == (step.get('abs_pos_embed') is False)
    norm = nn.LayerNorm if 'norm_cfg' in step else RMSNorm
    assert {type(m) for m in (model.layers[0].ln1, model.layers[0].ln2, model.ln1)} == {norm}
    model(torch.rand(2, 3, 32, 32))[0].square().sum().backward()
    unused = {name for name, param in model.named_parameters() if param.grad is None or not param.grad.any()}
    if step.get('cls_token_position') == 'first' and 'mask_mode' not in step:  # collapsed: blind to every patch
        assert 'patch_embed.projection.weight' in unused
    else:
        assert not unused


@torch.no_grad()
def test_the_first_step_of_the_design_is_mmpretrain_s_vit():
    """The road starts at a ViT: the same weights give the same features."""
    vit = pytest.importorskip('mmpretrain.models').VisionTransformer
    arch = dict(TINY, feedforward_channels=128)
    theirs = vit(arch, img_size=64, out_type='cls_token')
    theirs.eval()  # its train() returns nothing
    ours = iLLaMA(
        arch,
        img_size=64,
        ffn_cfg=dict(type='gelu'),
        norm_cfg=dict(type='LN', eps=1e-6),
        mask_mode='none',
        cls_token_position='first',
        with_rope=False,
    ).eval()
    for param in theirs.parameters():
        param.copy_(torch.randn_like(param) * 0.2)
    renamed = {
        key.replace('ffn.layers.0.0.', 'ffn.up.').replace('ffn.layers.1.', 'ffn.down.'): value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(renamed)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(image)[0], theirs(image)[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_any_position_a_bidirectional_model_ignores_the_order_of_patches():
    image = torch.rand(1, 3, 64, 64)
    flipped = image.unflatten(3, (4, 16)).flip(3).flatten(3)  # columns of patches swapped
    model = tiny(mask_mode='none', with_rope=False, abs_pos_embed=False)
    torch.testing.assert_close(model(image), model(flipped), rtol=1e-4, atol=1e-4)
    ordered = tiny(mask_mode='none', abs_pos_embed=False)
    assert not torch.allclose(ordered(image)[0], ordered(flipped)[0], atol=1e-3)


@pytest.mark.parametrize('position', ['last', 'first'])
@torch.no_grad()
def test_out_types(position):
    image = torch.rand(2, 3, 64, 96)
    kwargs = dict(cls_token_position=position, out_indices=(0, 1))
    raw = tiny(out_type='raw', **kwargs)(image)
    maps = tiny(out_type='featmap', **kwargs)(image)
    token = tiny(**kwargs)(image)
    assert [x.shape for x in maps] == [(2, 32, 4, 6)] * 2
    at = -1 if position == 'last' else 0
    patches = raw[1][:, :-1] if position == 'last' else raw[1][:, 1:]
    assert torch.equal(token[1], raw[1][:, at])
    assert torch.equal(maps[1].flatten(2).transpose(1, 2), patches)
    assert tiny(out_type='avg_featmap', with_cls_token=False)(image)[0].shape == (2, 32)


def test_half_precision_runs_in_every_mask_mode():
    image = torch.rand(1, 3, 64, 64)
    for mode in ('additive', 'multiplicative'):
        for alpha in (0, 0.4):
            model = tiny(mask_mode=mode, soft_mask=alpha)
            expected = model(image)[0]
            with torch.autocast('cpu', torch.bfloat16):
                out = model(image)[0]
            torch.testing.assert_close(out.float(), expected, rtol=0.2, atol=0.2)
            half = copy.deepcopy(model).bfloat16()(image.bfloat16())[0]
            torch.testing.assert_close(half.float(), expected, rtol=0.2, atol=0.2)


def test_layer_depths_and_freezing():
    model = tiny(frozen_stages=1)
    depths = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.')[0] for name, _ in model.named_parameters()}
    assert depths['cls_token'] == depths['pos_embed'] == depths['patch_embed.projection.weight'] == 0
    assert depths['layers.1.attn.qkv.weight'] == 2 and depths['ln1.weight'] == 3
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert 'pos_embed' in frozen and 'layers.0.ln1.weight' in frozen and 'layers.1.ln1.weight' not in frozen


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='huge'), 'tiny, small, base, large'),
        (dict(cls_token_position='middle'), "'last', 'first'"),
        (dict(mask_mode='causal'), "'additive', 'multiplicative', 'none'"),
        (dict(rope_scale='per_axis'), "'sequence', 'none'"),
        (dict(soft_mask=2), 'must be in 0'),
        (dict(with_cls_token=False), 'needs with_cls_token'),
        (dict(out_indices=2), 'out of range'),
        (dict(frozen_stages=3), 'frozen_stages'),
        (dict(arch=dict(embed_dims=32, num_heads=2)), 'lacks num_layers'),
        (dict(arch=dict(embed_dims=30, num_layers=1, num_heads=4)), 'does not divide'),
    ],
)
def test_bad_arguments_say_what_is_allowed(kwargs, message):
    with pytest.raises(ValueError, match=message):
        iLLaMA(**dict(dict(arch=TINY), **kwargs))


def test_it_is_registered_in_the_root_registry():
    from mmengine.registry import MODELS

    assert MODELS.get('iLLaMA') is iLLaMA
