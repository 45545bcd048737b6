"""What the plain backbones share: patch tokens, a class token, blocks of one width, and their output formats."""

from typing import Callable, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ..layers import AttentionContext, ImageSizes, PatchEmbed, TransformerBlock, ValidGrid, build_ffn, build_norm
from ..layers.embed import INTERPOLATE_MODES
from ..layers.options import (
    check_flags,
    check_heads,
    checked_choice,
    checked_rate,
    checked_sides,
    checked_whole,
)
from .base import BaseBackbone, drop_path_rates, hidden_channels, init_linear, resolved_norm
from .packed import PackedForward


class PatchMap(nn.Identity):
    """Shows the patch tokens that enter the last block as a map ``(B, C, H, W)`` to whoever hooks it.

    Made for class activation maps (GradCAM and its kind): a place that needs no reshaping, knows grids that are no
    squares, and leaves out the class token wherever it stands (mmpretrain's vis_cam.py: ``--target-layers
    backbone.patch_map``, without ``--vit-like``). Without a forward hook nothing passes through it.
    """


class PlainBackbone(PackedForward, BaseBackbone):
    """Base of :class:`VisionLLaMA` and :class:`iLLaMA`, which describe the arguments.

    A subclass calls the constructor, then :meth:`build_layers`, and says in :meth:`embed_tokens` what enters the blocks
    and in :meth:`block_contexts` what their attention needs.
    """

    arch_keys = ('embed_dims', 'num_layers', 'num_heads')
    arch_options = ('feedforward_channels', 'ffn_bias')

    OUT_TYPES = ('raw', 'cls_token', 'featmap', 'avg_featmap')
    #: whether the class token stands behind the patches
    cls_token_last = False

    def __init__(
        self,
        arch: Union[str, dict],
        *,
        patch_size: int,
        in_channels: int,
        out_indices: Union[int, Sequence[int]],
        out_type: str,
        with_cls_token: bool,
        output_cls_token: bool,
        frozen_stages: int,
        anchor: Union[int, Sequence[int]],
        drop_rate: float,
        interpolate_mode: str,
        init_cfg: Optional[Union[dict, list]],
    ) -> None:
        super().__init__(init_cfg)
        settings = self.resolve_arch(arch)
        self.embed_dims: int = settings['embed_dims']
        self.num_layers: int = checked_whole('num_layers', settings['num_layers'])
        self.num_heads: int = settings['num_heads']
        self.arch_settings = settings
        check_heads(self.embed_dims, self.num_heads)
        check_flags(with_cls_token=with_cls_token, output_cls_token=output_cls_token)
        self.out_type = checked_choice('out_type', out_type, self.OUT_TYPES)
        if out_type == 'cls_token' and not with_cls_token:
            raise ValueError("out_type='cls_token' needs with_cls_token=True")
        self.with_cls_token = with_cls_token
        if output_cls_token and not (with_cls_token and out_type == 'featmap'):
            raise ValueError("output_cls_token=True needs out_type='featmap' and with_cls_token=True")
        self.output_cls_token = output_cls_token
        self.patch_map = PatchMap()
        self.out_indices = self.resolve_out_indices(out_indices, self.num_layers)
        self.frozen_stages = checked_whole('frozen_stages', frozen_stages, -1, self.num_layers)
        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        self.anchor_grid = self.patch_embed.grid(checked_sides('anchor', anchor))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims)) if with_cls_token else None
        #: learned tokens between the class token and the patches
        self.registers: Optional[nn.Parameter] = None
        self.num_registers = 0
        self.interpolate_mode = checked_choice('interpolate_mode', interpolate_mode, INTERPOLATE_MODES)
        self.pos_embed: Optional[nn.Parameter] = None
        self.drop_after_pos = nn.Dropout(checked_rate('drop_rate', drop_rate))

    def build_layers(
        self,
        build_attention: Callable[[int], nn.Module],
        *,
        norm_cfg: dict,
        ffn_cfg: dict,
        final_norm: bool,
        layer_scale_init_value: float,
        drop_rate: float,
        drop_path_rate: float,
        drop_path_mode: str,
        with_cp: bool,
    ) -> None:
        """Adds the blocks and the norms after them, and sets the initial values of all that is built here."""
        check_flags(final_norm=final_norm)
        norm_cfg = resolved_norm(norm_cfg)
        if 'ffn_bias' in self.arch_settings:
            ffn_cfg = dict(dict(bias=self.arch_settings['ffn_bias']), **ffn_cfg)
        hidden_dims = hidden_channels(self.embed_dims, self.arch_settings.get('feedforward_channels'), ffn_cfg)
        self.layers = nn.ModuleList(
            TransformerBlock(
                build_attention(i),
                build_ffn(self.ffn_options(ffn_cfg, drop_rate), self.embed_dims, hidden_dims),
                build_norm(norm_cfg, self.embed_dims),
                build_norm(norm_cfg, self.embed_dims),
                embed_dims=self.embed_dims,
                layer_scale_init_value=layer_scale_init_value,
                drop_path=rate,
                with_cp=with_cp,
            )
            for i, rate in enumerate(drop_path_rates(drop_path_rate, self.num_layers, drop_path_mode))
        )
        self.final_norm = final_norm
        self.ln1 = build_norm(norm_cfg, self.embed_dims) if final_norm else None
        self.ln2 = build_norm(norm_cfg, self.embed_dims) if self.out_type == 'avg_featmap' else None

        self.layers.apply(init_linear)
        for token in (self.cls_token, self.registers, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    def frozen_modules(self) -> list:
        """Embedding and the first blocks; with all blocks also the norms after them."""
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embed, self.drop_after_pos, self.cls_token, self.registers, self.pos_embed]
        parts += self.layers[: self.frozen_stages]
        if self.frozen_stages == self.num_layers:
            parts += [self.ln1, self.ln2]
        return [part for part in parts if part is not None]

    @property
    def extra_tokens(self) -> List[nn.Parameter]:
        """Tokens that are no patches, ``(1, n, C)`` each, in their order."""
        tokens = (self.cls_token if self.with_cls_token else None, self.registers)
        return [token for token in tokens if token is not None]

    @property
    def tokens_around(self) -> Tuple[int, int]:
        """Tokens before and behind the patches."""
        count = int(self.with_cls_token) + self.num_registers
        return (0, count) if self.cls_token_last else (count, 0)

    @property
    def num_extra_tokens(self) -> int:
        """Tokens before the patches, as mmpretrain's backbones say it: CAM tools cut off that many.

        0 for a class token behind them, where cutting off the first would shift the map by a patch without a word; with
        0 these tools find that H * H + 1 tokens are no square. :class:`PatchMap` serves them there.
        """
        return self.tokens_around[0]

    def with_token(self, patches: Tensor, token: Optional[Tensor]) -> Tensor:
        """Puts rows where the class token and registers stand: ``(B, N, C)`` and ``(B, n, C)`` to ``(B, N + n, C)``."""
        if token is None:
            return patches
        return torch.cat((patches, token) if self.cls_token_last else (token, patches), dim=1)

    def split_token(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        """Inverse of :meth:`with_token`; the class token is the first of the rows."""
        count = sum(self.tokens_around)
        if not count:
            return x, None
        return (x[:, :-count], x[:, -count:]) if self.cls_token_last else (x[:, count:], x[:, :count])

    def add_cls_token(self, patches: Tensor) -> Tensor:
        """Patch tokens to all tokens: ``(B, N, C)`` to ``(B, N + n, C)`` with a class token and registers."""
        tokens = [token.expand(patches.shape[0], -1, -1) for token in self.extra_tokens]  # len() stops a tracer
        if not tokens:
            return patches
        return torch.cat((patches, *tokens) if self.cls_token_last else (*tokens, patches), dim=1)

    def embed_tokens(self, x: Tensor, valid: Optional[ValidGrid] = None) -> Tuple[Tensor, Tuple[int, int]]:
        """Images ``(B, in_channels, height, width)`` to all tokens ``(B, N, C)`` and the patches' grid (H, W)."""
        raise NotImplementedError

    def block_contexts(
        self, grid: Sequence[int], x: Tensor, valid: Optional[ValidGrid] = None
    ) -> List[AttentionContext]:
        """One context for each block, made once for all blocks of a kind, for tokens ``x`` of ``grid``."""
        raise NotImplementedError

    def after_block(self, x: Tensor, index: int, grid: Sequence[int], valid: Optional[ValidGrid] = None) -> Tensor:
        """Tokens ``(B, N, C)`` between block ``index`` and the next."""
        return x

    def forward(
        self, x: Tensor, mask: None = None, valid_sizes: Optional[ImageSizes] = None
    ) -> Tuple[Union[Tensor, Tuple[Tensor, Tensor]], ...]:
        """Images to one output per out_index; shapes as ``out_type`` says.

        Args:
            x: ``(B, in_channels, height, width)``, or a list of images for :meth:`forward_packed`.
            mask: Must be None.
            valid_sizes: (height, width) of each image in pixels, ``(B, 2)``, if they are padded at their right and
                bottom. Each then has the output that it has alone; tokens of the padding come out as zeros.

        Raises:
            OptionError: For a mask.
        """
        self.refuse_mask(mask)
        if isinstance(x, (list, tuple)):
            return self.forward_packed(x)
        valid = self.valid_pixels(x, valid_sizes)
        if valid is not None:
            x, valid = valid.hide_pixels(x), valid.coarser(self.patch_embed.patch_size)
        x, grid = self.embed_tokens(x, valid)  # [B, N, C]
        outs = []
        for i, (layer, context) in enumerate(zip(self.layers, self.block_contexts(grid, x, valid))):
            if i == self.num_layers - 1 and self.patch_map._forward_hooks:
                x = self._through_patch_map(x, grid)
            x = self.after_block(layer(x, context), i, grid, valid)
            if i == self.num_layers - 1 and self.final_norm:
                x = self.ln1(x)
            if self.is_output(i):
                outs.append(self.format_output(x, grid, valid))
        return tuple(outs)

    def _through_patch_map(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        patches, token = self.split_token(x)
        maps = self.patch_map(patches.transpose(1, 2).unflatten(2, tuple(grid)))  # [B, C, H, W]
        return self.with_token(maps.flatten(2).transpose(1, 2), token)

    def format_output(
        self, x: Tensor, grid: Sequence[int], valid: Optional[ValidGrid] = None
    ) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """Tokens ``(B, N, C)`` to what ``out_type`` and ``output_cls_token`` ask for."""
        if valid is not None:
            x = valid.hide(x, *self.tokens_around)
        if self.out_type == 'raw':
            return x
        patches, token = self.split_token(x)
        if self.out_type == 'cls_token':
            return token[:, 0]
        if self.out_type == 'featmap':
            maps = patches.transpose(1, 2).unflatten(2, tuple(grid)).contiguous()  # [B, C, H, W]
            return (maps, token[:, 0]) if self.output_cls_token else maps
        return self.ln2(patches.mean(dim=1) if valid is None else valid.mean(patches))

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
        if name in ('cls_token', 'registers', 'pos_embed') or name.startswith(('patch_embed', 'pre_norm')):
            return 0, num_depths
        if name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, num_depths
        if name.startswith('peg'):
            return 1, num_depths
        return num_depths - 1, num_depths
