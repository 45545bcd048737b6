"""Plain VisionLLaMA (section 3.1)."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import OptionError
from ..layers import (
    PEG,
    AS2DRoPE,
    AttentionContext,
    PositionAugmentation,
    RotaryAttention,
    ValidGrid,
    WindowAttention,
    axis_scales,
    build_norm,
    log_n_scale,
    placed_context,
    window_context,
)
from ..layers.logit_scale import check_logit_scale
from ..layers.options import (
    at_least_fp32,
    check_flags,
    checked_choice,
    checked_dict,
    checked_sides,
    checked_whole,
    made,
)
from ..layers.valid_grid import own_sides
from ..layers.window_attention import check_mask_padding
from .base import resolved_norm
from .packed import Pack
from .plain import PlainBackbone


@MODELS.register_module()
class VisionLLaMA(PlainBackbone):
    """Plain VisionLLaMA: a ViT with SwiGLU and AS2DRoPE in every block (section 3.1, Figure 2a, Table 17).

    Argument names follow mmpretrain's ``VisionTransformer``. Any input size works in every call: positions are scaled
    onto the ``anchor`` grid (eq. 4), and nothing positional is stored unless ``abs_pos_embed`` or ``peg`` is set.

    ``base`` and ``large`` are the paper's sizes. ``base-wide`` and ``large-wide`` are those of the released MAE code,
    for its weights and everything fine-tuned from them (docs/mae.md).

    Args:
        arch: ``'small'``, ``'base'``, ``'large'``, ``'base-wide'`` or ``'large-wide'``, or a dict with ``embed_dims``,
            ``num_layers``, ``num_heads`` and optionally ``feedforward_channels`` (hidden size; by default int(8 C / 3)
            rounded up to a multiple of 256) and ``ffn_bias`` (biases of the feed-forward layer).
        img_size: Kept for configs; only ``abs_pos_embed`` depends on it.
        patch_size: Side of a patch, pixels.
        in_channels: Channels of the images.
        out_indices: Blocks whose output is returned.
        drop_rate: Dropout after the embedding, the attention projection and the feed-forward layer.
        drop_path_rate: Stochastic depth rate.
        drop_path_mode: ``'linear'`` grows the rate from 0 to ``drop_path_rate`` over the blocks; ``'uniform'`` uses it
            in all, as the supervised recipes do.
        qkv_bias: Bias of the q, k, v projections.
        norm_cfg: Norm, ``dict(type='LN' | 'RMSNorm', eps=1e-6)`` (Table 7b).
        final_norm: Norm of all tokens after the last block.
        out_type: ``'cls_token'`` (B, C), ``'featmap'`` (B, C, H, W), ``'avg_featmap'`` (B, C; the mean of the patch
            tokens, then a norm; Table 7f) or ``'raw'`` (B, N, C).
        with_cls_token: Prepend a class token.
        output_cls_token: With ``out_type='featmap'``, every output is the pair (feature map, class token (B, C)), as
            mmseg's DPT head takes it.
        cls_position: ``'origin'`` leaves the class token unrotated, position (0, 0). The released code puts it at
            (W-1, -1) of the grid, ``'above_top_right'`` (``'released'`` is accepted), and on torch < 1.13 at (W-1, 0),
            ``'top_right'`` (``'released-y0'`` is accepted).
        frozen_stages: Freeze the embedding and the first ``frozen_stages`` blocks; -1 freezes nothing.
        layer_scale_init_value: Initial value of LayerScale; 0 for none (the MAE line).
        anchor: Resolution in pixels that the weights were trained at, a number or (height, width). Positions are
            exactly 2D RoPE at this size and interpolated at any other.
        rope_cfg: Options of :class:`~mmvisionllama.layers.AS2DRoPE`: ``kind``, ``base`` (Table 7d), ``ratio`` (7c),
            ``share_heads`` (7e), ``ntk_alpha``, ``scale`` (``'per_axis'``, ``'height'``, ``'none'``), ``directions``
            (``'axial'``, ``'golden'``, ``'spiral'``, ``'mixed'``, which every block learns for itself), ``freq_range``,
            ``num_directions`` and ``yarn_range``.
        ffn_cfg: ``dict(type='swiglu' | 'gelu', bias=...)`` (Table 7a).
        window_size: Side of the windows of ``window_block_indexes``, tokens.
        window_block_indexes: Blocks that attend inside windows with window-local positions (ViTDet).
        mask_padding: True hides the padding of partial windows; False attends to it, as the released code does
            (``'released'`` is accepted for False, and ``mask_window_padding`` for the argument's name).
        abs_pos_embed: Add a learnable position embedding of ``img_size``'s grid (Table 7g).
        interpolate_mode: How that embedding is resized to other grids, in ``forward`` and when loading weights.
        peg: Add a position encoding generator after the first block (Table 7g).
        pre_norm: Norm of the tokens before the first block.
        attn_drop_rate: Dropout of the attention weights.
        backend: Attention backend, see :func:`~mmvisionllama.layers.attend`.
        with_cp: Activation checkpointing of every block.
        init_cfg: mmengine's initialisation config; see :class:`BaseBackbone` for ``Pretrained``.
        num_registers: Learned tokens without a position between the class token and the patches, which are no output
            but of ``'raw'``: Darcet et al., "Vision Transformers Need Registers", ICLR 2024 (arXiv 2309.16588). (ViT-5,
            arXiv 2602.08071, puts 4 on a grid of their own.)
        qk_norm_cfg: Norm of each head's queries and keys, see :class:`~mmvisionllama.layers.RotaryAttention`.
        logit_scale: Temperature of the unwindowed blocks' attention away from the anchor's number of patches:
            ``'log_n'`` or ``'inverse_log_n'``, see :func:`~mmvisionllama.layers.log_n_scale`.
        position_augmentation: ``dict(rescale=2.0, jitter=1.0)``: random positions in training, see
            :class:`~mmvisionllama.layers.PositionAugmentation`. Positions inside windows stay.

    Raises:
        ValueError: For an unknown arch, option or out_index, and for a head dim that RoPE cannot split.

    Examples:
        >>> model = VisionLLaMA('small', out_type='featmap', with_cls_token=False)
        >>> model(torch.rand(1, 3, 160, 352))[0].shape
        torch.Size([1, 384, 10, 22])
    """

    arch_zoo = {
        'small': dict(aliases=('s',), embed_dims=384, num_layers=12, num_heads=6),
        'base': dict(aliases=('b',), embed_dims=768, num_layers=12, num_heads=12),
        'large': dict(aliases=('l',), embed_dims=1024, num_layers=24, num_heads=16),
        'base-wide': dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=8192, ffn_bias=True),
        'large-wide': dict(embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=11008, ffn_bias=True),
    }
    CLS_POSITIONS = ('origin', 'above_top_right', 'top_right')
    CLS_POSITION_ALIASES = {'released': 'above_top_right', 'released-y0': 'top_right'}

    def __init__(
        self,
        arch: Union[str, dict] = 'base',
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
        cls_position: str = 'origin',
        frozen_stages: int = -1,
        layer_scale_init_value: float = 1e-4,
        anchor: Union[int, Sequence[int]] = 224,
        rope_cfg: Optional[dict] = None,
        ffn_cfg: Optional[dict] = None,
        window_size: int = 14,
        window_block_indexes: Sequence[int] = (),
        mask_padding: Union[bool, str] = True,
        abs_pos_embed: bool = False,
        interpolate_mode: str = 'bicubic',
        peg: bool = False,
        pre_norm: bool = False,
        attn_drop_rate: float = 0.0,
        backend: str = 'auto',
        with_cp: bool = False,
        output_cls_token: bool = False,
        init_cfg: Optional[Union[dict, list]] = None,
        mask_window_padding: Optional[Union[bool, str]] = None,
        num_registers: int = 0,
        qk_norm_cfg: Optional[dict] = None,
        logit_scale: Optional[str] = None,
        position_augmentation: Optional[dict] = None,
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
        norm_cfg = norm_cfg or dict(type='LN', eps=1e-6)
        check_flags(abs_pos_embed=abs_pos_embed, peg=peg, pre_norm=pre_norm)
        self.img_size = checked_sides('img_size', img_size)
        rope_cfg = self.rope_options(rope_cfg)
        self._add_positions(rope_cfg, cls_position, logit_scale, position_augmentation)
        self.num_registers = checked_whole('num_registers', num_registers, 0)
        if num_registers:
            self.registers = nn.Parameter(torch.zeros(1, num_registers, self.embed_dims))
        if abs_pos_embed:
            self.add_pos_embed(self.patch_embed, self.img_size)
        self.peg = PEG(self.embed_dims) if peg else None
        self.pre_norm = build_norm(resolved_norm(norm_cfg), self.embed_dims) if pre_norm else nn.Identity()

        self.window_size = checked_whole('window_size', window_size)
        self.mask_padding = check_mask_padding(mask_padding if mask_window_padding is None else mask_window_padding)
        self.window_block_indexes = frozenset(
            self.resolve_indices('window_block_indexes', window_block_indexes, self.num_layers)
        )
        if self.window_block_indexes and with_cls_token:
            raise ValueError('windowed blocks have no place for a class token: set with_cls_token=False')
        if self.window_block_indexes and num_registers:
            raise OptionError('windowed blocks have no place for registers: leave num_registers out')
        attn_cfg = dict(qkv_bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=drop_rate, backend=backend)
        if qk_norm_cfg:
            attn_cfg.update(qk_norm_cfg=resolved_norm(qk_norm_cfg, 'qk_norm_cfg'))

        def build_attention(index: int) -> RotaryAttention:
            own = AS2DRoPE(self.rotary.head_dim, self.num_heads, **rope_cfg) if self.rotary.is_learned else None
            return self.build_attention(index, rotary=own, **attn_cfg)

        self.build_layers(
            build_attention,
            norm_cfg=norm_cfg,
            ffn_cfg=self.ffn_options(ffn_cfg, drop_rate),
            final_norm=final_norm,
            layer_scale_init_value=layer_scale_init_value,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            drop_path_mode=drop_path_mode,
            with_cp=with_cp,
        )
        self._freeze_stages()

    def _add_positions(
        self, rope_cfg: dict, cls_position: str, logit_scale: Optional[str], augmentation: Optional[dict]
    ) -> None:
        """What says where tokens stand, and how attention counts them."""
        self.rotary = made('rope_cfg', AS2DRoPE, self.embed_dims // self.num_heads, self.num_heads, **rope_cfg)
        if self.rotary.is_learned:  # each block has vectors of its own: this one places tokens
            self.rotary.vectors = None
        self.cls_position = checked_choice('cls_position', cls_position, self.CLS_POSITIONS, self.CLS_POSITION_ALIASES)
        if self.cls_position != 'origin':
            if not self.with_cls_token:
                raise OptionError(f'cls_position={cls_position!r} places the class token: set with_cls_token=True')
            if self.rotary.kind == '1d':
                raise ValueError(
                    f"cls_position={cls_position!r} is a position of the 2D grid: use 'origin' with 1D RoPE"
                )
            if self.rotary.yarn_range:
                raise OptionError(f"cls_position={cls_position!r} is not known to yarn_range: use 'origin'")
        self.logit_scale = check_logit_scale(logit_scale, self.anchor_grid)
        self.position_augmentation = None
        if augmentation is not None:
            augmentation = checked_dict('position_augmentation', augmentation)
            self.position_augmentation = made('position_augmentation', PositionAugmentation, **augmentation)

    def build_attention(self, index: int, **attn_cfg: Any) -> RotaryAttention:
        """Attention of block ``index``: inside windows or over the whole grid."""
        if index in self.window_block_indexes:
            return WindowAttention(self.embed_dims, self.num_heads, self.window_size, **attn_cfg)
        return RotaryAttention(self.embed_dims, self.num_heads, **attn_cfg)

    def frozen_modules(self) -> list:
        parts = super().frozen_modules()
        if self.frozen_stages >= 0:
            parts.append(self.pre_norm)
        if self.frozen_stages > 0 and self.peg is not None:
            parts.append(self.peg)
        if self.frozen_stages == self.num_layers and self.position_augmentation is not None:
            parts.append(self.position_augmentation)  # features of a frozen backbone are not random
        return parts

    def rotary_positions(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
        valid: Optional[ValidGrid] = None,
    ) -> Tensor:
        """Positions of all tokens of ``grid`` (H, W), class token first: ``(N, 2)``, or ``(N, 1)`` for 1D RoPE.

        With ``valid`` they are those of each image's own grid, ``(B, N, ...)``.
        """
        positions = self.rotary.positions(grid, self.anchor_grid, device, dtype, valid)
        extra = sum(self.tokens_around)
        if extra:
            tokens = positions.new_zeros(*positions.shape[:-2], extra, positions.shape[-1])
            if self.with_cls_token and self.cls_position != 'origin':
                sides = own_sides(grid, valid, positions.dtype)
                scale_x, scale_y = axis_scales(sides, self.anchor_grid, self.rotary.scale)
                tokens[..., :1, 0] += (sides[1] - 1) * scale_x
                tokens[..., :1, 1] -= scale_y if self.cls_position == 'above_top_right' else 0
            positions = torch.cat((tokens, positions), dim=-2)
        return positions if self.position_augmentation is None else self.position_augmentation(positions)

    def logit_factor(
        self, grid: Sequence[int], valid: Optional[ValidGrid] = None, dtype: torch.dtype = torch.float32
    ) -> Optional[Union[float, Tensor]]:
        """Factor of the logits on ``grid``, or of each image's own, ``(B, 1, 1, 1)``; None for 1."""
        factor = log_n_scale(own_sides(grid, valid, at_least_fp32(dtype)), self.anchor_grid, self.logit_scale)
        return factor if valid is None else factor[..., None, None]

    def rotary_contexts(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
        valid: Optional[ValidGrid] = None,
    ) -> Dict[bool, AttentionContext]:
        """Context of the global (False) and of the windowed (True) blocks, made once for all blocks."""
        contexts = {}
        if len(self.window_block_indexes) < self.num_layers:
            positions = self.rotary_positions(grid, device, dtype, valid)
            mask = valid and valid.key_mask(*self.tokens_around)
            scale = self.logit_scale and self.logit_factor(grid, valid, dtype)
            contexts[False] = placed_context(self.rotary, positions, mask=mask, logit_scale=scale)
        if self.window_block_indexes:
            contexts[True] = window_context(
                self.rotary, grid, self.window_size, self.mask_padding, device, dtype, valid
            )
        return contexts

    def block_contexts(
        self, grid: Sequence[int], x: Tensor, valid: Optional[ValidGrid] = None
    ) -> List[AttentionContext]:
        contexts = self.rotary_contexts(grid, x.device, x.dtype, valid)
        return [contexts[i in self.window_block_indexes] for i in range(self.num_layers)]

    def packed_context(self, pack: Pack, lengths: Sequence[int], x: Tensor) -> AttentionContext:
        if self.window_block_indexes:
            raise ValueError('windowed blocks take no packed images: pad them and give valid_sizes instead')
        positions = [self.rotary_positions(grid, x.device, x.dtype) for grid in pack.grids]
        scales = [self.logit_scale and self.logit_factor(grid) for grid in pack.grids]
        return pack.context(self.rotary, positions, lengths, scales)

    def embed(self, x: Tensor, valid: Optional[ValidGrid] = None) -> Tuple[Tensor, Tuple[int, int]]:
        """Images ``(B, in_channels, height, width)`` to patch tokens ``(B, H * W, C)`` and the grid (H, W)."""
        x, grid = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + self.pos_embed_for(grid, valid)
        return x, grid

    def embed_tokens(self, x: Tensor, valid: Optional[ValidGrid] = None) -> Tuple[Tensor, Tuple[int, int]]:
        x, grid = self.embed(x, valid)
        return self.pre_norm(self.drop_after_pos(self.add_cls_token(x))), grid

    def after_block(self, x: Tensor, index: int, grid: Sequence[int], valid: Optional[ValidGrid] = None) -> Tensor:
        if index or self.peg is None:
            return x
        if valid is not None:
            x = valid.hide(x, *self.tokens_around)
        patches, token = self.split_token(x)
        return self.with_token(self.peg(patches, grid), token)
