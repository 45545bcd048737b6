"""LayerScale, and what its branches are to the outside."""

import torch
from torch import nn

from mmvisionllama.layers import LayerScale, RotaryAttention, SwiGLU, TransformerBlock


def test_values_and_gradients():
    scale, x = LayerScale(5, 0.3).double(), torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    assert list(scale.state_dict()) == ['weight']
    nn.init.uniform_(scale.weight)
    assert torch.equal(scale(x), torch.stack([x[..., c] * scale.weight[c] for c in range(5)], dim=-1))
    upstream = torch.randn_like(x)
    grad_x, grad_weight = torch.autograd.grad((scale(x) * upstream).sum(), (x, scale.weight))
    torch.testing.assert_close(grad_x, upstream * scale.weight)
    torch.testing.assert_close(grad_weight, (upstream * x).sum(dim=(0, 1)))


def test_hooks_of_the_last_linears_fire_in_training():
    """Distillation, pruning and per-sample gradients watch these modules."""
    norms = (nn.LayerNorm(8) for _ in range(2))
    block = TransformerBlock(RotaryAttention(8, 2), SwiGLU(8, 16), *norms, embed_dims=8, layer_scale_init_value=0.1)
    seen = []
    for name in ('attn.proj', 'ls1', 'ffn.down', 'ls2'):
        block.get_submodule(name).register_forward_hook(lambda *args, name=name: seen.append(name))
    for training in (True, False):
        block.train(training)(torch.randn(4, 30, 8))  # more tokens than channels
        assert seen == ['attn.proj', 'ls1', 'ffn.down', 'ls2']
        seen.clear()
