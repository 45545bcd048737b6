"""Rotary multi-head self-attention.

Legend: B batch, N query tokens, M key tokens, h heads, d head dim, C = h * d channels, P rotation planes.
"""

import itertools
from functools import partial
from typing import Any, Callable, Iterable, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError
from . import kernels
from .attention_backends import AttentionSpec, check_backend, choose_backend, overridden
from .norm import build_norm
from .options import check_flags, check_heads, checked_rate, exporting
from .rotary import RotaryTable, apply_rotary, gather_table, rotate_qkv
from .segments import Segments, attend_segments
from .valid_grid import ValidGrid

#: samples of one call of a kernel: neither a grid of CUDA's blocks nor cuDNN takes more
MAX_BATCH = 65535


class AttentionContext:
    """What attention needs besides the tokens; made once per forward pass for all blocks of a kind.

    No tuple on purpose: what wraps blocks (FSDP's mixed precision, say) casts the tensors of tuples and dicts that it
    hands through, and angles in half precision would put neighbouring tokens in one place.

    Attributes:
        rope (RotaryTable, optional): Table of the queries' tokens; None without rotary embedding.
        key_rope (RotaryTable, optional): Table of the keys, where they are other tokens (GSA).
        grid (tuple, optional): Token grid (H, W), where attention depends on it (LSA, GSA).
        mask (Tensor, optional): As in :func:`attend`; of windows ``(n, 1, 1, w * w)``.
        is_causal (bool): Token n sees tokens 0 ... n only.
        factor (Tensor, optional): As in :func:`attend`.
        valid (ValidGrid, optional): Where the images of a padded batch are, for LSA and GSA.
        segments (Segments, optional): Runs of tokens in a batch of 1, each of which attends to itself alone.
        positions (Tensor, optional): Positions of the queries' tokens, ``([B,] N, 2)``, for layers that have a rotary
            embedding of their own, in the place of ``rope``.
        logit_scale (float or Tensor, optional): Factor of the logits beside ``d ** -0.5``; ``(B | 1, N | 1, 1, 1)``.
    """

    def __init__(
        self,
        rope: Optional[RotaryTable] = None,
        key_rope: Optional[RotaryTable] = None,
        grid: Optional[Tuple[int, int]] = None,
        *,
        mask: Optional[Tensor] = None,
        is_causal: bool = False,
        factor: Optional[Tensor] = None,
        valid: Optional[ValidGrid] = None,
        segments: Optional[Segments] = None,
        positions: Optional[Tensor] = None,
        logit_scale: Optional[Union[float, Tensor]] = None,
    ) -> None:
        self.rope = rope
        self.key_rope = key_rope
        self.grid = grid
        self.mask = mask
        self.is_causal = is_causal
        self.factor = factor
        self.valid = valid
        self.segments = segments
        self.positions = positions
        self.logit_scale = logit_scale

    @property
    def query(self) -> Optional[RotaryTable]:
        """``rope``, beside :attr:`key`."""
        return self.rope

    @property
    def key(self) -> Optional[RotaryTable]:
        """Table of the keys."""
        return self.rope if self.key_rope is None else self.key_rope


def attention_weights(
    q: Tensor, k: Tensor, *, mask: Optional[Tensor] = None, is_causal: bool = False, factor: Optional[Tensor] = None
) -> Tensor:
    """The weights ``(B, h, N, M)`` of :func:`attend`, written out; arguments as there."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [B, h, N, M]
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~allowed, float('-inf'))
    if mask is not None:
        scores = scores.masked_fill(~mask, float('-inf')) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1)
    return weights if factor is None else weights * factor


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Optional[Tensor] = None,
    is_causal: bool = False,
    factor: Optional[Tensor] = None,
    dropout: float = 0.0,
    backend: str = 'auto',
) -> Tensor:
    """Softmax attention with scale ``d ** -0.5``.

    Args:
        q: ``(B, h, N, d)``.
        k: ``(B, h, M, d)``.
        v: ``(B, h, M, d)``.
        mask: Added to the scores (float) or True where attention is allowed (bool); broadcasts to ``(B, h, N, M)``.
        is_causal: Token n sees tokens 0 ... n only.
        factor: Multiplied onto the weights after the softmax, without renormalising (the released iLLaMA); broadcasts
            to ``(B, h, N, M)``. No fused kernel does this: it runs ``'eager'``.
        dropout: Dropout of the attention weights, already 0 in evaluation.
        backend: A name of :data:`~.attention_backends.ATTENTION_BACKENDS`: ``'eager'`` writes the softmax out (for
            reference and for hooks on the weights), ``'sdpa'`` leaves the choice to torch. ``'auto'`` is the fastest
            measured kernel, ``'sdpa'`` where nothing was measured, and ``'eager'`` with a factor and in forward-mode
            differentiation, which no fused kernel knows. See :func:`~.attention_backends.choose_backend`.

    Returns:
        Tensor: ``(B, h, N, d)``.

    Raises:
        OptionError: For a backend that cannot do this.
    """
    written_out = backend == 'eager'
    if backend in ('auto', 'sdpa') and not overridden() and (not q.is_cuda or (kernels.traced() and is_whole(q))):
        written_out = factor is not None or kernels.forward_mode()
        if not written_out:  # what the search below comes to
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal)
    if not written_out:
        chosen = choose_backend(backend, attention_spec(q, k, mask, is_causal, factor, dropout))
        if chosen.run is not None:
            run = partial(chosen.run, is_causal=is_causal, dropout=dropout)
            return run(q, k, v, mask=mask) if is_whole(q) else attend_in_parts(run, q, k, v, mask)
    weights = attention_weights(q, k, mask=mask, is_causal=is_causal, factor=factor)
    weights = F.dropout(weights, dropout, training=dropout > 0)
    return weights.to(v.dtype) @ v


def is_whole(q: Tensor) -> bool:
    """Whether a kernel takes all samples at once; compiled graphs are made anew beyond, exported ones have no limit."""
    return exporting() or len(q) <= MAX_BATCH


def attend_in_parts(run: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor]) -> Tensor:
    """What ``run(q, k, v, mask=)`` returns, at most :data:`MAX_BATCH` samples (of windows: windows) at a time."""
    masks: Iterable[Optional[Tensor]] = itertools.repeat(mask)
    if mask is not None and mask.ndim == q.ndim and len(mask) > 1:
        masks = mask.split(MAX_BATCH)
    parts = zip(*(t.split(MAX_BATCH) for t in (q, k, v)), masks)
    return torch.cat([run(*part, mask=own) for *part, own in parts])


def attention_spec(
    q: Tensor,
    k: Tensor,
    mask: Optional[Tensor] = None,
    is_causal: bool = False,
    factor: Optional[Tensor] = None,
    dropout: float = 0.0,
    packed: bool = False,
) -> AttentionSpec:
    """What a call of :func:`attend` asks for; of packed images q and k are ``(1, T, h, d)``."""
    tokens = 1 if packed else 2
    return AttentionSpec(
        q.device.type,
        q.dtype,
        q.shape[-1],
        q.shape[tokens],
        k.shape[tokens],
        mask is not None,
        is_causal,
        dropout > 0,
        factor is not None,
        torch.is_grad_enabled() and (q.requires_grad or k.requires_grad),
        kernels.traced(),
        packed,
    )


#: neither positions nor a mask
NO_CONTEXT = AttentionContext()


def placed_context(rotary: nn.Module, positions: Tensor, **options: Any) -> AttentionContext:
    """Context of tokens at ``positions``: with their table, made once, or with the positions for layers that learn."""
    if rotary.is_learned:
        return AttentionContext(positions=positions, **options)
    return AttentionContext(rotary(positions), **options)


def gather_context(context: AttentionContext, index: Tensor) -> AttentionContext:
    """Rows of a context's table or positions for each sample of a masked batch; index as in :func:`gather_table`."""
    if context.positions is not None:
        return AttentionContext(positions=context.positions[index], logit_scale=context.logit_scale)
    return AttentionContext(gather_table(context.rope, index), logit_scale=context.logit_scale)


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are rotated (MHSA of eq. 1).

    Args:
        embed_dims: Channels C.
        num_heads: Heads h.
        qkv_bias: Bias of the packed q, k, v projection (rows q, k, v; each head-major).
        proj_bias: Bias of the output projection.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output.
        backend: See :func:`attend`.
        rotary: Rotary embedding of this layer alone, for learned directions; it takes the context's positions.
        qk_norm_cfg: Norm of each head's queries and keys before their rotation, see :func:`build_norm`; its weights
            ``(d,)`` are shared by the heads. Source: Dehghani et al., "Scaling Vision Transformers to 22 Billion
            Parameters", 2023 (arXiv 2302.05442), section 2; RMSNorm in ViT-5 (arXiv 2602.08071).

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``, or for an unknown backend.
    """

    #: how the channels of q and k are paired, see :func:`apply_rotary`; exporters set it
    pairs_in_halves = False

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        backend: str = 'auto',
        rotary: Optional[nn.Module] = None,
        qk_norm_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        check_flags(qkv_bias=qkv_bias, proj_bias=proj_bias)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.head_dim = embed_dims // num_heads
        self.backend = check_backend(backend)
        self.rotary = rotary
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.q_norm = build_norm(qk_norm_cfg, self.head_dim) if qk_norm_cfg else None
        self.k_norm = build_norm(qk_norm_cfg, self.head_dim) if qk_norm_cfg else None
        self.proj = nn.Linear(embed_dims, embed_dims, bias=proj_bias)
        self.attn_drop = checked_rate('attn_drop', attn_drop)
        self.proj_drop = nn.Dropout(checked_rate('proj_drop', proj_drop)) if proj_drop > 0 else nn.Identity()

    def project(self, x: Tensor, rope: Optional[RotaryTable]) -> Tuple[Tensor, Tensor, Tensor]:
        """Rotated q, rotated k and v of the tokens ``x``: ``(B, N, C)`` to three times ``(B, N, h, d)``."""
        projected = self.qkv(x)
        qkv = projected.unflatten(-1, (3, self.num_heads, self.head_dim))
        if self.q_norm is not None:
            q, k, v = qkv.unbind(2)
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)  # autocast's norms answer in fp32
            if rope is None:
                return q, k, v
            return *(apply_rotary(x, rope, self.pairs_in_halves) for x in (q, k)), v
        if rope is None:
            return qkv.unbind(2)
        return rotate_qkv(qkv, rope, kernels.may_overwrite(self.qkv, projected), self.pairs_in_halves)

    def attend(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Attention without the output projection: ``(B, N, C)`` to ``(B, N, C)``."""
        rope = context.rope
        if context.positions is not None:
            if self.rotary is None:
                raise OptionError(
                    'the context has positions for layers with a rotary embedding of their own, and this one has none: '
                    'give it rotary=...'
                )
            rope = self.rotary(context.positions)
        elif self.rotary is not None and rope is not None:
            raise OptionError('the context has a table, and this layer makes its own from positions: give it those')
        q, k, v = self.project(x, rope)  # [B, N, h, d]
        if context.logit_scale is not None:
            q = (q * context.logit_scale).to(q.dtype)
        options = dict(
            mask=context.mask,
            is_causal=context.is_causal,
            factor=context.factor,
            dropout=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )
        if context.segments is not None:
            spec = attention_spec(
                q, k, context.mask, context.is_causal, context.factor, options['dropout'], packed=True
            )
            run_packed = choose_backend(self.backend, spec).run_packed
            x = attend_segments(q, k, v, context.segments, lambda *qkv: attend(*qkv, **options), run_packed)
            return x.flatten(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [B, h, N, d]
        return attend(q, k, v, **options).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, context: AttentionContext = NO_CONTEXT) -> Tensor:
        """Tokens ``(B, N, C)`` to ``(B, N, C)``; the default context neither rotates nor hides anything."""
        return self.proj_drop(self.proj(self.attend(x, context)))
