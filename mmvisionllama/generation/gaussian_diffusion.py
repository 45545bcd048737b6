"""The DDPM objective and its reverse process, as DiT-LLaMA uses them (section 4.1, D.10).

Sources: Ho et al., Denoising Diffusion Probabilistic Models (the paper's [28]), cited as DDPM; Nichol and Dhariwal,
Improved Denoising Diffusion Probabilistic Models (2021), cited as iDDPM.

Legend: x0 data, x_t data with the noise of step t, a_t = prod(1 - beta) the cumulative product, B batch.
"""

import math
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

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

    Tables are computed on the CPU in float64 and cast afterwards (float32 alone costs 2e-4 in the loss). Each device
    that asks keeps a copy, so that a training step copies nothing from the host.

    Args:
        num_timesteps: Steps of the training process.
        beta_start: Variance of the first step's noise.
        beta_end: Variance of the last step's noise; linear between them.
        learn_sigma: The network's output has a second half that places the log variance between its bounds (iDDPM
            eq. 15); False uses the posterior variance.
        visited: The steps that this process visits, ascending; all by default. See :meth:`respace`.

    Raises:
        ValueError: For a schedule outside 0 < beta_start <= beta_end < 1, and for steps that it does not have.

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
        visited: Optional[Sequence[int]] = None,
    ) -> None:
        if num_timesteps < 2 or not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f'a schedule needs at least 2 steps and 0 < beta_start <= beta_end < 1, '
                f'got {num_timesteps} steps from {beta_start} to {beta_end}'
            )
        self.learn_sigma = learn_sigma
        self.schedule = dict(num_timesteps=num_timesteps, beta_start=beta_start, beta_end=beta_end)
        self.betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64, device='cpu')
        self.timestep_map = torch.arange(num_timesteps, device='cpu')
        if visited is not None:
            kept = torch.tensor(visited, dtype=torch.int64, device='cpu')
            if not len(kept) or kept[0] < 0 or kept[-1] >= num_timesteps or (kept.diff() < 1).any():
                raise ValueError(f'visited needs ascending steps out of 0 ... {num_timesteps - 1}, got {list(visited)}')
            alphas = (1 - self.betas).cumprod(0)[kept]
            self.betas = 1 - alphas / torch.cat((alphas.new_ones(1), alphas[:-1]))
            self.timestep_map = kept
        self._make_tables()

    def _make_tables(self) -> None:
        alphas = (1 - self.betas).cumprod(0)
        previous = torch.cat((alphas.new_ones(1), alphas[:-1]))
        variance = self.betas * (1 - previous) / (1 - alphas)  # DDPM eq. 7
        self.alphas = alphas
        self.alphas_previous = previous
        self.posterior_variance = variance
        # the first step's variance is 0: its neighbour, or a single step's beta, stands in for the logarithm
        first = variance[1:2] if len(alphas) > 1 else self.betas
        self.posterior_log_variance = torch.cat((first, variance[1:])).log()
        self._tables = dict(
            data=alphas.sqrt(),
            noise=(1 - alphas).sqrt(),
            inverse_data=alphas.rsqrt(),
            inverse_noise=(1 / alphas - 1).sqrt(),
            posterior_x0=self.betas * previous.sqrt() / (1 - alphas),
            posterior_xt=(1 - previous) * (1 - self.betas).sqrt() / (1 - alphas),
            log_variance_low=self.posterior_log_variance,
            log_variance_high=self.betas.log(),
            timestep=self.timestep_map,
        )
        self._on_device: Dict[Tuple[str, torch.device, torch.dtype], Tensor] = {}

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _on_device={})  # copies and files hold the tables once

    @property
    def num_timesteps(self) -> int:
        """Steps of this process."""
        return len(self.betas)

    def respace(self, steps: int) -> 'GaussianDiffusion':
        """The process that visits ``steps`` of the steps only, evenly spaced from the first to the last (iDDPM
        section 4); one step is the last.

        Its betas are those that give the kept steps the same a_t; networks still see the original step numbers.

        Raises:
            ValueError: Unless ``1 <= steps <= num_timesteps``.
        """
        if not 1 <= steps <= self.num_timesteps:
            raise ValueError(f'sampling takes 1 ... {self.num_timesteps} steps, got {steps}')
        last = self.num_timesteps - 1
        stride = last / max(steps - 1, 1)
        # a single step goes from pure noise to the data
        visited = [self.timestep_map[round(i * stride) if steps > 1 else last].item() for i in range(steps)]
        return type(self)(**self.schedule, learn_sigma=self.learn_sigma, visited=visited)

    def _table(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        """A table on a device, copied there at its first use."""
        key = (name, device, dtype)
        if key in self._on_device:
            return self._on_device[key]
        with torch.inference_mode(False):  # one that is made while sampling serves training too
            table = self._tables[name].to(dtype).to(device)
        # a tracer's or torch.func's stand-in must not outlive what it was made for
        if type(table) is Tensor and not torch._C._are_functorch_transforms_active():
            self._on_device[key] = table
        return table

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Rows ``t`` of a table, shaped to multiply ``like``, in its dtype but at least fp32."""
        table = self._table(name, like.device, torch.promote_types(like.dtype, torch.float32))
        return table[t.to(like.device)].view(-1, *[1] * (like.ndim - 1))

    def network_time(self, t: Tensor, device: Optional[torch.device] = None) -> Tensor:
        """Numbers ``(B,)`` of the steps ``t`` in the training process, which networks see; on t's device by default."""
        device = t.device if device is None else device
        return self._table('timestep', device, torch.int64)[t.to(device)]

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of DDPM eq. 4: ``sqrt(a_t) x0 + sqrt(1 - a_t) noise``."""
        return self._at('data', t, x0) * x0 + self._at('noise', t, x0) * noise

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x0), DDPM eq. 7."""
        return self._at('posterior_x0', t, x_t) * x0 + self._at('posterior_xt', t, x_t) * x_t

    def x0_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The data that ``x_t`` holds if ``noise`` is its noise (DDPM eq. 4, solved)."""
        return self._at('inverse_data', t, x_t) * x_t - self._at('inverse_noise', t, x_t) * noise

    def noise_from_x0(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """The noise of ``x_t`` if ``x0`` is its data."""
        return (self._at('inverse_data', t, x_t) * x_t - x0) / self._at('inverse_noise', t, x_t)

    def log_variance(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Logarithm of the reverse step's variance; ``output`` is the network's second half in [-1, 1]."""
        low = self._at('log_variance_low', t, x_t)
        if not self.learn_sigma:
            return low.expand_as(x_t)
        high = self._at('log_variance_high', t, x_t)
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
            t = torch.randint(self.num_timesteps, (len(x0),), device=x0.device)
        if noise is None:
            noise = torch.randn_like(x0)
        x_t = self.add_noise(x0, t, noise)
        output = model(x_t, self.network_time(t, x0.device))
        predicted, variance = self.split(output, x0)
        losses = dict(loss_mse=(noise - predicted).square().flatten(1).mean(1))
        if self.learn_sigma:
            frozen = torch.cat((predicted.detach(), variance), dim=1)
            losses['loss_vb'] = self.variational_bound(frozen, x0, x_t, t)
        return losses

    def variational_bound(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Term t of the variational bound in bits per dimension, ``(B,)`` (DDPM eq. 5, iDDPM eq. 4 to 7)."""
        step = self.reverse(output, x_t, t)
        log_variance = self._at('log_variance_low', t, x_t)
        kl = gaussian_kl(self.posterior_mean(x0, x_t, t), log_variance, step.mean, step.log_variance)
        nll = -discretised_log_likelihood(x0, step.mean, step.log_variance)
        first = (t == 0).to(x_t.device).view(-1, *[1] * (x_t.ndim - 1))
        return torch.where(first, nll, kl).flatten(1).mean(1) / math.log(2)
