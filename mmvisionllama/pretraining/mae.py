"""The MAE encoder (section 4.2): VisionLLaMA over the visible patches, each at its own position."""

from typing import Any, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..backbones import VisionLLaMA
from ..backbones.packed import Pack, split
from ..layers import ImageSizes, gather_context
from ..layers.options import checked_rate
from ..layers.segments import join


@MODELS.register_module()
class MAEVisionLLaMA(VisionLLaMA):
    """Encoder for mmpretrain's ``MAE`` with its own ``MAEPretrainDecoder`` and ``MAEPretrainHead``.

    Only the visible patches pass through the blocks; each keeps the rotary angles of its place in the whole grid. No
    class token passes through them: a learnable token joins the latents after the last block, where the decoder
    expects a class token, and shares the final norm with them.

    The released MAE code builds wider networks: see :class:`VisionLLaMA` about ``base-wide`` and ``large-wide``.

    Args:
        arch: As :class:`VisionLLaMA`.
        mask_ratio: Part of the patches that is hidden, in [0, 1).
        out_type: What ``mask=False`` returns: ``'raw'`` (B, N, C), ``'featmap'`` or ``'avg_featmap'``.
        layer_scale_init_value: Initial value of LayerScale; none in the MAE recipes.
        **kwargs: As :class:`VisionLLaMA`.

    Raises:
        ValueError: For a mask ratio out of range, and for options that need every token of the grid or a class token
            in the encoder (``window_block_indexes``, ``peg``, ``with_cls_token``, ``num_registers``).

    Examples:
        >>> encoder = MAEVisionLLaMA('base')
        >>> latent, mask, ids_restore = encoder(torch.rand(2, 3, 224, 224))
        >>> latent.shape, mask.shape
        (torch.Size([2, 50, 768]), torch.Size([2, 196]))
    """

    OUT_TYPES = ('raw', 'featmap', 'avg_featmap')

    def __init__(
        self,
        arch: Union[str, dict] = 'base',
        mask_ratio: float = 0.75,
        *,
        out_type: str = 'raw',
        layer_scale_init_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        checked_rate('mask_ratio', mask_ratio)
        for option in ('window_block_indexes', 'peg', 'with_cls_token', 'num_registers'):
            if kwargs.get(option):
                raise ValueError(f'the MAE encoder sees a part of the patches and no other tokens: leave {option} out')
        kwargs['with_cls_token'] = False
        super().__init__(arch, out_type=out_type, layer_scale_init_value=layer_scale_init_value, **kwargs)
        self.mask_ratio = mask_ratio
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.embed_dims))
        self.init_mae()
        self._freeze_stages()

    def init_mae(self) -> None:
        """MAE's initial values: Xavier for the linear layers and the patch embedding, which counts as one."""
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.xavier_uniform_(self.patch_embed.projection.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)

    def frozen_modules(self) -> list:
        """As in the backbone; the class token, which joins behind the blocks, freezes with the norm after them."""
        parts = super().frozen_modules()
        if self.frozen_stages == self.num_layers:
            return parts
        return [part for part in parts if part is not self.cls_token]

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """As in the backbone; the class token, which joins behind the blocks, has the depth of the norm after them."""
        return super().get_layer_depth(f'{prefix}ln1' if param_name == f'{prefix}cls_token' else param_name, prefix)

    def random_masking(self, noise: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """The patches with the smallest noise stay visible.

        Args:
            noise: One number per patch, ``(B, N)``.

        Returns:
            tuple: ``ids_keep`` (B, N_keep), the visible patches; ``mask`` (B, N), float, 1 = hidden; ``ids_restore``
            (B, N), the place of each patch in the order visible first, hidden last.
        """
        tokens = noise.shape[1]
        num_keep = int(round(tokens * (1 - self.mask_ratio), 6))  # 1 - 0.9 is a little less than 0.1
        if num_keep == 0:
            raise ValueError(
                f'mask_ratio {self.mask_ratio:g} hides all {tokens} patches: lower it or use larger images'
            )
        ids_shuffle = noise.argsort(dim=1)
        ids_restore = ids_shuffle.argsort(dim=1)
        mask = (ids_restore >= num_keep).float()
        return ids_shuffle[:, :num_keep], mask, ids_restore

    def forward(
        self,
        x: Tensor,
        mask: Optional[bool] = True,
        noise: Optional[Tensor] = None,
        valid_sizes: Optional[ImageSizes] = None,
    ) -> Union[Tuple[Tensor, Tensor, Tensor], Tuple[Tensor, ...]]:
        """Encodes the visible patches, or the whole image.

        Args:
            x: Images ``(B, in_channels, height, width)`` of any size; ``H * W`` patches.
            mask: False or None returns the features of the whole image, as :class:`VisionLLaMA` does.
            noise: Given, it takes the place of the uniform noise drawn from torch's generator, ``(B, H * W)``.
            valid_sizes: As :class:`VisionLLaMA`, for the features of whole images.

        Raises:
            OptionError: For a mask that is a tensor.
            ValueError: For padded images that are to be masked: their numbers of patches differ.

        Returns:
            tuple: The latents, token of the decoder first, ``(B, 1 + N_keep, C)``, then ``mask`` and ``ids_restore``
            as :meth:`random_masking` gives them.
        """
        if isinstance(mask, Tensor):
            self.refuse_mask(mask)  # a method that chooses the patches itself
        if not mask:
            return super().forward(x, valid_sizes=valid_sizes)
        if isinstance(x, (list, tuple)):
            return self.forward_packed(x, True, noise)
        if self.valid_pixels(x, valid_sizes) is not None:
            raise ValueError('masking needs images of one size without padding: resize or crop them to one size')
        x, grid = self.embed(x)  # [B, N, C]
        if noise is None:
            noise = torch.rand(x.shape[:2], device=x.device)
        elif noise.shape != x.shape[:2]:
            raise ValueError(
                f'noise must be of shape {tuple(x.shape[:2])}, one number per patch, got {tuple(noise.shape)}'
            )
        ids_keep, hidden, ids_restore = self.random_masking(noise)
        x = x.gather(1, ids_keep[..., None].expand(-1, -1, x.shape[-1]))  # [B, N_keep, C]
        x = self.pre_norm(self.drop_after_pos(x))
        context = gather_context(self.rotary_contexts(grid, x.device, x.dtype)[False], ids_keep)
        for layer in self.layers:
            x = layer(x, context)
        x = torch.cat((self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1), x), dim=1)  # [B, 1 + N_keep, C]
        return (x if self.ln1 is None else self.ln1(x)), hidden, ids_restore

    def forward_packed(
        self, images: Sequence[Tensor], mask: Optional[bool] = False, noise: Optional[Sequence[Tensor]] = None
    ) -> Union[List[Tuple[Tensor, Tensor, Tensor]], Tuple[Union[Tensor, List[Tensor]], ...]]:
        """Images of any sizes, each encoded as it is alone.

        Args:
            images: ``(in_channels, height, width)`` each.
            mask: True hides a part of each image's patches; otherwise as :meth:`VisionLLaMA.forward_packed`.
            noise: One number per patch, ``(N,)``, for each image.

        Returns:
            list: For each image the latents ``(1 + N_keep, C)``, its mask ``(N,)`` and ``ids_restore`` ``(N,)``.
        """
        if not mask:
            return super().forward_packed(images)
        pack = Pack(images, self.first_patch)
        if noise is not None and len(noise) != len(images):
            raise ValueError(f'noise must have one entry for each of {len(images)} images, got {len(noise)}')
        tokens, positions, scales, masks = [], [], [], []
        for batch, members in zip(pack.batches, pack.members):
            x, grid = self.embed(batch)  # [count, N, C]
            ranks = (
                torch.rand(x.shape[:2], device=x.device) if noise is None else torch.stack([noise[n] for n in members])
            )
            if ranks.shape != x.shape[:2]:
                raise ValueError(f'noise must be one number per patch, {x.shape[1]} here, got {ranks.shape[1]}')
            ids_keep, hidden, ids_restore = self.random_masking(ranks)
            x = x.gather(1, ids_keep[..., None].expand(-1, -1, x.shape[-1]))  # [count, N_keep, C]
            tokens.append(self.pre_norm(self.drop_after_pos(x)))
            positions.append(self.rotary_positions(grid, x.device, x.dtype)[ids_keep])
            scales.append(self.logit_scale and self.logit_factor(grid))
            masks.append((hidden, ids_restore))
        shapes = [part.shape[:2] for part in tokens]
        context = pack.context(self.rotary, positions, [length for _, length in shapes], scales)
        x = join(tokens)  # [1, T, C]
        for layer in self.layers:
            x = layer(x, context)
        latents = []
        for part in split(x, shapes):
            part = torch.cat((self.cls_token.to(part.dtype).expand(len(part), -1, -1), part), dim=1)
            latents.append(part if self.ln1 is None else self.ln1(part))
        return pack.in_order([list(zip(latent, *ids)) for latent, ids in zip(latents, masks)])
