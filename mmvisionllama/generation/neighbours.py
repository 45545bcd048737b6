"""Precision and recall: distances between all samples and all reference images, shared by processes."""

from contextlib import contextmanager
from typing import Callable, Dict, Iterator

import numpy as np
import torch
from mmengine.dist import all_reduce, get_dist_info
from torch import Tensor


@contextmanager
def full_precision() -> Iterator[None]:
    """fp32 products and convolutions in fp32, whatever the launcher allows: TF32 cannot tell neighbours apart."""
    cudnn = torch.backends.cudnn
    precision, allowed = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision('highest')
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32 = allowed


def _squared_distances(one: Tensor, two: Tensor) -> Tensor:
    """``(N, D)`` and ``(M, D)`` to ``(N, M)``."""
    norms = one.square().sum(1)[:, None] + two.square().sum(1)
    return norms.addmm_(one, two.T, alpha=-2).clamp_(min=0)


class _Shares:
    """Rows in chunks, of which each process computes its own; the results are the same in all of them.

    Chunks are cut in the same way for any number of processes, so that the products, and their rounding, are the same.
    """

    def __init__(self, chunk: int, shared: bool) -> None:
        self.chunk = chunk
        self.rank, self.world_size = get_dist_info() if shared else (0, 1)

    def map(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """``function`` of each chunk ``(n, D)``, which returns ``(n,)``: together ``(N,)``, fp32."""
        result = rows.new_zeros(len(rows), dtype=torch.float32)
        step = self.chunk * self.world_size
        for start in range(self.rank * self.chunk, len(rows), step):
            part = slice(start, start + self.chunk)
            result[part] = function(rows[part])
        if self.world_size > 1:
            all_reduce(result)  # the others' rows are 0 here
        return result


def precision_recall(
    samples: np.ndarray,
    reference: np.ndarray,
    neighbour: int = 3,
    chunk: int = 1000,
    device: str = 'cpu',
    shared: bool = False,
) -> Dict[str, float]:
    """Improved precision and recall (Kynkaanniemi et al., the paper's [34]) of features ``(N, D)`` and ``(M, D)``.

    Precision is the part of the samples that lie in the ball of some reference image, whose radius is the distance to
    its k-th nearest reference image; recall the same with the roles exchanged. Distances are computed in fp32,
    between features around 0.

    Args:
        samples: Features of the samples.
        reference: Features of the reference images.
        neighbour: k.
        chunk: Rows whose distances are held at once.
        device: Where distances are computed; the CPU uses as many cores as torch may.
        shared: Share the work over the processes of the default group, all of which must call this with the same
            features. The result is that of one process.

    Raises:
        ValueError: For sets that have no k-th neighbour.
    """
    if min(len(samples), len(reference)) <= neighbour:
        raise ValueError(
            f'precision and recall with {neighbour} neighbours need more images than that, '
            f'got {len(samples)} and {len(reference)}'
        )
    mean = np.mean(reference, axis=0, dtype=np.float64)  # far from the origin, fp32 would lose the differences
    samples, reference = (
        torch.as_tensor((x - mean.astype(x.dtype)).astype(np.float32, copy=False), device=device)
        for x in map(np.asarray, (samples, reference))
    )
    shares = _Shares(chunk, shared)

    def radius(part: Tensor, centres: Tensor) -> Tensor:
        """Squared distance of each row to its k-th nearest other row; the nearest is the row itself."""
        return _squared_distances(part, centres).kthvalue(neighbour + 1, dim=1).values

    def covered(points: Tensor, centres: Tensor) -> float:
        radii = shares.map(lambda part: radius(part, centres), centres)
        inside = shares.map(lambda part: (_squared_distances(part, centres) <= radii).any(dim=1).float(), points)
        return inside.double().mean().item()

    with full_precision():
        return dict(precision=covered(samples, reference), recall=covered(reference, samples))
