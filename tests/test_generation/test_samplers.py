"""Samplers against closed forms, and the noise streams."""

import math
import subprocess
import sys
import weakref

import pytest
import torch

from mmvisionllama.generation import (
    DDIMSampler,
    DDPMSampler,
    GaussianDiffusion,
    LinearInterpolant,
    ODESampler,
    SampleNoise,
    SDESampler,
    build_sampler,
)

MEAN, STD = 0.7, 0.4
FIXED = GaussianDiffusion(learn_sigma=False)


class Counted:
    """A model that counts its calls."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, x, t):
        self.calls += 1
        return self.model(x, t)


def noise_of(count=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64)


def best_noise(x, t):
    """E[noise | x_t] for data N(MEAN, STD^2) under DDPM's schedule."""
    bar = FIXED.alphas[t].view(-1, 1, 1, 1)
    return (1 - bar).sqrt() * (x - bar.sqrt() * MEAN) / (bar * STD**2 + 1 - bar)


def best_velocity(x, t):
    t = t.view(-1, 1, 1, 1)
    return MEAN + (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2) * (x - t * MEAN)


def constant_sde():
    """A last step along the drift would pull the samples together, the more the larger w is."""
    return SDESampler(LinearInterpolant(), diffusion='constant', last_step='euler')


SAMPLERS = {
    'ddpm': (lambda: DDPMSampler(FIXED, 250), best_noise, 250),
    'ddim': (lambda: DDIMSampler(FIXED, 100), best_noise, 100),
    'ddim-eta1': (lambda: DDIMSampler(FIXED, 250, eta=1.0), best_noise, 250),
    'ode-euler': (lambda: ODESampler(LinearInterpolant(), 'euler', 100), best_velocity, 100),
    'ode-heun': (lambda: ODESampler(LinearInterpolant(), 'heun2', 20), best_velocity, 40),
    'sde': (lambda: SDESampler(LinearInterpolant(), num_steps=250), best_velocity, 250),
    'sde-heun': (lambda: SDESampler(LinearInterpolant(), 'heun', 100), best_velocity, 199),
    'sde-sine': (lambda: SDESampler(LinearInterpolant(), diffusion='sine'), best_velocity, 250),
    'sde-constant': (
        lambda: constant_sde(),
        best_velocity,
        250,
    ),
    'sde-last-euler': (lambda: SDESampler(LinearInterpolant(), last_step='euler'), best_velocity, 250),
    'sde-no-last': (lambda: SDESampler(LinearInterpolant(), last_step='none'), best_velocity, 250),
}


@pytest.mark.parametrize('name', SAMPLERS)
def test_gaussian_data(name):
    """With the best possible network every sampler draws the data's mean and spread, with the promised evaluations."""
    make, model, calls = SAMPLERS[name]
    model = Counted(model)
    x = make()(model, noise_of())
    assert model.calls == calls
    assert x.dtype == torch.float64
    assert x.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert x.std().item() == pytest.approx(STD, abs=0.03)


def test_adaptive_ode_reaches_the_exact_flow():
    """The flow of Gaussian data maps noise z to MEAN + STD z."""
    z = torch.randn(50, 1, 1, 1, dtype=torch.float64)
    model = Counted(best_velocity)
    x = ODESampler(LinearInterpolant(), atol=1e-9, rtol=1e-9)(model, lambda: z)
    assert torch.allclose(x, MEAN + STD * z, atol=1e-6)
    loose = Counted(best_velocity)
    ODESampler(LinearInterpolant())(loose, lambda: z)
    assert loose.calls < model.calls


@pytest.mark.parametrize('kind', [DDIMSampler, DDPMSampler])
def test_one_step_goes_from_noise_to_the_mean(kind):
    x = kind(FIXED, 1)(best_noise, noise_of())
    assert x.mean().item() == pytest.approx(MEAN, abs=0.03) and x.std().item() < 0.1


def test_ddim_is_deterministic_and_exact_for_a_point():
    """Data that is one point: the implied data is the point at every step."""
    point = torch.full((3, 1, 1, 1), 0.3, dtype=torch.float64)

    def model(x, t):
        bar = FIXED.alphas[t].view(-1, 1, 1, 1)
        return (x - bar.sqrt() * point) / (1 - bar).sqrt()

    draws = iter([torch.randn(3, 1, 1, 1, dtype=torch.float64)])
    assert torch.allclose(DDIMSampler(FIXED, 7)(model, lambda: next(draws)), point)  # one draw only


def test_ddpm_step_by_hand():
    """Two steps written out from DDPM's Algorithm 2 with the posterior's variance."""
    draws = [torch.randn(2, 1, 1, 1, dtype=torch.float64) for _ in range(2)]
    given = iter(draws)
    out = DDPMSampler(FIXED, 2)(lambda x, t: 0.5 * x, lambda: next(given))
    bars = [1 - 1e-4, math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(1000))]
    x = draws[0]
    for step in (1, 0):
        beta = 1 - bars[1] / bars[0] if step else 1 - bars[0]
        mean = (x - beta / math.sqrt(1 - bars[step]) * 0.5 * x) / math.sqrt(1 - beta)
        x = mean + (math.sqrt(beta * (1 - bars[0]) / (1 - bars[1])) * draws[1] if step else 0)
    assert torch.allclose(out, x, rtol=1e-6)


def test_clip_keeps_the_data_in_range():
    x = DDPMSampler(FIXED, 20, clip=True)(lambda x, t: -x, noise_of(8))
    assert x.abs().max() <= 1 + 1e-9
    assert DDPMSampler(FIXED, 20)(lambda x, t: -x, noise_of(8)).abs().max() > 2


@pytest.mark.parametrize('kind, process', [(DDPMSampler, FIXED), (SDESampler, LinearInterpolant())])
def test_one_state_is_kept(kind, process):
    """250 states of large images would fill a card."""
    seen, most = [], 0

    def model(x, t):
        nonlocal most
        seen.append(weakref.ref(x))
        most = max(most, sum(state() is not None for state in seen))
        return torch.zeros_like(x)

    kind(process, num_steps=20)(model, noise_of(1))
    assert len(seen) >= 20 and most <= 3


def test_released_sde_grid():
    """249 noisy steps on [0, 0.96] and one of 0.04 without noise."""
    seen = []
    sampler = SDESampler(LinearInterpolant())
    sampler(lambda x, t: seen.append(t[0].item()) or torch.zeros_like(x), noise_of(1))
    assert len(seen) == 250 and seen[0] == 0 and seen[1] == pytest.approx(0.96 / 249)
    assert seen[-1] == pytest.approx(0.96)


def test_noise_streams():
    one = SampleNoise(5, range(6), (2, 3))
    first, second = one(), one()
    assert first.shape == (6, 2, 3) and not torch.equal(first, second)
    parts = [SampleNoise(5, part, (2, 3)) for part in ([4, 0], [1, 2, 3, 5])]
    order = [4, 0, 1, 2, 3, 5]
    assert torch.equal(torch.cat([part() for part in parts]), first[order])
    assert torch.equal(torch.cat([part() for part in parts]), second[order])
    assert not torch.equal(SampleNoise(6, range(6), (2, 3))(), first)
    large = SampleNoise(2**40, [2**33, 2**33 + 2**32], (1000,))()  # more than 32 bits of seed and index matter
    assert not torch.equal(large[0], large[1])
    assert large.std().item() == pytest.approx(1, abs=0.05)


def test_noise_of_many_samples_is_disjoint():
    draws = SampleNoise(0, range(500), (4,))()
    assert draws.unique(dim=0).shape[0] == 500
    assert abs(torch.corrcoef(draws.T)[0, 1].item()) < 0.15


def test_errors(monkeypatch):
    interpolant = LinearInterpolant()
    with pytest.raises(ValueError, match='DDPMSampler samples a GaussianDiffusion'):
        DDPMSampler(interpolant)
    with pytest.raises(ValueError, match='SDESampler samples a LinearInterpolant'):
        build_sampler('sde', FIXED)
    with pytest.raises(ValueError, match="unknown sampler 'plms'"):
        build_sampler('plms', FIXED)
    with pytest.raises(ValueError, match="unknown ODE method 'dopri'"):
        ODESampler(interpolant, 'dopri')
    with pytest.raises(ValueError, match="unknown SDE diffusion 'linear'"):
        SDESampler(interpolant, diffusion='linear')
    with pytest.raises(ValueError, match='last step size between 0 and 1'):
        SDESampler(interpolant, last_step_size=0)
    with pytest.raises(ValueError, match='the score is infinite'):
        SDESampler(interpolant, 'heun', diffusion='constant', last_step='none')
    with pytest.raises(ValueError, match='eta'):
        DDIMSampler(FIXED, eta=-1)
    monkeypatch.setitem(sys.modules, 'torchdiffeq', None)
    with pytest.raises(ImportError, match=r"needs torchdiffeq: pip install 'mmvisionllama\[generation\]'"):
        build_sampler('ode', interpolant)


def test_a_sampler_built_on_the_meta_device_leaves_the_solver_usable():
    """Counting FLOPs builds a generator there, and may be the first to import the solver."""
    code = (
        'import torch\n'
        'from mmvisionllama.generation import LinearInterpolant, ODESampler\n'
        'with torch.device("meta"):\n'
        '    ODESampler(LinearInterpolant())\n'
        'sampler, grid = ODESampler(LinearInterpolant()), torch.linspace(0, 1, 2)\n'
        'states = sampler.integrate(lambda x, t: -x, torch.ones(1, 2), grid)\n'
        'assert (states[-1] - torch.exp(torch.tensor(-1.0))).abs().max() < 1e-3\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
