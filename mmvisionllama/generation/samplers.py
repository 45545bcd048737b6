"""From noise to data: ancestral DDPM and DDIM for a diffusion, ODE and SDE for an interpolant.

A sampler is called as ``sampler(model, noise)``. ``model(x, t)`` is the network with its labels and guidance;
``noise()`` gives the next standard normal draw, the first being the starting point. It returns the data. The number
of network evaluations is ``num_steps`` unless a class says otherwise.
"""

import math
from collections import deque
from typing import Callable, Iterator, Optional, Sequence

import numpy as np
import torch
from mmengine.registry import TASK_UTILS
from torch import Tensor

from ..errors import MissingExtraError, OptionError
from ..layers.options import checked_choice, checked_number, checked_positive, checked_whole
from .gaussian_diffusion import Denoiser, GaussianDiffusion, ReverseStep
from .interpolant import Field, LinearInterpolant

Noise = Callable[[], Tensor]


class SampleNoise:
    """Standard normal draws in which every sample has a random stream of its own.

    Stream i depends on ``(seed, index i)`` alone, so a sample is the same whatever batch, process or number of
    processes it is made in, and two samples never share noise. The streams are numpy's, on the CPU: torch's generators
    keep 32 bits of a seed, too few to tell 50,000 samples apart.

    Args:
        seed: Seed of the whole set.
        indices: Number of each sample in the set.
        shape: Shape of one sample.
        device: Where the draws are wanted.

    Examples:
        >>> noise = SampleNoise(0, [7, 8], (4, 32, 32))
        >>> noise().shape
        torch.Size([2, 4, 32, 32])
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: Sequence[int], device=None) -> None:
        self.shape = tuple(shape)
        self.device = device
        self.streams = [np.random.Generator(np.random.PCG64([int(seed), int(index)])) for index in indices]

    def __call__(self) -> Tensor:
        """The next draw, ``(B, *shape)``, fp32."""
        draws = [stream.standard_normal(self.shape, dtype=np.float32) for stream in self.streams]
        draws = torch.from_numpy(np.stack(draws))
        if self.device is not None and torch.device(self.device).type == 'cuda':
            draws = draws.pin_memory()  # so that the copy does not wait for the work before it
        return draws.to(self.device, non_blocking=True)


def times(t: float, x: Tensor) -> Tensor:
    """The same time for every sample, ``(B,)``, in x's dtype."""
    return torch.full((len(x),), float(t), device=x.device, dtype=x.dtype)


class _DiffusionSampler:
    """Visits the respaced steps of a diffusion from the noisiest to the first."""

    process_type = GaussianDiffusion

    def __init__(self, process: GaussianDiffusion, num_steps: int, clip: bool) -> None:
        _check_process(self, process)
        self.process = process.respace(checked_whole('num_steps', num_steps))
        self.clip = clip

    def states(self, model: Denoiser, noise: Noise) -> Iterator[Tensor]:
        """Yields the starting noise and the state after each step."""
        x = noise()
        yield x
        for step in reversed(range(self.process.num_timesteps)):
            t = torch.full((len(x),), step, device=x.device, dtype=torch.int64)
            output = model(x, self.process.network_time(t))
            x = self.step(self.process.reverse(output, x, t, self.clip), step, noise)
            yield x

    def __call__(self, model: Denoiser, noise: Noise) -> Tensor:
        return _last(self.states(model, noise))


@TASK_UTILS.register_module()
class DDPMSampler(_DiffusionSampler):
    """Ancestral sampling (DDPM, Algorithm 2) with the learned variance.

    Args:
        process: The diffusion that the network was trained with.
        num_steps: Steps, evenly spaced over the training process; the paper uses 250.
        clip: Clamp the implied data to [-1, 1] in every step; for images, not for latents.
    """

    def __init__(self, process: GaussianDiffusion, num_steps: int = 250, clip: bool = False) -> None:
        super().__init__(process, num_steps, clip)

    def step(self, reverse: ReverseStep, step: int, noise: Noise) -> Tensor:
        """Draws x_{t-1}; the last step adds no noise."""
        if step == 0:
            return reverse.mean
        return reverse.mean + (0.5 * reverse.log_variance).exp() * noise()


@TASK_UTILS.register_module()
class DDIMSampler(_DiffusionSampler):
    """DDIM (Song et al., Denoising Diffusion Implicit Models, 2021, eq. 12).

    Args:
        process: The diffusion that the network was trained with.
        num_steps: Steps, spaced as in :class:`DDPMSampler`.
        eta: 0 is deterministic; 1 has DDPM's posterior variance.
        clip: As in :class:`DDPMSampler`.
    """

    def __init__(self, process: GaussianDiffusion, num_steps: int = 50, eta: float = 0.0, clip: bool = False) -> None:
        super().__init__(process, num_steps, clip)
        self.eta = checked_number('eta', eta, 0)

    def step(self, reverse: ReverseStep, step: int, noise: Noise) -> Tensor:
        """x_{t-1} from the implied data and noise."""
        previous = self.process.alphas_previous[step].item()
        sigma = self.eta * self.process.posterior_variance[step].sqrt().item()
        x = math.sqrt(previous) * reverse.x0 + math.sqrt(max(1 - previous - sigma**2, 0)) * reverse.noise
        return x + sigma * noise() if sigma else x


#: names that torchdiffeq knows
ADAPTIVE = ('dopri5', 'dopri8', 'bosh3', 'adaptive_heun')
FIXED_STEP = ('euler', 'midpoint', 'heun2', 'rk4')


@TASK_UTILS.register_module()
class ODESampler:
    """Integrates dx/dt = v(x, t) from t = 0 to 1 with torchdiffeq.

    The adaptive methods choose their own steps: ``num_steps`` means nothing to them, and the tolerances decide the
    number of network evaluations. Their error norm runs over the whole batch, so a sample depends slightly on the
    others of its batch.

    Args:
        process: The interpolant that the network was trained with.
        method: ``'dopri5'`` (adaptive; the paper), another one of ``ADAPTIVE`` or one of ``FIXED_STEP``.
        num_steps: Equal steps of a fixed-step method.
        atol: Absolute tolerance of an adaptive method.
        rtol: Relative tolerance of an adaptive method.

    Raises:
        MissingExtraError: Without torchdiffeq.
        ValueError: For an unknown method.
    """

    process_type = LinearInterpolant

    def __init__(
        self,
        process: LinearInterpolant,
        method: str = 'dopri5',
        num_steps: int = 50,
        atol: float = 1e-6,
        rtol: float = 1e-3,
    ) -> None:
        _check_process(self, process)
        try:
            with torch.device('cpu'):  # its tables are made on import, and counting builds models on the meta device
                import torchdiffeq  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "the ODE sampler needs torchdiffeq: pip install 'mmvisionllama[generation]'"
            ) from error
        self.method = checked_choice('ODE method', method, ADAPTIVE + FIXED_STEP)
        self.num_steps = checked_whole('num_steps', num_steps)
        self.atol, self.rtol = checked_positive('atol', atol), checked_positive('rtol', rtol)

    def integrate(self, model: Field, x: Tensor, grid: Tensor) -> Tensor:
        """States at the times ``grid``, ``(T, B, ...)``; a fixed-step method takes one step between two times."""
        from torchdiffeq import odeint

        return odeint(
            lambda t, x: model(x, t.to(x.dtype).expand(len(x))),
            x,
            grid,
            method=self.method,
            atol=self.atol,
            rtol=self.rtol,
        )

    def __call__(self, model: Field, noise: Noise) -> Tensor:
        x = noise()
        points = self.num_steps + 1 if self.method in FIXED_STEP else 2
        return self.integrate(model, x, torch.linspace(0, 1, points, device=x.device, dtype=x.dtype))[-1]


#: diffusion coefficient w(t) by name
DIFFUSIONS = {
    'sigma': lambda t: 1 - t,
    'constant': lambda t: 1.0,
    'sine': lambda t: math.sin(math.pi * t) ** 2,
}


@TASK_UTILS.register_module()
class SDESampler:
    """Integrates dx = (v + w s) dt + sqrt(2 w) dW from noise to data (SiT; section A.1).

    The score is computed from the velocity, so each drift is one network evaluation; the released code makes two. With
    ``w = 1 - t`` the drift is ``(1 + t) v - x`` and nothing divides by ``1 - t``.

    Args:
        process: The interpolant that the network was trained with.
        method: ``'euler'`` (Euler-Maruyama; the paper) or ``'heun'`` (two evaluations a step).
        num_steps: States from t = 0 to ``1 - last_step_size``, both included; as the last step takes the place of the
            first state, also the number of steps, and of evaluations with ``'euler'``.
        diffusion: Coefficient w(t): ``'sigma'`` (1 - t; released), ``'constant'`` (1) or ``'sine'`` (sin^2(pi t)).
        diffusion_scale: Factor of w.
        last_step: ``'mean'`` follows the drift without noise over the last step (released); ``'euler'`` follows the
            velocity alone; ``'none'`` makes noisy steps up to t = 1.
        last_step_size: Length of that step.

    Raises:
        ValueError: For an unknown name, fewer than 2 steps, or a last step outside (0, 1).
    """

    process_type = LinearInterpolant

    def __init__(
        self,
        process: LinearInterpolant,
        method: str = 'euler',
        num_steps: int = 250,
        diffusion: str = 'sigma',
        diffusion_scale: float = 1.0,
        last_step: str = 'mean',
        last_step_size: float = 0.04,
    ) -> None:
        _check_process(self, process)
        self.process = process
        self.method = checked_choice('SDE method', method, ('euler', 'heun'))
        self.diffusion = checked_choice('SDE diffusion', diffusion, tuple(DIFFUSIONS))
        self.diffusion_scale = checked_number('diffusion_scale', diffusion_scale, 0)
        self.last_step = checked_choice('SDE last step', last_step, ('mean', 'euler', 'none'))
        checked_whole('num_steps of the SDE', num_steps, 2)
        if not 0 < last_step_size < 1:
            raise OptionError(f'the SDE needs a last step size between 0 and 1, got {last_step_size!r}')
        if method == 'heun' and last_step == 'none' and diffusion != 'sigma':
            raise ValueError(
                f"Heun's last evaluation is at t = 1, where the score is infinite and {diffusion!r} keeps it"
            )
        self.num_steps = num_steps
        self.last_step_size = last_step_size

    def coefficient(self, t: float) -> float:
        """w(t)."""
        return self.diffusion_scale * DIFFUSIONS[self.diffusion](t)

    def drift(self, model: Field, x: Tensor, t: float) -> Tensor:
        """``v + w s``, one network evaluation."""
        velocity = model(x, times(t, x))
        if self.diffusion == 'sigma':  # w s = (1 - t) s has no pole at t = 1
            return velocity + self.diffusion_scale * (t * velocity - x)
        return velocity + self.coefficient(t) * self.process.score(velocity, x, times(t, x))

    def states(self, model: Field, noise: Noise) -> Iterator[Tensor]:
        """Yields the state after each step; the last one is the data."""
        x = noise()
        end = 1.0 if self.last_step == 'none' else 1 - self.last_step_size
        # without a last step the num_steps noisy ones end at t = 1
        grid = np.linspace(0, end, self.num_steps + (self.last_step == 'none'))
        for t, dt in zip(grid[:-1].tolist(), np.diff(grid).tolist()):
            kick = math.sqrt(2 * self.coefficient(t) * dt) * noise()
            if self.method == 'euler':
                x = x + self.drift(model, x, t) * dt + kick
            else:
                start = x + kick
                first = self.drift(model, start, t)
                x = start + 0.5 * dt * (first + self.drift(model, start + dt * first, t + dt))
            yield x
        if self.last_step == 'none':
            return
        if self.last_step == 'mean':
            x = x + self.drift(model, x, end) * self.last_step_size
        else:
            x = x + model(x, times(end, x)) * self.last_step_size
        yield x

    def __call__(self, model: Field, noise: Noise) -> Tensor:
        return _last(self.states(model, noise))


def _last(states: Iterator[Tensor]) -> Tensor:
    # keeps one: 250 states of 64 images of 256 pixels would be 12 GB
    return deque(states, maxlen=1).pop()


def _check_process(sampler, process) -> None:
    if not isinstance(process, sampler.process_type):
        raise ValueError(
            f'{type(sampler).__name__} samples a {sampler.process_type.__name__}, and this model was trained with '
            f'{type(process).__name__}'
        )


#: short names, for the command line
SAMPLERS = {
    'ddpm': dict(type='DDPMSampler'),
    'ddim': dict(type='DDIMSampler'),
    'ode': dict(type='ODESampler'),
    'ode-euler': dict(type='ODESampler', method='euler'),
    'ode-heun': dict(type='ODESampler', method='heun2'),
    'sde': dict(type='SDESampler'),
    'sde-heun': dict(type='SDESampler', method='heun'),
}


def build_sampler(cfg: Optional[dict], process):
    """Builds a sampler of ``process`` from a config dict, or from one of the names in ``SAMPLERS``.

    Raises:
        ValueError: For an unknown name, or a sampler of the other kind of process.
    """
    if isinstance(cfg, str):
        cfg = SAMPLERS[checked_choice('sampler', cfg, tuple(SAMPLERS))]
    return TASK_UTILS.build(dict(cfg), default_args=dict(process=process))
