"""Dense necks and heads that ignore the padding of a batch, whatever library they come from.

Hooks on their layers: what a convolution or a pooling reads outside of an image is what it reads beyond the edge of the
map when the image is alone.
"""

from operator import floordiv
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..layers.options import ceil_div
from ..layers.valid_grid import BatchPixels, ValidGrid

#: of levels coarser than the backbone's first map, in its tokens
STRIDES = [2**power for power in range(1, 16)]
#: parts of a model whose maps show the whole padded batch; layers of a RoI head see regions
DENSE_PARTS = ('neck', 'rpn_head', 'bbox_head', 'decode_head', 'auxiliary_head')
#: logit of the anchors outside, and their shift, by which boxes lie beyond the image and are dropped there
NO_OBJECT, BEYOND = -1e4, 1e4


class PaddingHider:
    """Hides one batch's padding from a model's dense parts; :meth:`install` once, then set its :attr:`pixels`.

    Args:
        patch: Pixels (height, width) of a token of the backbone's first map; coarser levels halve its grid.

    Attributes:
        pixels (BatchPixels): Where the images are; None in it shows everything and costs nothing.
    """

    def __init__(self, patch: Sequence[int]) -> None:
        self.patch = tuple(patch)
        self.pixels = BatchPixels()

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
        tokens, grid = self.pixels.get().coarser(self.patch), x.shape[2:]
        # halved once or several times; a layer that drops an odd row drops it of an image alone, too
        for halved in (ceil_div, floordiv):
            for stride in STRIDES:
                if all(halved(side, stride) == n for side, n in zip(tokens.grid, grid)):
                    return ValidGrid(halved(tokens.sizes, stride).clamp(min=1), grid)
        # finer maps, and any others: what fills the batch fills the map
        sizes = [ceil_div(own * n, side) for own, n, side in zip(tokens.sizes.unbind(1), grid, tokens.grid)]
        return ValidGrid(torch.stack(sizes, dim=1), grid)

    def zero(self, module: nn.Module, args: Tuple) -> Optional[Tuple]:
        """Zeros outside, as the padding of a convolution."""
        return None if self.pixels.get() is None else (self.level(args[0]).hide_pixels(args[0]), *args[1:])

    def zero_output(self, module: nn.Module, args: Tuple, out: Tensor) -> Optional[Tensor]:
        """As :meth:`zero`, behind a layer."""
        return None if self.pixels.get() is None else self.level(out).hide_pixels(out)

    def lowest(self, module: nn.Module, args: Tuple) -> Optional[Tuple]:
        """The lowest number outside, as the padding of a maximum."""
        if self.pixels.get() is None:
            return None
        x = args[0]
        return (x.masked_fill(~self.level(x).mask[:, None], torch.finfo(x.dtype).min),)

    def own_mean(self, module: nn.Module, args: Tuple, out: Tensor) -> Optional[Tensor]:
        """The mean over a map with zeros outside, as the mean over each image."""
        if self.pixels.get() is None:
            return None
        share = self.level(args[0]).mask.float().mean(dim=(1, 2))
        return out / share.to(out.dtype)[:, None, None, None]

    def no_objects(self, module: nn.Module, args: Tuple, out: Any) -> Any:
        """No proposal comes from anchors outside: scores and boxes of all levels, each ``(B, C, H, W)``.

        What some heads return besides, as FCOS' centerness, stays.
        """
        if self.pixels.get() is None:
            return None
        scores, boxes = (
            [x.masked_fill(~self.level(x).mask[:, None], value) for x in maps]
            for maps, value in zip(out, (NO_OBJECT, BEYOND))
        )
        return scores, boxes, *out[2:]

    def continue_edges(self, module: nn.Module, args: Tuple, out: Sequence[Tensor]) -> Any:
        """Each image's last row and column go on outside, as RoIAlign reads a map beyond its edge."""
        return None if self.pixels.get() is None else tuple(map(self._continue_edges, out))

    def _continue_edges(self, x: Tensor) -> Tensor:
        for dim, last in zip((2, 3), self.level(x).sizes.unbind(1)):
            shape = [len(x), 1, 1, 1]
            shape[dim] = x.shape[dim]
            index = torch.arange(x.shape[dim], device=x.device).minimum(last[:, None] - 1)
            x = x.gather(dim, index.view(shape).expand(x.shape))
        return x
