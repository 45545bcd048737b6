"""iLLaMA, the causal image LLaMA (arXiv 2404.06773; sections and equations below are that paper's)."""

import math
from typing import List, Optional, Sequence, Tuple, Union

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor

from ..errors import OptionError
from ..layers import (
    AttentionContext,
    RotaryAttention,
    RotaryEmbedding,
    ValidGrid,
    causal_context,
    resize_pos_embed,
)
from ..layers.options import check_flags, checked_choice, made, size_agnostic
from ..layers.valid_grid import own_sides, resize_pos_embed_each
from .plain import PlainBackbone


def restore_alpha(backbone: 'iLLaMA', incompatible_keys: object = None) -> None:
    """After weights have come to a model that was built on the meta device, where the soft mask's alpha is lost."""
    weight = backbone.patch_embed.projection.weight
    if backbone.alpha.is_meta and not weight.is_meta:
        backbone.alpha = torch.full_like(backbone.alpha, backbone.soft_mask, device=weight.device, dtype=weight.dtype)


@MODELS.register_module()
class iLLaMA(PlainBackbone):
    """A ViT turned into a LLaMA decoder: causal attention, class token last, RMSNorm, SwiGLU, 1D RoPE.

    The steps from the ViT to this design are arguments, so that each can be undone: ``ffn_cfg`` (GELU to SwiGLU),
    ``norm_cfg`` (LayerNorm to RMSNorm), ``mask_mode`` (bidirectional to causal), ``cls_token_position`` (first, which
    collapses under a causal mask because the class token then sees only itself, to last), ``abs_pos_embed`` and
    ``with_rope`` (learnable embedding, rotary embedding, or both).

    Argument names follow mmpretrain's ``VisionTransformer``. Any input size works in every call: the position embedding
    is interpolated, the class token's row kept, and the rotary positions are rescaled.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``, or a dict with ``embed_dims``, ``num_layers``,
            ``num_heads`` and optionally ``feedforward_channels`` (hidden size; by default int(8 C / 3) rounded up to a
            multiple of 256 for SwiGLU, 4 C for GELU).
        img_size: Size of the images whose grid the position embedding has. Weights of another size are resampled when
            they are loaded.
        patch_size: Side of a patch, pixels.
        in_channels: Channels of the images.
        out_indices: Blocks whose output is returned.
        drop_rate: Dropout after the embedding, the attention projection and the feed-forward layer.
        drop_path_rate: Stochastic depth rate.
        drop_path_mode: ``'linear'`` grows the rate from 0 to ``drop_path_rate`` over the blocks; ``'uniform'``.
        qkv_bias: Bias of the q, k, v projections.
        norm_cfg: Norm, ``dict(type='RMSNorm' | 'LN', eps=1e-6)``.
        final_norm: Norm of all tokens after the last block.
        out_type: ``'cls_token'`` (B, C), ``'featmap'`` (B, C, H, W), ``'avg_featmap'`` (B, C; the mean of the patch
            tokens, then a norm) or ``'raw'`` (B, N, C).
        with_cls_token: Add a class token.
        output_cls_token: As :class:`VisionLLaMA`.
        cls_token_position: ``'last'``, where it sees every patch, or ``'first'``, the ViT's.
        mask_mode: ``'additive'``: softmax(q k^T / sqrt(d) + log S), which at alpha = 0 is causal attention (eq. 1) on
            the fast causal kernels. ``'multiplicative'``: softmax(q k^T / sqrt(d)) * S without renormalisation (eq. 2),
            what the published weights were trained with (``'released'`` is accepted). ``'none'``: bidirectional.
        soft_mask: alpha of S = alpha * 1 + (1 - alpha) * lower triangle, 0 (causal) to 1 (bidirectional). Training sets
            it through :class:`~mmvisionllama.engine.SoftMaskHook`; it is no weight and is not saved.
        abs_pos_embed: Add the learnable position embedding.
        interpolate_mode: How that embedding is resized.
        with_rope: Rotate queries and keys.
        rope_cfg: Options of :class:`~mmvisionllama.layers.RotaryEmbedding` (``base``, ``ratio``, ``share_heads``).
        rope_scale: ``'sequence'`` rescales the positions of a longer or shorter sequence onto the anchor's; ``'none'``
            takes them as they are, as the released code does (``'released'`` is accepted).
        anchor: Resolution in pixels that the weights were trained at, a number or (height, width), for ``rope_scale``.
        frozen_stages: Freeze the embedding and the first ``frozen_stages`` blocks; -1 freezes nothing.
        layer_scale_init_value: Initial value of LayerScale; 0 for none.
        ffn_cfg: ``dict(type='swiglu' | 'gelu', bias=...)``.
        attn_drop_rate: Dropout of the attention weights.
        backend: Attention backend, see :func:`~mmvisionllama.layers.attend`.
        with_cp: Activation checkpointing of every block.
        init_cfg: mmengine's initialisation config; see :class:`BaseBackbone` for ``Pretrained``.

    Raises:
        ValueError: For an unknown arch, option or out_index, for a soft mask outside 0 ... 1, and for a head dim that
            RoPE cannot split.

    Examples:
        >>> model = iLLaMA('tiny')
        >>> model(torch.rand(1, 3, 224, 224))[0].shape
        torch.Size([1, 192])
    """

    arch_zoo = {
        'tiny': dict(aliases=('t',), embed_dims=192, num_layers=12, num_heads=3),
        'small': dict(aliases=('s',), embed_dims=384, num_layers=12, num_heads=6),
        'base': dict(aliases=('b',), embed_dims=768, num_layers=12, num_heads=12),
        'large': dict(aliases=('l',), embed_dims=1024, num_layers=24, num_heads=16),
    }
    CLS_POSITIONS = ('last', 'first')
    MASK_MODES = ('additive', 'multiplicative', 'none')
    ROPE_SCALES = ('sequence', 'none')

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        img_size: Union[int, Sequence[int]] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: Union[int, Sequence[int]] = -1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_path_mode: str = 'linear',
        qkv_bias: bool = True,
        norm_cfg: Optional[dict] = None,
        final_norm: bool = True,
        out_type: str = 'cls_token',
        with_cls_token: bool = True,
        cls_token_position: str = 'last',
        mask_mode: str = 'additive',
        soft_mask: float = 0.0,
        abs_pos_embed: bool = True,
        interpolate_mode: str = 'bicubic',
        with_rope: bool = True,
        rope_cfg: Optional[dict] = None,
        rope_scale: str = 'sequence',
        anchor: Union[int, Sequence[int]] = 224,
        frozen_stages: int = -1,
        layer_scale_init_value: float = 0.0,
        ffn_cfg: Optional[dict] = None,
        attn_drop_rate: float = 0.0,
        backend: str = 'auto',
        with_cp: bool = False,
        output_cls_token: bool = False,
        init_cfg: Optional[Union[dict, list]] = None,
    ) -> None:
        super().__init__(
            arch,
            patch_size=patch_size,
            in_channels=in_channels,
            out_indices=out_indices,
            out_type=out_type,
            with_cls_token=with_cls_token,
            output_cls_token=output_cls_token,
            frozen_stages=frozen_stages,
            anchor=anchor,
            drop_rate=drop_rate,
            interpolate_mode=interpolate_mode,
            init_cfg=init_cfg,
        )
        check_flags(abs_pos_embed=abs_pos_embed, with_rope=with_rope)
        self.cls_token_position = checked_choice('cls_token_position', cls_token_position, self.CLS_POSITIONS)
        self.cls_token_last = cls_token_position == 'last'
        self.mask_mode = checked_choice('mask_mode', mask_mode, self.MASK_MODES, {'released': 'multiplicative'})
        # a tensor, so that a compiled model is not compiled anew for every value of a schedule
        self.register_buffer('alpha', torch.zeros(()), persistent=False)
        self.register_load_state_dict_post_hook(restore_alpha)
        self.set_soft_mask(soft_mask)

        self.rope_scale = checked_choice('rope_scale', rope_scale, self.ROPE_SCALES, {'released': 'none'})
        self.rotary = None
        if rope_cfg and not with_rope:
            raise OptionError('rope_cfg says how the rotary embedding is made: set with_rope=True, or leave it out')
        if with_rope:
            rope_cfg = self.rope_options(rope_cfg)
            if 'kind' in rope_cfg or 'scale' in rope_cfg:
                raise OptionError("iLLaMA's positions are 1D: leave kind out of rope_cfg, and set rope_scale for scale")
            scale = 'per_axis' if self.rope_scale == 'sequence' else 'none'
            head_dim = self.embed_dims // self.num_heads
            self.rotary = made(
                'rope_cfg', RotaryEmbedding, head_dim, self.num_heads, kind='1d', scale=scale, **rope_cfg
            )
        if abs_pos_embed:
            self.add_pos_embed(self.patch_embed, img_size, int(with_cls_token))
        attn_cfg = dict(qkv_bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=drop_rate, backend=backend)
        self.build_layers(
            lambda i: RotaryAttention(self.embed_dims, self.num_heads, **attn_cfg),
            norm_cfg=norm_cfg or dict(type='RMSNorm', eps=1e-6),
            ffn_cfg=self.ffn_options(ffn_cfg, drop_rate),
            final_norm=final_norm,
            layer_scale_init_value=layer_scale_init_value,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            drop_path_mode=drop_path_mode,
            with_cp=with_cp,
        )
        self._freeze_stages()

    @property
    def soft_mask(self) -> float:
        """alpha of the soft mask: 0 causal, 1 bidirectional."""
        return self._soft_mask

    def set_soft_mask(self, alpha: float) -> None:
        """Sets alpha of the soft mask S = alpha * 1 + (1 - alpha) * lower triangle (eq. 2).

        Raises:
            ValueError: If alpha is not in 0 ... 1.
        """
        if not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
            raise OptionError(f'the soft mask must be in 0 (causal) ... 1 (bidirectional), got {alpha!r}')
        self._soft_mask = float(alpha)
        self.visibility = {0: 'causal', 1: 'all'}.get(alpha, 'soft')
        self.alpha.fill_(alpha)

    def _apply(self, *args, **kwargs) -> 'iLLaMA':
        super()._apply(*args, **kwargs)  # to(), half(), to_empty() ...
        self.alpha.fill_(self._soft_mask)  # which is in no checkpoint, and empty after to_empty()
        return self

    def pos_embed_for(self, grid: Sequence[int], valid: Optional[ValidGrid] = None) -> Tensor:
        """The position embedding of all tokens for ``grid``, or for each image's own: ``(1 | B, N, C)``."""
        if valid is None:
            return self.resized_pos_embed(self.pos_embed, self.pos_embed_grid, grid)
        patches, token = self.split_token(self.pos_embed)
        patches = resize_pos_embed_each(patches, self.pos_embed_grid, valid, self.interpolate_mode)
        return self.with_token(patches, None if token is None else token.expand(len(patches), -1, -1))

    def resized_pos_embed(self, pos_embed: Tensor, grid: Sequence[int], new_grid: Sequence[int]) -> Tensor:
        """Resamples the patches' rows of a position embedding and keeps the class token's."""
        if not size_agnostic() and tuple(grid) == tuple(new_grid):
            return pos_embed
        patches, token = self.split_token(pos_embed)
        return self.with_token(resize_pos_embed(patches, grid, new_grid, self.interpolate_mode), token)

    def _resize_loaded_pos_embed(self, state_dict: dict, prefix: str, *args) -> None:
        key = f'{prefix}pos_embed'
        loaded = state_dict.get(key)
        if loaded is None or loaded.ndim != 3 or loaded.shape[1] == self.pos_embed.shape[1]:
            return
        # the file does not say its grid: a square number of tokens is taken for a square one, 7 x 28 for 14 x 14
        tokens = loaded.shape[1] - self.with_cls_token
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise ValueError(
                f'{key} has {tokens} patch positions, which is no square grid: build the model with the img_size '
                f'(height, width) and the with_cls_token that the checkpoint was trained with'
            )
        print_log(f'{key}: resampled from {side} x {side} to {self.pos_embed_grid}', logger='current')
        state_dict[key] = self.resized_pos_embed(loaded, (side, side), self.pos_embed_grid)

    def rotary_positions(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
        valid: Optional[ValidGrid] = None,
    ) -> Tensor:
        """Positions of all tokens of ``grid`` (H, W) in their order, ``(N, 1)``.

        At the anchor they are 0 ... N - 1; at other sizes the patches' span the same range. With ``valid`` they are
        those of each image's own grid, ``(B, N, 1)``.
        """
        positions = self.rotary.positions(grid, self.anchor_grid, device, dtype, valid)
        if not self.with_cls_token:
            return positions
        token = torch.zeros_like(positions[..., :1, :])
        if self.cls_token_position == 'first':
            return torch.cat((token, positions + 1), dim=-2)
        rows, cols = self.anchor_grid if self.rope_scale == 'sequence' else own_sides(grid, valid, positions.dtype)
        count = rows * cols
        token = token + (count[..., None] if isinstance(count, Tensor) else count)
        return torch.cat((positions, token), dim=-2)

    def causal_context(self, grid: Sequence[int], x: Tensor, valid: Optional[ValidGrid] = None) -> AttentionContext:
        """Rotary table and mask of the tokens ``x`` of ``grid`` (H, W), made once for all blocks."""
        rope = None if self.rotary is None else self.rotary(self.rotary_positions(grid, x.device, x.dtype, valid))
        return causal_context(
            rope,
            x,
            self.alpha,
            'all' if self.mask_mode == 'none' else self.visibility,
            multiplicative=self.mask_mode == 'multiplicative',
            keys=valid and valid.key_mask(*self.tokens_around),
        )

    def block_contexts(
        self, grid: Sequence[int], x: Tensor, valid: Optional[ValidGrid] = None
    ) -> List[AttentionContext]:
        return [self.causal_context(grid, x, valid)] * self.num_layers

    def embed_tokens(self, x: Tensor, valid: Optional[ValidGrid] = None) -> Tuple[Tensor, Tuple[int, int]]:
        x, grid = self.patch_embed(x)
        x = self.add_cls_token(x)
        if self.pos_embed is not None:
            x = x + self.pos_embed_for(grid, valid)
        return self.drop_after_pos(x), grid
