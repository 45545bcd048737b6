"""Plain VisionLLaMA (section 3.1)."""

from typing import Dict, Optional, Sequence, Tuple, Union

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import (
    PEG,
    PatchEmbed,
    RotaryAttention,
    RotaryEmbedding,
    TransformerBlock,
    WindowAttention,
    build_ffn,
    build_norm,
    resize_pos_embed,
    swiglu_hidden,
    window_context,
)
from ..layers.rotary import axis_scales, to_2tuple
from ..layers.window import check_mask_padding
from .base import BaseBackbone, checked_choice, drop_path_rates, init_linear


@MODELS.register_module()
class VisionLLaMA(BaseBackbone):
    """Plain VisionLLaMA: a ViT with SwiGLU and AS2DRoPE in every block (section 3.1, Figure 2a, Table 17).

    Argument names follow mmpretrain's ``VisionTransformer``. Any input size works in every call: positions are scaled
    onto the ``anchor`` grid (eq. 4), and nothing positional is stored unless ``abs_pos_embed`` or ``peg`` is set.

    Two sizes have a wide twin. The paper compares its MAE models with ViT-B (86 M) and ViT-L (304 M), yet the code
    released for them widens the feed-forward layer twice, first to 4 C and then by 8/3, and gives it biases: hidden
    size 8192 instead of 2048 (256 M parameters) and 11008 instead of 2816 (914 M). ``base-wide`` and ``large-wide`` are
    those sizes, for released MAE weights and everything fine-tuned from them; ``base`` and ``large`` are the paper's.

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
        cls_position: ``'origin'`` leaves the class token unrotated, position (0, 0); ``'released'`` puts it at
            (W-1, -1) of the grid as the released code does, ``'released-y0'`` at (W-1, 0) as it does on torch < 1.13.
        frozen_stages: Freeze the embedding and the first ``frozen_stages`` blocks; -1 freezes nothing.
        layer_scale_init_value: Initial value of LayerScale; 0 for none (the MAE line).
        anchor: Resolution in pixels that the weights were trained at, a number or (height, width). Positions are
            exactly 2D RoPE at this size and interpolated at any other.
        rope_cfg: Options of :class:`~mmvisionllama.layers.RotaryEmbedding`: ``kind``, ``base`` (Table 7d), ``ratio``
            (7c), ``share_heads`` (7e), ``ntk_alpha``, ``scale`` (``'per_axis'``, ``'height'``, ``'none'``,
            ``'released'``).
        ffn_cfg: ``dict(type='swiglu' | 'gelu', bias=...)`` (Table 7a).
        window_size: Side of the windows of ``window_block_indexes``, tokens.
        window_block_indexes: Blocks that attend inside windows with window-local positions (ViTDet).
        mask_window_padding: Hide the padding of partial windows; ``'released'`` (or False) attends to it.
        abs_pos_embed: Add a learnable position embedding of ``img_size``'s grid (Table 7g).
        interpolate_mode: How that embedding is resized to other grids, in ``forward`` and when loading weights.
        peg: Add a position encoding generator after the first block (Table 7g).
        pre_norm: Norm of the tokens before the first block.
        attn_drop_rate: Dropout of the attention weights.
        backend: Attention backend, see :func:`~mmvisionllama.layers.attend`.
        with_cp: Activation checkpointing of every block.
        init_cfg: mmengine's initialisation config; see :class:`BaseBackbone` for ``Pretrained``.

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
    arch_keys = ('embed_dims', 'num_layers', 'num_heads')

    OUT_TYPES = ('raw', 'cls_token', 'featmap', 'avg_featmap')
    CLS_POSITIONS = ('origin', 'released', 'released-y0')

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
        mask_window_padding: Union[bool, str] = True,
        abs_pos_embed: bool = False,
        interpolate_mode: str = 'bicubic',
        peg: bool = False,
        pre_norm: bool = False,
        attn_drop_rate: float = 0.0,
        backend: str = 'auto',
        with_cp: bool = False,
        init_cfg: Optional[Union[dict, list]] = None,
    ) -> None:
        super().__init__(init_cfg)
        settings = self.resolve_arch(arch)
        self.embed_dims: int = settings['embed_dims']
        self.num_layers: int = settings['num_layers']
        self.num_heads: int = settings['num_heads']
        norm_cfg = norm_cfg or dict(type='LN', eps=1e-6)
        ffn_cfg = dict(ffn_cfg or dict(type='swiglu'))
        if 'ffn_bias' in settings:
            ffn_cfg.setdefault('bias', settings['ffn_bias'])
        hidden_dims = settings.get('feedforward_channels')
        if hidden_dims is None and ffn_cfg.get('type', 'swiglu') == 'swiglu':
            hidden_dims = swiglu_hidden(self.embed_dims)
        if self.embed_dims % self.num_heads:
            raise ValueError(f'num_heads {self.num_heads} does not divide embed_dims {self.embed_dims}')
        self.out_type = checked_choice('out_type', out_type, self.OUT_TYPES)
        self.cls_position = checked_choice('cls_position', cls_position, self.CLS_POSITIONS)
        self.with_cls_token = with_cls_token
        if out_type == 'cls_token' and not with_cls_token:
            raise ValueError("out_type='cls_token' needs with_cls_token=True")
        self.out_indices = self.resolve_out_indices(out_indices, self.num_layers)
        if not -1 <= frozen_stages <= self.num_layers:
            raise ValueError(f'frozen_stages must be in -1 ... {self.num_layers}, got {frozen_stages}')
        self.frozen_stages = frozen_stages

        self.img_size = to_2tuple(img_size)
        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        self.anchor_grid = self.patch_embed.grid(to_2tuple(anchor))
        self.rotary = RotaryEmbedding(self.embed_dims // self.num_heads, self.num_heads, **(rope_cfg or {}))
        if self.rotary.kind == '1d' and with_cls_token and cls_position != 'origin':
            raise ValueError(f"cls_position={cls_position!r} is a position of the 2D grid: use 'origin' with 1D RoPE")

        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims)) if with_cls_token else None
        self.interpolate_mode = interpolate_mode
        self.pos_embed = None
        if abs_pos_embed:
            self.pos_embed_grid = self.patch_embed.grid(self.img_size)
            tokens = self.pos_embed_grid[0] * self.pos_embed_grid[1]
            self.pos_embed = nn.Parameter(torch.zeros(1, tokens, self.embed_dims))
            self._register_load_state_dict_pre_hook(self._resize_loaded_pos_embed)
        self.peg = PEG(self.embed_dims) if peg else None
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.pre_norm = build_norm(norm_cfg, self.embed_dims) if pre_norm else nn.Identity()

        self.window_size = window_size
        self.mask_window_padding = check_mask_padding(mask_window_padding)
        self.window_block_indexes = frozenset(self.resolve_out_indices(window_block_indexes, self.num_layers))
        if self.window_block_indexes and with_cls_token:
            raise ValueError('windowed blocks have no place for a class token: set with_cls_token=False')

        attn_cfg = dict(qkv_bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=drop_rate, backend=backend)
        self.layers = nn.ModuleList()
        for i, rate in enumerate(drop_path_rates(drop_path_rate, self.num_layers, drop_path_mode)):
            if i in self.window_block_indexes:
                attn = WindowAttention(self.embed_dims, self.num_heads, window_size, **attn_cfg)
            else:
                attn = RotaryAttention(self.embed_dims, self.num_heads, **attn_cfg)
            self.layers.append(
                TransformerBlock(
                    attn,
                    build_ffn(dict(ffn_cfg, drop=drop_rate), self.embed_dims, hidden_dims),
                    build_norm(norm_cfg, self.embed_dims),
                    build_norm(norm_cfg, self.embed_dims),
                    embed_dims=self.embed_dims,
                    layer_scale_init_value=layer_scale_init_value,
                    drop_path=rate,
                    with_cp=with_cp,
                )
            )

        self.final_norm = final_norm
        self.ln1 = build_norm(norm_cfg, self.embed_dims) if final_norm else None
        self.ln2 = build_norm(norm_cfg, self.embed_dims) if out_type == 'avg_featmap' else None

        self.layers.apply(init_linear)
        for token in (self.cls_token, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        self._freeze_stages()

    def frozen_modules(self) -> list:
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embed, self.drop_after_pos, self.pre_norm, self.cls_token, self.pos_embed]
        parts += self.layers[: self.frozen_stages]
        if self.peg is not None and self.frozen_stages > 0:
            parts.append(self.peg)
        if self.frozen_stages == self.num_layers:
            parts += [self.ln1, self.ln2]
        return [part for part in parts if part is not None]

    @property
    def num_extra_tokens(self) -> int:
        """Tokens before the patch tokens."""
        return int(self.with_cls_token)

    def rotary_positions(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Positions of all tokens of ``grid`` (H, W), class token first: ``(N, 2)``, or ``(N, 1)`` for 1D RoPE."""
        positions = self.rotary.positions(grid, self.anchor_grid, device, dtype)
        if not self.with_cls_token:
            return positions
        token = positions.new_zeros(1, positions.shape[-1])
        if self.cls_position != 'origin':
            scale_x, scale_y = axis_scales(grid, self.anchor_grid, self.rotary.scale)
            token[:, 0] += (grid[1] - 1) * scale_x
            token[:, 1] -= scale_y if self.cls_position == 'released' else 0
        return torch.cat((token, positions))

    def rotary_contexts(
        self,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
    ) -> Dict[bool, object]:
        """Rotary context of the global (False) and of the windowed (True) blocks, made once for all blocks."""
        contexts = {}
        if len(self.window_block_indexes) < self.num_layers:
            contexts[False] = self.rotary(self.rotary_positions(grid, device, dtype))
        if self.window_block_indexes:
            contexts[True] = window_context(
                self.rotary, grid, self.window_size, self.mask_window_padding, device, dtype
            )
        return contexts

    def embed(self, x: Tensor) -> Tuple[Tensor, Tuple[int, int]]:
        """Images ``(B, 3, height, width)`` to patch tokens ``(B, H * W, C)`` and the grid (H, W)."""
        x, grid = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + resize_pos_embed(self.pos_embed, self.pos_embed_grid, grid, self.interpolate_mode)
        return x, grid

    def prepend_cls_token(self, x: Tensor) -> Tensor:
        """Patch tokens to all tokens: ``(B, N, C)`` to ``(B, 1 + N, C)`` if there is a class token."""
        if not self.with_cls_token:
            return x
        return torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Images ``(B, in_channels, height, width)`` to one output per out_index; shapes as ``out_type`` says."""
        x, grid = self.embed(x)
        x = self.pre_norm(self.drop_after_pos(self.prepend_cls_token(x)))  # [B, N, C]
        contexts = self.rotary_contexts(grid, x.device, x.dtype)
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x, contexts[i in self.window_block_indexes])
            if i == 0 and self.peg is not None:
                patches = self.peg(x[:, self.num_extra_tokens :], grid)
                x = torch.cat((x[:, : self.num_extra_tokens], patches), dim=1)
            if i == self.num_layers - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self.format_output(x, grid))
        return tuple(outs)

    def format_output(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """Tokens ``(B, N, C)`` to what ``out_type`` asks for."""
        if self.out_type == 'raw':
            return x
        if self.out_type == 'cls_token':
            return x[:, 0]
        patches = x[:, self.num_extra_tokens :]
        if self.out_type == 'featmap':
            return patches.transpose(1, 2).unflatten(2, tuple(grid)).contiguous()  # [B, C, H, W]
        return self.ln2(patches.mean(dim=1))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: Prefix of the backbone in the whole model.

        Returns:
            tuple: ``(depth, number of depths)``: 0 for the embedding, i + 1 for block i, the last for all else.
        """
        num_depths = self.num_layers + 2
        if not param_name.startswith(prefix):
            return num_depths - 1, num_depths
        name = param_name[len(prefix) :]
        if name in ('cls_token', 'pos_embed') or name.startswith(('patch_embed', 'pre_norm')):
            return 0, num_depths
        if name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, num_depths
        if name.startswith('peg'):
            return 1, num_depths
        return num_depths - 1, num_depths
