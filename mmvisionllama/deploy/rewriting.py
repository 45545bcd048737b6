"""The same functions with fewer operations: what a copy for export may do to its weights."""

import torch
from torch import Tensor, nn

from ..layers import GlobalSubsampledAttention, LayerScale, RotaryAttention, TransformerBlock


@torch.no_grad()
def fold_layer_scales(model: nn.Module) -> None:
    """Multiplies the last linear layer of each residual branch by its LayerScale, in place."""
    for block in model.modules():
        if not isinstance(block, TransformerBlock):
            continue
        branches = {'ls1': block.attn.proj, 'ls2': [m for m in block.ffn.modules() if isinstance(m, nn.Linear)][-1]}
        for name, last in branches.items():
            scale = getattr(block, name)
            if isinstance(scale, LayerScale):
                last.weight.mul_(scale.weight[:, None])
                if last.bias is not None:
                    last.bias.mul_(scale.weight)
                setattr(block, name, nn.Identity())


@torch.no_grad()
def pairs_to_halves(model: nn.Module) -> None:
    """Puts the first channels of all rotated pairs of a head before the second ones, in queries and keys alike.

    Their products do not change, and runtimes rotate contiguous halves faster than neighbours.
    """
    for attn in model.modules():
        if isinstance(attn, RotaryAttention):
            dims, packed = attn.head_dim, {attn.qkv: (3, (0, 1))}
            norms = (attn.q_norm, attn.k_norm)
        elif isinstance(attn, GlobalSubsampledAttention):
            dims, packed = attn.q.out_features // attn.num_heads, {attn.q: (1, (0,)), attn.kv: (2, (0,))}
            norms = ()
        else:
            continue
        if dims % 2:
            continue
        order = torch.cat((torch.arange(0, dims, 2), torch.arange(1, dims, 2)))
        for linear, (parts, turned) in packed.items():
            for values in (linear.weight, linear.bias):
                if values is not None:
                    _reorder(values.view(parts, attn.num_heads, dims, -1), turned, order)
        for norm in norms:
            for values in norm.parameters() if norm is not None else ():
                values.copy_(values[order])
        attn.pairs_in_halves = True


def _reorder(values: Tensor, parts: tuple, order: Tensor) -> None:
    """Channels ``(part, head, channel, ...)`` of some parts in another order, in place."""
    for part in parts:
        values[part] = values[part][:, order]
