"""Pyramid VisionLLaMA: sizes, any input, outputs, released switches, freezing, compilation."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmvisionllama.backbones import PyramidVisionLLaMA

TINY = dict(embed_dims=(8, 8, 16, 16), depths=(2, 2, 3, 2), num_heads=(1, 1, 2, 2), feedforward_channels=(16,) * 4)


def tiny(**options):
    return PyramidVisionLLaMA(**{'arch': TINY, 'layer_scale_init_value': 0.5, **options}).eval()


def stirred(model, std=0.3):
    """The model with large random weights, so that every branch matters."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=std)
    return model


# size


@pytest.mark.parametrize(
    ('arch', 'params', 'gmacs'),
    [('small', 25_903_976, 3.31), ('base', 56_029_480, 8.56), ('large', 104_721_128, 16.57)],
)
def test_parameters_and_macs(arch, params, gmacs):
    with torch.device('meta'):
        model = PyramidVisionLLaMA(arch, out_type='avg_featmap')
        head = nn.Linear(model.embed_dims[-1], 1000)
        with FlopCounterMode(display=False) as counter:
            head(model(torch.empty(1, 3, 224, 224))[0])
    assert sum(p.numel() for module in (model, head) for p in module.parameters()) == params
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.01)


def test_layout():
    with torch.device('meta'):
        model = PyramidVisionLLaMA('s', drop_path_rate=0.17)
    kinds = [type(block.attn).__name__ for stage in model.stages for block in stage]
    assert kinds == ['WindowAttention', 'GlobalSubsampledAttention'] * 9
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.01 * i for i in range(18)])
    eps = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    assert eps == {1e-5}
    assert [c.anchor for c in model.calibrations] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    assert [c.sr_ratio for c in model.calibrations] == [8, 4, 2, 1]


# positions


def test_scaling_is_the_identity_at_the_anchor():
    x = torch.randn(1, 3, 64, 64)
    torch.manual_seed(1)
    model = stirred(tiny(anchor=64))
    plain = tiny(anchor=64, rope_cfg=dict(scale='none'))
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x)[0], plain(x)[0])
    x = torch.randn(1, 3, 96, 64)
    assert (model(x)[0] - plain(x)[0]).abs().max() > 1e-3


def test_no_state_and_no_cache():
    model = stirred(tiny())
    x, y = torch.randn(1, 3, 64, 128), torch.randn(1, 3, 128, 64)
    before = model(x)[0]
    model(y)
    assert torch.equal(model(x)[0], before)
    other = tiny(img_size=512, anchor=512)
    other.load_state_dict(model.state_dict())  # nothing depends on a size
    assert not [name for name, _ in model.named_buffers()]


@pytest.mark.parametrize(
    'rope_cfg',
    [
        dict(kind='1d'),
        dict(ntk_alpha=2),
        dict(scale='none'),
        dict(scale='height', anchor_grid=(14, 14)),
        dict(base=100),
    ],
)
def test_rope_variants_share_the_weights(rope_cfg):
    model, x = stirred(tiny()), torch.randn(1, 3, 96, 64)
    variant = tiny(rope_cfg=rope_cfg)
    variant.load_state_dict(model.state_dict())
    assert (variant(x)[0] - model(x)[0]).abs().max() > 1e-3


def test_ntk_leaves_windows_alone():
    model = tiny(rope_cfg=dict(ntk_alpha=5, base=100))
    local = model.context(0, 0, (14, 14))
    expected = tiny(rope_cfg=dict(base=100)).context(0, 0, (28, 28))
    assert torch.equal(local.rope.cos, expected.rope.cos)


# inputs and outputs


@pytest.mark.parametrize('size', [(64, 64), (33, 70), (30, 130), (224, 7)])
def test_any_size(size):
    model = tiny(out_indices=(0, 1, 2, 3))
    outs = model(torch.randn(2, 3, *size))
    grid = size
    for out, dims, patch in zip(outs, TINY['embed_dims'], (4, 2, 2, 2)):
        grid = tuple(-(-side // patch) for side in grid)
        assert out.shape == (2, dims, *grid)
        assert out.isfinite().all() and out.is_contiguous()


def test_samples_do_not_mix():
    model, x = stirred(tiny()), torch.randn(3, 3, 65, 50)
    torch.testing.assert_close(model(x)[0][1:2], model(x[1:2])[0], rtol=1e-4, atol=1e-5)


def test_out_types_and_norms():
    model, x = stirred(tiny(out_indices=(1, -1), norm_after_stage=True)), torch.randn(1, 3, 64, 64)
    maps = model(x)
    assert [type(norm).__name__ for norm in model.norms] == ['Identity', 'LayerNorm', 'Identity', 'LayerNorm']
    for out in maps:  # fresh norms leave tokens of zero mean and unit variance
        torch.testing.assert_close(out.mean(dim=1), torch.zeros_like(out[:, 0]), rtol=0, atol=1e-5)
    weights = model.state_dict()
    for out_type in ('raw', 'avg_featmap'):
        other = tiny(out_indices=(1, 3), out_type=out_type)
        other.load_state_dict(weights)
        for out, expected in zip(other(x), maps):
            tokens = expected.flatten(2).mT
            torch.testing.assert_close(out, tokens if out_type == 'raw' else tokens.mean(dim=1))


def test_output_norms_leave_the_trunk_alone():
    x = torch.randn(1, 3, 64, 64)
    bare = stirred(tiny(out_indices=(0, 1, 2, 3), norm_after_stage=False))
    normed = tiny(out_indices=(0, 1, 2, 3), norm_after_stage=[True, False, True, True])
    flowing = tiny(out_indices=(0, 1, 2, 3), norm_after_stage='in_trunk')
    assert normed.load_state_dict(bare.state_dict(), strict=False).unexpected_keys == []
    flowing.load_state_dict(bare.state_dict(), strict=False)
    outs, normed_outs, flowing_outs = bare(x), normed(x), flowing(x)
    norm = nn.functional.layer_norm
    for s, (a, b, c) in enumerate(zip(outs, normed_outs, flowing_outs)):
        after = norm(a.flatten(2).mT, a.shape[1:2]).mT.view_as(a)
        torch.testing.assert_close(b, a if s == 1 else after, rtol=1e-4, atol=1e-4)
        assert (s == 0) == torch.allclose(c, after, atol=1e-3)  # later stages see the normed map


def test_released_mean_goes_through_the_norm_again():
    x = torch.randn(2, 3, 64, 64)
    once = stirred(tiny(out_type='avg_featmap'))
    twice = tiny(out_type='avg_featmap', gap_norm='twice')
    twice.load_state_dict(once.state_dict())
    torch.testing.assert_close(twice(x)[0], once.norms[3](once(x)[0]))


def test_image_padding_stays_outside():
    """Masked padding: what is right of and below the image inside partial windows has no say.

    On a 9 x 9 map with windows of 7 the first block's output must not change when its padded keys would get large.
    """
    model = stirred(tiny(arch={**TINY, 'depths': (1, 1, 1, 1)}, out_indices=0, norm_after_stage=False))
    released = tiny(arch={**TINY, 'depths': (1, 1, 1, 1)}, out_indices=0, norm_after_stage=False, mask_padding=False)
    released.load_state_dict(model.state_dict())
    whole, partial = torch.randn(1, 3, 56, 56), torch.randn(1, 3, 36, 36)
    assert torch.equal(model(whole)[0], released(whole)[0])
    assert not torch.allclose(model(partial)[0], released(partial)[0], atol=1e-3)
    # a window that lies whole inside the image sees the same in both
    torch.testing.assert_close(model(partial)[0][..., :7, :7], released(partial)[0][..., :7, :7])


# training


def test_gradients_and_checkpointing():
    x = torch.randn(2, 3, 40, 52)
    model = stirred(tiny(out_indices=(0, 1, 2, 3))).train()
    recomputed = tiny(out_indices=(0, 1, 2, 3), with_cp=True).train()
    recomputed.load_state_dict(model.state_dict())
    for m in (model, recomputed):
        sum(out.square().sum() for out in m(x)).backward()
    for (name, a), b in zip(model.named_parameters(), recomputed.parameters()):
        assert a.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_frozen_stages(frozen_stages):
    model = tiny(frozen_stages=frozen_stages, out_indices=(0, 1, 2, 3), peg=True, abs_pos_embed=True, img_size=64)
    model.train()
    assert model(torch.randn(1, 3, 64, 64))[-1].requires_grad == (frozen_stages < 4)
    for name, parameter in model.named_parameters():
        part, *rest = name.split('.')
        stage = int(rest[0]) if rest else 0
        first = part == 'pos_embed' or name.startswith('patch_embeds.0.')
        assert parameter.requires_grad == (not (stage < frozen_stages or (first and frozen_stages >= 0))), name
    assert [stage.training for stage in model.stages] == [s >= frozen_stages for s in range(4)]
    with pytest.raises(ValueError, match='frozen_stages'):
        tiny(frozen_stages=5)


def test_layer_depth():
    model = tiny(peg=True, abs_pos_embed=True, img_size=64)
    depths = {name: model.get_layer_depth('backbone.' + name, 'backbone.') for name in model.state_dict()}
    assert {total for _, total in depths.values()} == {sum(TINY['depths']) + 2}
    assert depths['pos_embed'][0] == depths['patch_embeds.0.norm.weight'][0] == 0
    assert depths['stages.0.0.attn.qkv.weight'][0] == depths['pegs.0.conv.bias'][0] == 1
    assert depths['stages.2.1.ffn.up.weight'][0] == 6
    assert depths['patch_embeds.2.projection.weight'][0] == depths['stages.2.0.ln1.weight'][0] == 5
    assert depths['norms.3.weight'][0] == 10
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (10, 11)


def test_bfloat16():
    model, x = stirred(tiny(), std=0.1), torch.randn(1, 3, 70, 70)
    expected = model(x)[0]
    with torch.autocast('cpu', torch.bfloat16):
        out = model(x)[0]
    assert (out - expected).abs().mean() < 0.05
    assert model.bfloat16()(x.bfloat16())[0].dtype == torch.bfloat16


def test_double():
    model, x = stirred(tiny()), torch.randn(1, 3, 70, 70)
    expected = model(x)[0]
    out = model.double()(x.double())[0]
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), expected, rtol=1e-3, atol=1e-4)


def test_distributed_steps_use_every_parameter(tmp_path):
    from torch import distributed

    distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(tiny().train())
        for _ in range(2):  # the second step fails if the first left a gradient out
            model(torch.randn(1, 3, 45, 64))[0].square().sum().backward()
    finally:
        distributed.destroy_process_group()


def test_compiles_whole():
    arch = dict(embed_dims=(8, 8), depths=(2, 2), num_heads=(1, 1), feedforward_channels=(16, 16), sr_ratios=(2, 1))
    model, x = stirred(tiny(arch=arch, out_indices=(0, 1))), torch.randn(1, 3, 40, 36)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for out, expected in zip(compiled(x), model(x)):
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


# options


def test_absolute_embedding_and_peg():
    x = torch.randn(1, 3, 64, 96)
    model = tiny(abs_pos_embed=True, peg=True, img_size=64, out_indices=(0, 1, 2, 3))
    assert model.pos_embed.shape == (1, 256, 8) and len(model.pegs) == 4
    before = model(x)[0]
    with torch.no_grad():
        model.pos_embed[:, 0] += 1
    assert not torch.equal(model(x)[0], before)
    larger = tiny(abs_pos_embed=True, peg=True, img_size=128, out_indices=(0, 1, 2, 3))
    larger.load_state_dict(model.state_dict())  # resized on loading
    assert larger.pos_embed.shape == (1, 1024, 8)


def test_gelu_and_layer_scale():
    model = PyramidVisionLLaMA(TINY, ffn_cfg=dict(type='gelu'), layer_scale_init_value=0)
    assert type(model.stages[0][0].ffn).__name__ == 'GELUFFN' and not model.stages[0][0].ls1.state_dict()
    default = PyramidVisionLLaMA(TINY)
    assert default.stages[3][1].ls2.weight.eq(1e-4).all()


def test_builds_inside_mmpretrain():
    pytest.importorskip('mmpretrain')
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='PyramidVisionLLaMA', arch=TINY, img_size=64),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=16),
        )
    )
    assert model(torch.randn(2, 3, 64, 64), mode='tensor').shape == (2, 3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='huge'), 'small, base, large'),
        (dict(arch=dict(embed_dims=(8, 8))), 'lacks depths, num_heads'),
        (dict(arch=dict(TINY, num_heads=(1, 1))), 'num_heads has 2 values for 4 stages'),
        (dict(arch=dict(TINY, mlp_ratios=(4,) * 4)), 'does not know mlp_ratios'),
        (dict(arch=dict(TINY, num_heads=(3, 1, 1, 1))), 'does not divide'),
        (dict(out_indices=4), 'out of range'),
        (dict(out_type='cls_token'), 'unknown out_type'),
        (dict(gap_norm='thrice'), 'unknown gap_norm'),
        (dict(gap_norm='twice'), "needs out_type='avg_featmap'"),
        (dict(norm_after_stage='flow'), 'norm_after_stage must be'),
        (dict(norm_after_stage=[True]), "'in_trunk' or 4 booleans"),
        (dict(mask_padding='zeros'), 'unknown mask_padding'),
        (dict(key_position='full'), 'unknown key_position'),
        (dict(rope_cfg=dict(ratio=0.3)), 'multiple of 4'),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        PyramidVisionLLaMA(**{'arch': TINY, **options})


def test_wrong_image_shape():
    with pytest.raises(ValueError, match=r'expected images of shape'):
        tiny()(torch.randn(1, 4, 64, 64))
