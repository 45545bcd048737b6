"""Sampling a whole set of images, in one process or several."""

from typing import Callable, Iterator, Optional, Sequence

from torch import Tensor

from .generator import ImageGenerator


def batches(count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[range]:
    """Indices of the batches that process ``rank`` of ``world_size`` makes.

    The set is cut into batches in the same way for any number of processes, so that even samplers whose steps depend
    on the batch (the adaptive ODE) make the same set.
    """
    for start in range(rank * batch_size, count, world_size * batch_size):
        yield range(start, min(start + batch_size, count))


def sample_set(
    model: ImageGenerator,
    labels: Sequence[int],
    write: Callable[[range, Tensor], None],
    *,
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    made: Optional[Callable[[range], bool]] = None,
    **options,
) -> None:
    """Draws one image per label and hands each batch on; every index is made by exactly one process.

    Args:
        model: The generator.
        labels: Class of each sample of the set.
        write: Called with the indices and the uint8 images ``(B, channels, height, width)`` of each batch.
        batch_size: Samples per batch. The adaptive ODE depends on it, other samplers do not.
        rank: Number of this process.
        world_size: Number of processes.
        made: Says of the indices of a batch whether its images are there already, and need not be made.
        **options: As :meth:`ImageGenerator.sample`.
    """
    for indices in batches(len(labels), batch_size, rank, world_size):
        if made is None or not made(indices):
            write(indices, model.sample([labels[i] for i in indices], indices=indices, **options))
