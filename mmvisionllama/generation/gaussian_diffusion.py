"""The DDPM objective and its reverse process, as DiT-LLaMA uses them (section 4.1, D.10).

Sources: Ho et al., Denoising Diffusion Probabilistic Models (the paper's [28]), cited as DDPM; Nichol and Dhariwal,
Improved Denoising Diffusion Probabilistic Models (2021), cited as iDDPM.

Legend: x0 data, x_t data with the noise of step t, a_t = prod(1 - beta) the cumulative product, B batch.
"""

import math
from typing import Callable, Dict, NamedTuple, Optional, Sequence

import torch
from mmengine.registry import TASK_UTILS
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]


class ReverseStep(NamedTuple):
    """Distribution of x_{t-1} given x_t, all ``(B, channels, height, width)``.

    Attributes:
        mean (Tensor): Mean.
        log_variance (Tensor): Logarithm of the learned variance.
        x0 (Tensor): The data that the predicted noise implies.
        noise (Tensor): The predicted noise, for the x0 above.
    """

    mean: Tensor
    log_variance: Tensor
    x0: Tensor
    noise: Tensor


def gaussian_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)) per element, in nats."""
    return 0.5 * (log_var2 - log_var1 + (log_var1 - log_var2).exp() + (mean1 - mean2) ** 2 * (-log_var2).exp() - 1)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log of the mass that N(mean, variance) gives to the 1/255-wide bin around ``x`` in [-1, 1] (DDPM eq. 13).

    The normal distribution function is the tanh approximation that DDPM, iDDPM and DiT share. Bins at the ends reach
    to infinity.
    """

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    inverse_std = (-0.5 * log_variance).exp()
    upper = cdf(inverse_std * (x - mean + 1 / 255))
    lower = cdf(inverse_std * (x - mean - 1 / 255))
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()


@TASK_UTILS.register_module()
class GaussianDiffusion:
    """Linear noise schedule, noise prediction, learned-range variance.

    Training minimises the squared error of the noise plus the variational bound, where the mean is detached so that
    the bound teaches the variance alone (iDDPM eq. 16; without its factor, as DiT has it).

    Tables are computed and indexed on the CPU in float64 and cast afterwards: float32 tables alone cost 2e-4 in the
    loss.

    Args:
        num_timesteps: Steps of the training process.
        beta_start: Variance of the first step's noise.
        beta_end: Variance of the last step's noise; linear between them.
        learn_sigma: The network's output has a second half that places the log variance between its bounds (iDDPM
            eq. 15); False uses the posterior variance.

    Raises:
        ValueError: For a schedule outside 0 < beta_start <= beta_end < 1.

    Examples:
        >>> diffusion = GaussianDiffusion()
        >>> diffusion.respace(250).timestep_map[:3].tolist()
        [0, 4, 8]
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        learn_sigma: bool = True,
    ) -> None:
        if num_timesteps < 2 or not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f'a schedule needs at least 2 steps and 0 < beta_start <= beta_end < 1, '
                f'got {num_timesteps} steps from {beta_start} to {beta_end}'
            )
        self.learn_sigma = learn_sigma
        betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64, device='cpu')
        self._set_tables(betas, torch.arange(num_timesteps, device='cpu'))

    def _set_tables(self, betas: Tensor, timestep_map: Tensor) -> None:
        alphas = (1 - betas).cumprod(0)
        previous = torch.cat((alphas.new_ones(1), alphas[:-1]))
        variance = betas * (1 - previous) / (1 - alphas)  # DDPM eq. 7
        self.betas = betas
        self.timestep_map = timestep_map
        self.alphas = alphas
        self.alphas_previous = previous
        self.posterior_variance = variance
        # the first step's variance is 0: its neighbour, or a single step's beta, stands in for the logarithm
        first = variance[1:2] if len(betas) > 1 else betas
        self.posterior_log_variance = torch.cat((first, variance[1:])).log()
        self.posterior_x0_factor = betas * previous.sqrt() / (1 - alphas)
        self.posterior_xt_factor = (1 - previous) * (1 - betas).sqrt() / (1 - alphas)

    @property
    def num_timesteps(self) -> int:
        """Steps of this process."""
        return len(self.betas)

    def respace(self, steps: int) -> 'GaussianDiffusion':
        """The process that visits ``steps`` of the steps only, evenly spaced from the first to the last (iDDPM
        section 4).

        Its betas are those that give the kept steps the same a_t; networks still see the original step numbers.

        Raises:
            ValueError: Unless ``1 <= steps <= num_timesteps``.
        """
        if not 1 <= steps <= self.num_timesteps:
            raise ValueError(f'sampling takes 1 ... {self.num_timesteps} steps, got {steps}')
        stride = (self.num_timesteps - 1) / max(steps - 1, 1)
        kept = torch.tensor([round(i * stride) for i in range(steps)], device='cpu')
        alphas = self.alphas[kept]
        respaced = object.__new__(type(self))
        respaced.learn_sigma = self.learn_sigma
        respaced._set_tables(1 - alphas / torch.cat((alphas.new_ones(1), alphas[:-1])), self.timestep_map[kept])
        return respaced

    @staticmethod
    def _at(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """Rows ``t`` of a float64 table, cast and shaped to multiply ``like``."""
        values = values[t.cpu()].to(like.device, torch.promote_types(like.dtype, torch.float32))
        return values.view(-1, *[1] * (like.ndim - 1))

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of DDPM eq. 4: ``sqrt(a_t) x0 + sqrt(1 - a_t) noise``."""
        return self._at(self.alphas.sqrt(), t, x0) * x0 + self._at((1 - self.alphas).sqrt(), t, x0) * noise

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x0), DDPM eq. 7."""
        return self._at(self.posterior_x0_factor, t, x_t) * x0 + self._at(self.posterior_xt_factor, t, x_t) * x_t

    def x0_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The data that ``x_t`` holds if ``noise`` is its noise (DDPM eq. 4, solved)."""
        return self._at(self.alphas.rsqrt(), t, x_t) * x_t - self._at((1 / self.alphas - 1).sqrt(), t, x_t) * noise

    def noise_from_x0(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """The noise of ``x_t`` if ``x0`` is its data."""
        return (self._at(self.alphas.rsqrt(), t, x_t) * x_t - x0) / self._at((1 / self.alphas - 1).sqrt(), t, x_t)

    def log_variance(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Logarithm of the reverse step's variance; ``output`` is the network's second half in [-1, 1]."""
        low = self._at(self.posterior_log_variance, t, x_t)
        if not self.learn_sigma:
            return low.expand_as(x_t)
        high = self._at(self.betas.log(), t, x_t)
        share = (output + 1) / 2
        return share * high + (1 - share) * low

    def reverse(self, output: Tensor, x_t: Tensor, t: Tensor, clip: bool = False) -> ReverseStep:
        """The learned reverse step.

        Args:
            output: The network's output for ``(x_t, timestep_map[t])``, ``(B, channels or 2 channels, ...)``.
            x_t: Noisy latents.
            t: Steps of this process, ``(B,)``, int64.
            clip: Clamp the implied data to [-1, 1] (images; latents are not bounded).

        Raises:
            ValueError: If the channels of ``output`` do not fit ``learn_sigma``.
        """
        noise, variance = self.split(output, x_t)
        x0 = self.x0_from_noise(x_t, t, noise)
        if clip:
            x0 = x0.clamp(-1, 1)
            noise = self.noise_from_x0(x_t, t, x0)
        return ReverseStep(self.posterior_mean(x0, x_t, t), self.log_variance(variance, x_t, t), x0, noise)

    def split(self, output: Tensor, x_t: Tensor) -> Sequence[Tensor]:
        """Noise and variance halves of a network's output, at least fp32."""
        channels = x_t.shape[1]
        expected = 2 * channels if self.learn_sigma else channels
        if output.shape[1] != expected:
            raise ValueError(
                f'the network returns {output.shape[1]} channels where this diffusion needs {expected}: '
                f'learn_sigma (here {self.learn_sigma}) must be the same in both, with return_sigma=True'
            )
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        return output[:, :channels], output[:, channels:]

    def losses(
        self,
        model: Denoiser,
        x0: Tensor,
        t: Optional[Tensor] = None,
        noise: Optional[Tensor] = None,
    ) -> Dict[str, Tensor]:
        """Training losses of each sample.

        Args:
            model: Called as ``model(x_t, t)``.
            x0: Data, ``(B, channels, height, width)``.
            t: Steps ``(B,)``; drawn uniformly if None.
            noise: Shape of ``x0``; drawn if None.

        Returns:
            dict: ``loss_mse`` and, with a learned variance, ``loss_vb`` (bits per dimension), each ``(B,)``.
        """
        if t is None:
            t = torch.randint(self.num_timesteps, (len(x0),), device='cpu')  # on the CPU, where the tables are
        if noise is None:
            noise = torch.randn_like(x0)
        x_t = self.add_noise(x0, t, noise)
        output = model(x_t, self.timestep_map[t.cpu()].to(x0.device, non_blocking=True))
        predicted, variance = self.split(output, x0)
        losses = dict(loss_mse=(noise - predicted).square().flatten(1).mean(1))
        if self.learn_sigma:
            frozen = torch.cat((predicted.detach(), variance), dim=1)
            losses['loss_vb'] = self.variational_bound(frozen, x0, x_t, t)
        return losses

    def variational_bound(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Term t of the variational bound in bits per dimension, ``(B,)`` (DDPM eq. 5, iDDPM eq. 4 to 7)."""
        step = self.reverse(output, x_t, t)
        log_variance = self._at(self.posterior_log_variance, t, x_t)
        kl = gaussian_kl(self.posterior_mean(x0, x_t, t), log_variance, step.mean, step.log_variance)
        nll = -discretised_log_likelihood(x0, step.mean, step.log_variance)
        first = (t == 0).to(x_t.device).view(-1, *[1] * (x_t.ndim - 1))
        return torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)
