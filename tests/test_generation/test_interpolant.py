"""The linear interpolant against a case with a closed form: Gaussian data."""

import pytest
import torch

from mmvisionllama.generation import LinearInterpolant

MEAN, STD = 0.7, 0.4


def exact_velocity(x, t):
    """E[x1 - x0 | x_t] for data N(MEAN, STD^2): regression of jointly Gaussian variables."""
    t = t.view(-1, *[1] * (x.ndim - 1))
    variance = t**2 * STD**2 + (1 - t) ** 2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)


def exact_score(x, t):
    t = t.view(-1, *[1] * (x.ndim - 1))
    return -(x - t * MEAN) / (t**2 * STD**2 + (1 - t) ** 2)


def test_path_and_velocity():
    interpolant = LinearInterpolant()
    x1, x0 = torch.randn(2, 3, 1, 2, 2).double()
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    x_t = interpolant.interpolate(x1, x0, t)
    assert torch.equal(x_t[0], x0[0]) and torch.equal(x_t[2], x1[2])
    assert torch.allclose(x_t[1], 0.25 * x1[1] + 0.75 * x0[1])
    step = 1e-6
    derivative = (interpolant.interpolate(x1, x0, t + step) - x_t) / step
    assert torch.allclose(interpolant.velocity(x1, x0), derivative, atol=1e-8)


def test_score_and_data_from_velocity():
    interpolant = LinearInterpolant()
    x = torch.randn(5, 1, 3, 3).double()
    t = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    velocity = exact_velocity(x, t)
    assert torch.allclose(interpolant.score(velocity, x, t), exact_score(x, t), atol=1e-10)
    # x_t = t x1 + (1 - t) x0 and v = x1 - x0 give both ends
    time = t.view(-1, 1, 1, 1)
    data = interpolant.data(velocity, x, t)
    assert torch.allclose(time * data + (1 - time) * (data - velocity), x, atol=1e-10)


def test_losses():
    interpolant = LinearInterpolant()
    x1, x0, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0.0, 0.4, 0.9])
    losses = interpolant.losses(lambda x, t: 2 * x, x1, t, x0)['loss_velocity']
    for i, time in enumerate(t.tolist()):
        expected = (2 * (time * x1[i] + (1 - time) * x0[i]) - (x1[i] - x0[i])).double().square().mean()
        assert losses[i].item() == pytest.approx(expected.item(), rel=1e-5)


def test_times_are_uniform_fp32_even_for_half_data():
    seen = []
    LinearInterpolant().losses(lambda x, t: seen.append((x, t)) or x, torch.zeros(4000, 1, 1, 1).bfloat16())
    x, t = seen[0]
    assert x.dtype == t.dtype == torch.float32
    assert t.unique().numel() > 3990 and 0 <= t.min() < 0.01 and 0.99 < t.max() < 1


def test_the_exact_velocity_minimises_the_loss():
    interpolant = LinearInterpolant()
    x1, x0 = MEAN + STD * torch.randn(20000, 1, 1, 1), torch.randn(20000, 1, 1, 1)
    t = torch.rand(20000)
    best = interpolant.losses(exact_velocity, x1, t, x0)['loss_velocity'].mean()
    for factor in (0.9, 1.1):
        assert (
            interpolant.losses(lambda x, t, f=factor: f * exact_velocity(x, t), x1, t, x0)['loss_velocity'].mean()
            > best
        )


def test_channels_must_match():
    with pytest.raises(ValueError, match='return_sigma=False'):
        LinearInterpolant().losses(lambda x, t: x.repeat(1, 2, 1, 1), torch.zeros(1, 2, 2, 2))
