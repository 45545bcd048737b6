"""Images of any sizes in one token sequence: attention and stochastic depth inside each image's own run of tokens.

Legend: T tokens of the whole sequence, h heads, d head dim.
"""

from typing import Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor


class Segments:
    """The runs of one packed sequence, those of equal lengths next to each other.

    Args:
        groups: (number of images, tokens of each) in the order of the sequence.
    """

    def __init__(self, groups: Sequence[Tuple[int, int]]) -> None:
        self.groups: List[Tuple[int, int]] = []
        for count, length in groups:
            if self.groups and self.groups[-1][1] == length:
                count += self.groups.pop()[0]
            self.groups.append((count, length))
        self._bounds: Optional[Tensor] = None
        self._images: Optional[Tensor] = None

    @property
    def lengths(self) -> List[int]:
        """Tokens of each image."""
        return [length for count, length in self.groups for _ in range(count)]

    def bounds(self, device: torch.device) -> Tensor:
        """Where each run begins, and the end of the last: ``(images + 1,)`` int32."""
        if self._bounds is None:  # one copy to the GPU for all blocks
            self._bounds = torch.tensor([0, *self.lengths]).cumsum(0, dtype=torch.int32).to(device)
        return self._bounds

    def split(self, x: Tensor) -> List[Tensor]:
        """Tokens ``(1, T, ...)`` to one batch ``(images, tokens, ...)`` for each length, without a copy."""
        parts = x[0].split([count * length for count, length in self.groups])
        return [part.unflatten(0, group) for part, group in zip(parts, self.groups)]

    def spread(self, values: Tensor) -> Tensor:
        """One value for each image, ``(images,)``, to its tokens: ``(1, T, 1)``."""
        if self._images is None:  # as the bounds
            images = torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))
            self._images = images.to(values.device)
        return values[self._images][None, :, None]


def join(parts: Sequence[Tensor]) -> Tensor:
    """Inverse of :meth:`Segments.split`: batches ``(images, tokens, ...)`` to ``(1, T, ...)``."""
    return torch.cat([part.flatten(0, 1) for part in parts])[None]


def attend_segments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    attend: Callable[..., Tensor],
    run_packed: Optional[Callable[..., Tensor]] = None,
) -> Tensor:
    """Attention of each image to itself.

    Args:
        q: ``(1, T, h, d)``, as are k and v.
        k: Keys.
        v: Values.
        segments: The runs.
        attend: ``(images, h, tokens, d)`` three times to the same, called once for each length.
        run_packed: Called once instead, with ``(T, h, d)`` three times, the bounds of the runs ``(images + 1,)`` int32
            and the longest run's tokens; see :class:`~.attention_backends.AttentionBackend`.

    Returns:
        Tensor: ``(1, T, h, d)``.
    """
    if run_packed is not None:
        return run_packed(q[0], k[0], v[0], segments.bounds(q.device), max(segments.lengths))[None]
    batches = zip(*(segments.split(t) for t in (q, k, v)))
    return join([attend(*(t.transpose(1, 2) for t in batch)).transpose(1, 2) for batch in batches])
