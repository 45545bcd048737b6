"""The simple feature pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527, section 3): levels from the last map alone.

Registered as ``VisionLLaMASimpleFPN`` and ``VisionLLaMALN2d``: mmdetection's ViTDet project, which is not in its
package, takes the shorter names.
"""

from typing import Sequence, Tuple, Union

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers.options import at_least_fp32, checked_whole


@MODELS.register_module(name='VisionLLaMALN2d')
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of a map ``(B, C, H, W)``; a ``norm_cfg`` for mmdetection's heads.

    Computes in fp32 (fp64 for fp64) and returns the dtype of its weights whatever the autocast state: RoIAlign knows no
    bfloat16.

    Args:
        num_channels: Channels C.
        eps: Added to the variance. mmcv's builder passes 1e-5 where ``norm_cfg`` gives none.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape, channels last in memory."""
        x = x.permute(0, 2, 3, 1).to(at_least_fp32(x.dtype))
        x = F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return x.to(self.weight.dtype).permute(0, 3, 1, 2)


@MODELS.register_module(name='VisionLLaMASimpleFPN')
class SimpleFPN(BaseModule):
    """Feature pyramid from the last map of a plain backbone.

    The map's stride is divided by 4 and by 2 with transposed convolutions, kept, and doubled by max pooling; each of
    the four goes through a 1 x 1 and a 3 x 3 convolution with norms. Further levels sub-sample the last one. Works
    for maps of any size: a level covers the whole map, with one more row or column where a side is odd.

    Args:
        in_channels: Channels of the backbone's map, a multiple of 4.
        out_channels: Channels of every level.
        num_outs: Levels, 4 or more. Strides with patches of 16 pixels: 4, 8, 16, 32, 64, ...
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: For fewer than 4 levels or channels that 4 does not divide.

    Examples:
        >>> import torch
        >>> neck = SimpleFPN(768)
        >>> [tuple(level.shape[2:]) for level in neck((torch.rand(1, 768, 50, 84),))]
        [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        num_outs: int = 5,
        init_cfg: Union[dict, Sequence[dict], None] = None,
    ) -> None:
        super().__init__(init_cfg)
        checked_whole('num_outs', num_outs, 4)
        checked_whole('out_channels', out_channels)
        if checked_whole('in_channels', in_channels) % 4:
            raise ValueError(f'in_channels must be a multiple of 4, got {in_channels}')
        self.num_outs = num_outs
        half, quarter = in_channels // 2, in_channels // 4
        self.rescale = nn.ModuleList(
            (
                nn.Sequential(
                    nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                    LayerNorm2d(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, stride=2),
                ),
                nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2, stride=2, ceil_mode=True),
            )
        )
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for channels in (quarter, half, in_channels, in_channels)
        )

    def forward(self, inputs: Union[Tensor, Sequence[Tensor]]) -> Tuple[Tensor, ...]:
        """The map ``(B, in_channels, H, W)``, or the backbone's outputs of which the last is it, to ``num_outs`` maps.

        Levels are ``(B, out_channels, 4 H, 4 W)``, ``2 H``, ``H``, ``H / 2`` and so on, rounded up.
        """
        x = inputs if isinstance(inputs, Tensor) else inputs[-1]
        # mmcv's RoIAlign takes the memory of a map in the order B, C, H, W, whatever its strides say
        levels = [project(rescale(x)).contiguous() for rescale, project in zip(self.rescale, self.project)]
        while len(levels) < self.num_outs:
            levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        return tuple(levels)
