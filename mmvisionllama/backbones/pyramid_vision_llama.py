"""Pyramid VisionLLaMA (section 3.2)."""

from typing import Iterator, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import OptionError
from ..layers import (
    PEG,
    AS2DRoPE,
    AttentionContext,
    GlobalSubsampledAttention,
    GSAPositionCalibration,
    ImageSizes,
    PatchEmbed,
    TransformerBlock,
    ValidGrid,
    WindowAttention,
    build_ffn,
    build_norm,
    keep_in_graph,
    window_context,
)
from ..layers.embed import INTERPOLATE_MODES
from ..layers.options import check_flags, check_heads, checked_choice, checked_rate, checked_sides, checked_whole, made
from ..layers.window_attention import check_mask_padding
from .base import BaseBackbone, drop_path_rates, hidden_channels, init_conv, init_linear, per_stage, resolved_norm

MODELS.register_module(module=GSAPositionCalibration)  # the layers themselves are plain PyTorch


@MODELS.register_module()
class PyramidVisionLLaMA(BaseBackbone):
    """Pyramid VisionLLaMA: Twins-SVT's layout with SwiGLU and AS2DRoPE (section 3.2, Figure 2b, Table 16).

    Four stages; in each the blocks alternate between attention inside windows (LSA) and attention to sub-sampled keys
    (GSA), whose positions are the means of their cells (Figure 5). No class token. Argument names follow mmpretrain's
    ``SVT``. Any input size works in every call: sides that are no multiple of a patch, window or sub-sampling ratio are
    padded inside, positions are scaled onto each stage's grid at the ``anchor`` size, and nothing positional is stored
    unless ``abs_pos_embed`` or ``peg`` is set.

    Args:
        arch: ``'small'``, ``'base'`` or ``'large'``, or a dict with one value per stage under ``embed_dims``,
            ``depths`` and ``num_heads``, and optionally ``patch_sizes`` (4, 2, 2, 2), ``window_sizes`` (7, 7, 7, 7),
            ``sr_ratios`` (8, 4, 2, 1) and ``feedforward_channels`` (hidden sizes; by default int(8 C / 3) rounded up
            to a multiple of 256).
        img_size: Kept for configs; only ``abs_pos_embed`` depends on it.
        in_channels: Channels of the images.
        out_indices: Stages whose output is returned.
        qkv_bias: Bias of the q, k, v projections.
        drop_rate: Dropout after the embeddings, the attention projections and the feed-forward layers.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth rate of the last block.
        drop_path_mode: ``'linear'`` grows the rate from 0 over all blocks; ``'uniform'`` uses it in all.
        norm_cfg: Every norm, ``dict(type='LN', eps=1e-5)``.
        norm_after_stage: True puts a norm of its own on the output of each stage in ``out_indices``, False none, a list
            says it per stage. ``'in_trunk'`` norms every stage and lets the normed map flow on into the next one, as
            the released segmentation and detection models do, which changes the pre-trained trunk.
        out_type: ``'featmap'`` (B, C, H, W), ``'avg_featmap'`` (B, C; mean of the tokens) or ``'raw'`` (B, N, C).
        gap_norm: ``'once'`` norms the tokens before their mean; ``'twice'`` puts the mean through the same norm
            again, as the released classifier does.
        frozen_stages: 0 freezes the first patch embedding, k the first k stages; -1 freezes nothing.
        layer_scale_init_value: Initial value of LayerScale; 0 for none.
        anchor: Resolution that the weights were trained at, pixels or (height, width); each stage's grid follows.
        rope_cfg: Options of :class:`~mmvisionllama.layers.GSAPositionCalibration` and its ``AS2DRoPE`` (``kind``,
            ``base``, ``ratio``, ``share_heads``, ``ntk_alpha``, ``ntk_keys``, ``scale``, ``directions`` other than
            ``'mixed'``, ``freq_range``, ``num_directions``, ``yarn_range``), and ``anchor_grid``, a token grid (H0, W0)
            for every stage in the place of those that follow from ``anchor`` (the release has 14 x 14). Positions
            inside windows are never scaled: a window has one size at every resolution.
        key_position: ``'mean'`` of the cell, or ``'flat_index'`` as the released code has it.
        mask_padding: True hides the padding of partial windows; False attends to it, as the released code does.
        ffn_cfg: ``dict(type='swiglu' | 'gelu', bias=...)``.
        abs_pos_embed: Add a learnable position embedding of ``img_size``'s grid at the first stage (Table 7g).
        interpolate_mode: How that embedding is resized to other grids, in ``forward`` and when loading weights.
        peg: Add a position encoding generator after the first block of each stage (Table 7g).
        backend: Attention backend, see :func:`~mmvisionllama.layers.attend`.
        with_cp: Activation checkpointing of every block.
        init_cfg: mmengine's initialisation config; see :class:`BaseBackbone` for ``Pretrained``.

    Raises:
        ValueError: For an unknown arch, option or out_index, and for lists of different lengths. (``'released'`` is
            known to every switch.)

    Examples:
        >>> model = PyramidVisionLLaMA('small', out_indices=(0, 1, 2, 3))
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 160, 250))]
        [(1, 64, 40, 63), (1, 128, 20, 32), (1, 256, 10, 16), (1, 512, 5, 8)]
    """

    arch_zoo = {
        'small': dict(aliases=('s',), embed_dims=(64, 128, 256, 512), depths=(2, 2, 10, 4), num_heads=(2, 4, 8, 16)),
        'base': dict(aliases=('b',), embed_dims=(96, 192, 384, 768), depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        'large': dict(aliases=('l',), embed_dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    }
    arch_keys = ('embed_dims', 'depths', 'num_heads')
    arch_options = ('patch_sizes', 'window_sizes', 'sr_ratios', 'feedforward_channels')
    arch_defaults = dict(
        patch_sizes=(4, 2, 2, 2), window_sizes=(7, 7, 7, 7), sr_ratios=(8, 4, 2, 1), feedforward_channels=None
    )

    OUT_TYPES = ('featmap', 'avg_featmap', 'raw')
    GAP_NORMS = ('once', 'twice')
    #: options of ``rope_cfg`` that hold inside windows too
    WINDOW_OPTIONS = ('kind', 'base', 'ratio', 'share_heads', 'directions', 'freq_range', 'num_directions')
    #: tokens that are no patches, as mmpretrain's backbones say it
    num_extra_tokens = 0

    def __init__(
        self,
        arch: Union[str, dict] = 'small',
        img_size: Union[int, Sequence[int]] = 224,
        in_channels: int = 3,
        out_indices: Union[int, Sequence[int]] = (3,),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_path_mode: str = 'linear',
        norm_cfg: Optional[dict] = None,
        norm_after_stage: Union[bool, str, Sequence[bool]] = True,
        out_type: str = 'featmap',
        gap_norm: str = 'once',
        frozen_stages: int = -1,
        layer_scale_init_value: float = 1e-4,
        anchor: Union[int, Sequence[int]] = 224,
        rope_cfg: Optional[dict] = None,
        key_position: str = 'mean',
        mask_padding: Union[bool, str] = True,
        ffn_cfg: Optional[dict] = None,
        abs_pos_embed: bool = False,
        interpolate_mode: str = 'bicubic',
        peg: bool = False,
        backend: str = 'auto',
        with_cp: bool = False,
        init_cfg: Optional[Union[dict, list]] = None,
    ) -> None:
        super().__init__(init_cfg)
        settings = self.resolve_arch(arch)
        self.embed_dims: Tuple[int, ...] = tuple(settings['embed_dims'])
        self.depths: Tuple[int, ...] = tuple(settings['depths'])
        self.num_heads: Tuple[int, ...] = tuple(settings['num_heads'])
        self.num_stages = len(self.depths)
        self.window_sizes = settings['window_sizes']
        self.sr_ratios = settings['sr_ratios']
        self.out_type = checked_choice('out_type', out_type, self.OUT_TYPES)
        self.gap_norm = checked_choice('gap_norm', gap_norm, self.GAP_NORMS, {'released': 'twice'})
        if self.gap_norm == 'twice' and out_type != 'avg_featmap':
            raise ValueError("gap_norm='twice' norms the mean of the tokens: it needs out_type='avg_featmap'")
        self.out_indices = self.resolve_out_indices(out_indices, self.num_stages)
        self.frozen_stages = checked_whole('frozen_stages', frozen_stages, -1, self.num_stages)
        check_flags(abs_pos_embed=abs_pos_embed, peg=peg)
        checked_rate('drop_rate', drop_rate)
        self.mask_padding = check_mask_padding(mask_padding)
        self.norm_flows_on = norm_after_stage in ('in_trunk', 'released')
        has_norm = self._resolve_norms(norm_after_stage)
        norm_cfg = resolved_norm(norm_cfg or dict(type='LN', eps=1e-5))
        ffn_cfg = self.ffn_options(ffn_cfg, drop_rate)
        attn_cfg = dict(qkv_bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=drop_rate, backend=backend)
        block_cfg = dict(layer_scale_init_value=layer_scale_init_value, with_cp=with_cp)
        hidden_dims = settings['feedforward_channels'] or [None] * self.num_stages

        self.patch_embeds = nn.ModuleList()
        self.drops_after_pos = nn.ModuleList()
        self.stages = nn.ModuleList()
        self.window_rotaries = nn.ModuleList()
        self.calibrations = nn.ModuleList()
        self.pegs = nn.ModuleList(PEG(dims) for dims in self.embed_dims) if peg else None
        self.norms = nn.ModuleList()
        rates = iter(drop_path_rates(drop_path_rate, sum(self.depths), drop_path_mode))
        channels, anchor_grid = in_channels, checked_sides('anchor', anchor)
        for s, dims in enumerate(self.embed_dims):
            check_heads(dims, self.num_heads[s])
            self.patch_embeds.append(PatchEmbed(channels, dims, settings['patch_sizes'][s], build_norm(norm_cfg, dims)))
            self.drops_after_pos.append(nn.Dropout(drop_rate))
            anchor_grid = self.patch_embeds[s].grid(anchor_grid)
            channels = dims
            self._add_positions(s, anchor_grid, key_position, self.rope_options(rope_cfg))
            self._add_blocks(s, rates, hidden_dims[s], norm_cfg, ffn_cfg, attn_cfg, block_cfg)
            self.norms.append(build_norm(norm_cfg, dims) if has_norm[s] else nn.Identity())

        self.interpolate_mode = checked_choice('interpolate_mode', interpolate_mode, INTERPOLATE_MODES)
        self.pos_embed = None
        if abs_pos_embed:
            self.add_pos_embed(self.patch_embeds[0], img_size)
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(init_linear)
        self.apply(init_conv)
        self._freeze_stages()

    def _add_positions(self, stage: int, anchor_grid: Sequence[int], key_position: str, rope_cfg: dict) -> None:
        """Rotary embeddings of a stage: of its windows, and of its queries and sub-sampled keys."""
        heads, sr_ratio = self.num_heads[stage], self.sr_ratios[stage]
        head_dim = self.embed_dims[stage] // heads
        anchor_grid = rope_cfg.pop('anchor_grid', anchor_grid)
        in_windows = {k: v for k, v in rope_cfg.items() if k in self.WINDOW_OPTIONS}
        calibration = GSAPositionCalibration(
            head_dim, sr_ratio, num_heads=heads, anchor=anchor_grid, key_position=key_position, **rope_cfg
        )
        self.window_rotaries.append(made('rope_cfg', AS2DRoPE, head_dim, heads, **in_windows))
        self.calibrations.append(calibration)

    def _add_blocks(
        self,
        stage: int,
        rates: Iterator[float],
        hidden_dims: Optional[int],
        norm_cfg: dict,
        ffn_cfg: dict,
        attn_cfg: dict,
        block_cfg: dict,
    ) -> None:
        """The blocks of a stage: LSA, GSA, LSA, ..."""
        dims, heads = self.embed_dims[stage], self.num_heads[stage]
        hidden_dims = hidden_channels(dims, hidden_dims, ffn_cfg)
        blocks = nn.ModuleList()
        for j in range(self.depths[stage]):
            if j % 2:
                attn = GlobalSubsampledAttention(dims, heads, self.sr_ratios[stage], norm_cfg=norm_cfg, **attn_cfg)
            else:
                attn = WindowAttention(dims, heads, self.window_sizes[stage], **attn_cfg)
            blocks.append(
                TransformerBlock(
                    attn,
                    build_ffn(ffn_cfg, dims, hidden_dims),
                    build_norm(norm_cfg, dims),
                    build_norm(norm_cfg, dims),
                    embed_dims=dims,
                    drop_path=next(rates),
                    **block_cfg,
                )
            )
        self.stages.append(blocks)

    @classmethod
    def resolve_arch(cls, arch: Union[str, dict]) -> dict:
        """As :meth:`BaseBackbone.resolve_arch`, optional settings filled in and lengths checked."""
        return per_stage(super().resolve_arch(arch), cls.arch_defaults, ('depths', 'window_sizes', 'sr_ratios'))

    def _resolve_norms(self, norm_after_stage: Union[bool, str, Sequence[bool]]) -> List[bool]:
        """Whether each stage has a norm."""
        if norm_after_stage in ('in_trunk', 'released'):
            return [True] * self.num_stages
        if isinstance(norm_after_stage, bool):
            return [norm_after_stage and s in self.out_indices for s in range(self.num_stages)]
        if isinstance(norm_after_stage, (list, tuple)) and len(norm_after_stage) == self.num_stages:
            check_flags(**{f'norm_after_stage[{s}]': value for s, value in enumerate(norm_after_stage)})
            return list(norm_after_stage)
        raise OptionError(
            f"norm_after_stage must be True, False, 'in_trunk' or {self.num_stages} booleans, got {norm_after_stage!r}"
        )

    def frozen_modules(self) -> list:
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embeds[0], self.drops_after_pos[0], self.pos_embed]
        for s in range(self.frozen_stages):
            parts += [self.patch_embeds[s], self.drops_after_pos[s], self.stages[s], self.norms[s]]
            if self.pegs is not None:
                parts.append(self.pegs[s])
        return [part for part in parts if part is not None]

    def context(
        self,
        stage: int,
        block: int,
        grid: Sequence[int],
        device: Optional[torch.device] = None,
        dtype: torch.dtype = torch.float32,
        valid: Optional[ValidGrid] = None,
    ) -> AttentionContext:
        """What a block of a stage needs on ``grid`` (H, W): one context for all with LSA (even), one for GSA (odd)."""
        if block % 2:
            return self.calibrations[stage](grid, device, dtype, valid)
        rotary, window_size = self.window_rotaries[stage], self.window_sizes[stage]
        return window_context(rotary, grid, window_size, self.mask_padding, device, dtype, valid)

    def forward_stage(
        self, x: Tensor, stage: int, valid: Optional[ValidGrid] = None
    ) -> Tuple[Tensor, Tuple[int, int], Optional[ValidGrid]]:
        """Map ``(B, C', H', W')`` to the stage's tokens ``(B, H * W, C)``, before any stage norm, and their grids."""
        if valid is not None:
            x, valid = valid.hide_pixels(x), valid.coarser(self.patch_embeds[stage].patch_size)
        x, grid = self.patch_embeds[stage](x)
        if stage == 0 and self.pos_embed is not None:
            x = x + self.pos_embed_for(grid, valid)
        x = self.drops_after_pos[stage](x)
        contexts = [self.context(stage, kind, grid, x.device, x.dtype, valid) for kind in range(2)]
        for j, block in enumerate(self.stages[stage]):
            x = block(x, contexts[j % 2])
            if j == 0 and self.pegs is not None:
                x = self.pegs[stage](x if valid is None else valid.hide(x), grid)
        return x, grid, valid

    def forward(self, x: Tensor, mask: None = None, valid_sizes: Optional[ImageSizes] = None) -> Tuple[Tensor, ...]:
        """Images to one output per out_index; arguments and errors as :meth:`PlainBackbone.forward`."""
        self.refuse_mask(mask)
        valid = self.valid_pixels(x, valid_sizes)
        outs = []
        for stage in range(max(self.out_indices) + 1):
            x, grid, valid = self.forward_stage(x, stage, valid)
            if self.norm_flows_on:
                x = self.norms[stage](x)
            if self.is_output(stage):
                outs.append(self.format_output(x, stage, grid, valid))
            x = keep_in_graph(x, self.norms[stage])  # necks and heads may leave this output out
            x = x.transpose(1, 2).view(x.shape[0], x.shape[2], *grid)  # [B, C, H, W], channels last in memory
        return tuple(outs)

    def format_output(self, x: Tensor, stage: int, grid: Sequence[int], valid: Optional[ValidGrid]) -> Tensor:
        """Tokens ``(B, N, C)`` of a stage to its norm's output in the shape that ``out_type`` asks for."""
        norm = self.norms[stage]
        if not self.norm_flows_on:
            x = norm(x)
        if valid is not None:
            x = valid.hide(x)
        if self.out_type == 'raw':
            return x
        if self.out_type == 'featmap':
            return x.transpose(1, 2).unflatten(2, tuple(grid)).contiguous()  # [B, C, H, W]
        x = x.mean(dim=1) if valid is None else valid.mean(x)
        return norm(x) if self.gap_norm == 'twice' else x

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: Prefix of the backbone in the whole model.

        Returns:
            tuple: ``(depth, number of depths)``: 0 for the first patch embedding, i + 1 for block i counted over all
            stages, with the later patch embeddings and PEGs at the first block of their stage, the last for all else.
        """
        num_depths = sum(self.depths) + 2
        if not param_name.startswith(prefix):
            return num_depths - 1, num_depths
        part, *rest = param_name[len(prefix) :].split('.')
        if part == 'pos_embed':
            return 0, num_depths
        if part not in ('patch_embeds', 'stages', 'pegs'):
            return num_depths - 1, num_depths
        stage = int(rest[0])
        if part == 'patch_embeds' and stage == 0:
            return 0, num_depths
        block = int(rest[1]) if part == 'stages' else 0
        return sum(self.depths[:stage]) + block + 1, num_depths
