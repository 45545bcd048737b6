"""Rank of attention maps: how many directions a layer's attention really mixes."""

from typing import Any, Callable, List, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import OptionError
from ..layers import attention
from ..moved import moved


class AttentionRecorder(TorchFunctionMode):
    """While active, hands the attention weights of every attention call to ``callback``, in order.

    It sees every call of ``scaled_dot_product_attention``, also in models of other libraries, and this package's
    attention where it writes the weights out; not flash-attn's own functions.

    Args:
        callback: Called with the weights ``(B, h, N, M)``.

    Examples:
        >>> from mmvisionllama.layers import RotaryAttention
        >>> maps = []
        >>> with torch.no_grad(), AttentionRecorder(maps.append):
        ...     _ = RotaryAttention(16, 2)(torch.rand(1, 9, 16))
        >>> maps[0].shape
        torch.Size([1, 2, 9, 9])
    """

    def __init__(self, callback: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.callback = callback
        self.attention_weights = attention.attention_weights

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.record_sdpa(*args, **kwargs)
        return func(*args, **kwargs)

    def record_sdpa(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Optional[Tensor] = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: Optional[float] = None,
        **kwargs,
    ) -> None:
        """Writes out the weights of one call."""
        if scale is not None:
            query = query * (scale * query.shape[-1] ** 0.5)
        self.callback(self.attention_weights(query, key, mask=attn_mask, is_causal=is_causal))

    def record_written_out(self, *args, **kwargs) -> Tensor:
        """Stands in for the layers' own function."""
        weights = self.attention_weights(*args, **kwargs)
        self.callback(weights)
        return weights

    def __enter__(self):
        attention.attention_weights = self.record_written_out
        return super().__enter__()

    def __exit__(self, *error):
        attention.attention_weights = self.attention_weights
        return super().__exit__(*error)


def singular_values(weights: Tensor) -> Tensor:
    """Singular values of each map, largest first: ``(B, h, N, M)`` to ``(B, h, min(N, M))``, float64."""
    return torch.linalg.svdvals(weights.double())


def numerical_rank(values: Tensor, rtol: float = 1e-2) -> Tensor:
    """Singular values above ``rtol`` times the largest: ``(..., K)`` to ``(...)``."""
    return (values > rtol * values[..., :1]).sum(dim=-1)


def effective_rank(values: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values (Roy and Vetterli, 2007): ``(..., K)`` to ``(...)``."""
    part = values / values.sum(dim=-1, keepdim=True)
    return torch.special.entr(part).sum(dim=-1).exp()


class LayerRank(NamedTuple):
    """Means over all images and heads of one layer.

    Attributes:
        layer (int): Number of the attention call in a forward pass.
        queries (int): N.
        keys (int): M.
        rank (float): See :func:`numerical_rank`.
        effective_rank (float): See :func:`effective_rank`.
        cumulative (Tensor): Sum of the k largest singular values over the sum of all, ``(min(N, M),)``.
    """

    layer: int
    queries: int
    keys: int
    rank: float
    effective_rank: float
    cumulative: Tensor


class RankMeter:
    """Accumulates the ranks of every layer over batches.

    Args:
        rtol: See :func:`numerical_rank`.

    Examples:
        >>> from mmvisionllama.layers import RotaryAttention
        >>> model, meter = RotaryAttention(16, 2), RankMeter()
        >>> with torch.no_grad():
        ...     for tokens in torch.rand(3, 1, 9, 16):
        ...         with meter.record():
        ...             _ = model(tokens)
        >>> 1 <= meter.result()[0].effective_rank <= 9
        True
    """

    def __init__(self, rtol: float = 1e-2) -> None:
        self.rtol = rtol
        self.layers: List[dict] = []
        self.call = 0

    def record(self) -> AttentionRecorder:
        """Context of one forward pass."""
        self.call = 0
        return AttentionRecorder(self.add)

    def add(self, weights: Tensor) -> None:
        """Adds the maps ``(B, h, N, M)`` of the next layer."""
        values = singular_values(weights).flatten(0, -2)  # [maps, K]
        part = values / values.sum(dim=-1, keepdim=True)
        if self.call == len(self.layers):
            self.layers.append(dict(shape=weights.shape[-2:], maps=0, rank=0.0, effective=0.0, cumulative=0.0))
        layer = self.layers[self.call]
        if layer['shape'] != weights.shape[-2:]:
            raise OptionError('attention maps of different sizes: use images of one size, or one image at a time')
        layer['maps'] += len(values)
        layer['rank'] += numerical_rank(values, self.rtol).sum().item()
        layer['effective'] += effective_rank(values).sum().item()
        layer['cumulative'] = layer['cumulative'] + part.cumsum(dim=-1).sum(dim=0).cpu()
        self.call += 1

    def result(self) -> List[LayerRank]:
        """Means of every layer."""
        return [
            LayerRank(
                i,
                *layer['shape'],
                layer['rank'] / layer['maps'],
                layer['effective'] / layer['maps'],
                layer['cumulative'] / layer['maps'],
            )
            for i, layer in enumerate(self.layers)
        ]


__getattr__ = moved(
    __name__,
    draw_ranks='visualization.analyses',
)
