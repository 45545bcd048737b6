"""The windowed backbone (ViTDet) computes what a literal implementation (complex RoPE, written-out softmax) does."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmvisionllama.backbones import VisionLLaMA

WINDOWED = (0, 2)


def windowed_model(**settings):
    model = VisionLLaMA(
        dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=24),
        out_type='featmap',
        final_norm=False,
        with_cls_token=False,
        layer_scale_init_value=0.0,
        window_size=3,
        window_block_indexes=WINDOWED,
        **settings,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize('size', [(224, 224), (64, 112), (96, 144), (32, 16)])
def test_same_as_literal(monkeypatch, size):
    """Grids of whole and of partial windows, and one smaller than a window."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'benchmarks'))
    from literal_vitdet import LiteralViTDet

    model = windowed_model()
    literal = LiteralViTDet(16, 4, 2, 24, WINDOWED, window=3)
    rules = ('patch_embed.projection', 'patch'), ('layers', 'blocks'), ('ln', 'norm'), ('ffn.', '')
    weights = {}
    for name, parameter in model.named_parameters():
        for old, new in rules:
            name = name.replace(old, new)
        weights[name] = parameter.data
    literal.load_state_dict(weights)
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(model(x)[0], literal(x), rtol=1e-4, atol=1e-4)


def test_windows_are_alone_until_a_global_block():
    """What block 0 makes of one window depends on that window; the global block mixes them."""
    model = windowed_model()
    x = torch.randn(1, 3, 16 * 7, 16 * 8)
    moved = x.clone()
    moved[..., -16:] += 1  # the tokens of the last column: windows of two columns, the rest padding
    outs = []
    for images in (x, moved):
        tokens = []
        hooks = [layer.register_forward_hook(lambda m, a, out, kept=tokens: kept.append(out)) for layer in model.layers]
        model(images)
        outs.append([t.view(7, 8, 16) for t in tokens])
        for hook in hooks:
            hook.remove()
    changed = [(a - b).abs().amax(-1) > 1e-6 for a, b in zip(*outs)]
    assert torch.equal(changed[0], torch.arange(8).expand(7, 8) >= 6)
    assert changed[1].all()


def test_unknown_padding_is_refused_at_once():
    with pytest.raises(ValueError, match='True, False'):
        windowed_model(mask_window_padding='zero')
    with pytest.raises(ValueError, match='with_cls_token=False'):
        VisionLLaMA('small', window_block_indexes=(0,))


def test_checkpointing_changes_nothing_but_memory():
    model = windowed_model().train()
    x = torch.randn(1, 3, 80, 64)
    grads = []
    for with_cp in (False, True):
        for layer in model.layers:
            layer.with_cp = with_cp
        model.zero_grad()
        model(x)[0].square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)
