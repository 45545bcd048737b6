"""Dense necks and heads that ignore the padding of a batch, whatever library they come from.

Hooks on their layers: what a convolution or a pooling reads outside of an image is what it reads beyond the edge of the
map when the image is alone.
"""

import math
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..layers.valid_grid import ValidGrid

#: parts of a model whose maps show the whole padded batch; layers of a RoI head see regions
DENSE_PARTS = ('neck', 'rpn_head', 'bbox_head', 'decode_head', 'auxiliary_head')
#: logit of the anchors outside, and their shift, by which boxes lie beyond the image and are dropped there
NO_OBJECT, BEYOND = -1e4, 1e4


class PaddingHider:
    """Hides one batch's padding from a model's dense parts; :meth:`install` once, then set :attr:`pixels`.

    Args:
        patch: Pixels (height, width) of a token of the backbone's first map; a level's stride is it times a power of 2.

    Attributes:
        pixels (ValidGrid, optional): Where the images are; None shows everything and costs nothing.
    """

    def __init__(self, patch: Sequence[int]) -> None:
        self.patch = tuple(patch)
        self.pixels: Optional[ValidGrid] = None

    def install(self, model: nn.Module) -> None:
        """Puts the hooks on the layers of ``model``."""
        parts = dict(model.named_children())
        for name in DENSE_PARTS:
            for module in parts[name].modules() if name in parts else ():
                if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
                    module.register_forward_pre_hook(self.zero)
                elif isinstance(module, nn.MaxPool2d):
                    module.register_forward_pre_hook(self.lowest)
                    module.register_forward_hook(self.zero_output)
                elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
                    module.register_forward_pre_hook(self.zero)
                    module.register_forward_hook(self.own_mean)
        if 'rpn_head' in parts:
            model.rpn_head.register_forward_hook(self.no_objects)
        if 'neck' in parts and 'roi_head' in parts:
            model.neck.register_forward_hook(self.continue_edges)

    def level(self, x: Tensor) -> ValidGrid:
        """Where the images are in a map ``(B, C, H, W)`` of the batch."""
        # the smallest stride that makes a map of this size: a larger one would make a smaller map
        ratio = max(side / n / p for side, n, p in zip(self.pixels.grid, x.shape[2:], self.patch))
        power = math.ceil(math.log2(ratio) - 1e-6)
        tokens = self.pixels.coarser(self.patch)
        if power < 0:
            return ValidGrid(tokens.sizes << -power, x.shape[2:])
        return ValidGrid(tokens.coarser((1 << power,) * 2).sizes, x.shape[2:])

    def zero(self, module: nn.Module, args: Tuple) -> Optional[Tuple]:
        """Zeros outside, as the padding of a convolution."""
        return None if self.pixels is None else (self.level(args[0]).hide_pixels(args[0]), *args[1:])

    def zero_output(self, module: nn.Module, args: Tuple, out: Tensor) -> Optional[Tensor]:
        """As :meth:`zero`, behind a layer."""
        return None if self.pixels is None else self.level(out).hide_pixels(out)

    def lowest(self, module: nn.Module, args: Tuple) -> Optional[Tuple]:
        """The lowest number outside, as the padding of a maximum."""
        if self.pixels is None:
            return None
        x = args[0]
        return (x.masked_fill(~self.level(x).mask[:, None], torch.finfo(x.dtype).min),)

    def own_mean(self, module: nn.Module, args: Tuple, out: Tensor) -> Optional[Tensor]:
        """The mean over a map with zeros outside, as the mean over each image."""
        if self.pixels is None:
            return None
        share = self.level(args[0]).mask.float().mean(dim=(1, 2))
        return out / share.to(out.dtype)[:, None, None, None]

    def no_objects(self, module: nn.Module, args: Tuple, out: Any) -> Any:
        """No proposal comes from anchors outside: scores and boxes of all levels, each ``(B, C, H, W)``."""
        if self.pixels is None:
            return None
        scores, boxes = (
            [x.masked_fill(~self.level(x).mask[:, None], value) for x in maps]
            for maps, value in zip(out, (NO_OBJECT, BEYOND))
        )
        return scores, boxes

    def continue_edges(self, module: nn.Module, args: Tuple, out: Sequence[Tensor]) -> Any:
        """Each image's last row and column go on outside, as RoIAlign reads a map beyond its edge."""
        return None if self.pixels is None else tuple(map(self._continue_edges, out))

    def _continue_edges(self, x: Tensor) -> Tensor:
        for dim, last in zip((2, 3), self.level(x).sizes.unbind(1)):
            shape = [len(x), 1, 1, 1]
            shape[dim] = x.shape[dim]
            index = torch.arange(x.shape[dim], device=x.device).minimum(last[:, None] - 1)
            x = x.gather(dim, index.view(shape).expand(x.shape))
        return x
