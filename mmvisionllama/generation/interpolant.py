"""The linear interpolant with velocity prediction that SiT-LLaMA trains (section A.1).

Source: Ma et al., SiT (the paper's [45]), cited as SiT. Time runs from noise (t = 0) to data (t = 1).

Legend: x0 noise, x1 data, x_t = t x1 + (1 - t) x0, v velocity, s score, B batch.
"""

from typing import Callable, Dict, Optional

import torch
from mmengine.registry import TASK_UTILS
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """``(B,)`` shaped to multiply ``like``."""
    return t.to(torch.promote_types(like.dtype, torch.float32)).view(-1, *[1] * (like.ndim - 1))


@TASK_UTILS.register_module()
class LinearInterpolant:
    """Straight paths from noise to data; the network learns the mean velocity ``x1 - x0`` at each point.

    Examples:
        >>> interpolant = LinearInterpolant()
        >>> interpolant.losses(lambda x, t: torch.zeros_like(x), torch.zeros(2, 4, 8, 8))['loss_velocity'].shape
        torch.Size([2])
    """

    def interpolate(self, x1: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """x_t of data ``x1`` and noise ``x0`` at times ``(B,)`` in [0, 1]."""
        t = per_sample(t, x1)
        return t * x1 + (1 - t) * x0

    def velocity(self, x1: Tensor, x0: Tensor) -> Tensor:
        """Time derivative of x_t."""
        return x1 - x0

    def score(self, velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Gradient of the log density of x_t, for t < 1: ``(t v - x_t) / (1 - t)``."""
        t = per_sample(t, x_t)
        return (t * velocity - x_t) / (1 - t)

    def data(self, velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Expected data given x_t: ``x_t + (1 - t) v``."""
        return x_t + (1 - per_sample(t, x_t)) * velocity

    def losses(
        self,
        model: Field,
        x1: Tensor,
        t: Optional[Tensor] = None,
        x0: Optional[Tensor] = None,
    ) -> Dict[str, Tensor]:
        """Training loss of each sample.

        Args:
            model: Called as ``model(x_t, t)``, returns the velocity.
            x1: Data, ``(B, channels, height, width)``.
            t: Times ``(B,)`` in [0, 1]; drawn uniformly, in fp32, if None.
            x0: Noise; drawn if None.

        Returns:
            dict: ``loss_velocity``, ``(B,)``.

        Raises:
            ValueError: If the network returns another number of channels than the data has.
        """
        if t is None:
            t = torch.rand(len(x1), device=x1.device)
        if x0 is None:
            x0 = torch.randn_like(x1)
        predicted = model(self.interpolate(x1, x0, t), t)
        if predicted.shape[1] != x1.shape[1]:
            raise ValueError(
                f'the network returns {predicted.shape[1]} channels for data of {x1.shape[1]}: an interpolant learns '
                f'no variance, so set return_sigma=False'
            )
        return dict(loss_velocity=(predicted - self.velocity(x1, x0)).square().flatten(1).mean(1))
