"""Diffusion formulas against float64 versions written from the papers, without the library's tables."""

import math
from fractions import Fraction

import pytest
import torch

from mmvisionllama.generation import GaussianDiffusion


class Reference:
    """DDPM in plain Python floats: one step at a time, from beta_t alone."""

    def __init__(self, betas):
        self.beta = [float(b) for b in betas]
        self.bar = []
        product = 1.0
        for beta in self.beta:
            product *= 1 - beta
            self.bar.append(product)

    def before(self, t):
        return self.bar[t - 1] if t else 1.0

    def posterior(self, x0, x_t, t):
        """Bayes' rule for two Gaussians: precision and precision-weighted mean, not DDPM's solved form."""
        beta, before = self.beta[t], self.before(t)
        if t == 0:
            return x0, 0.0
        forward_precision = (1 - beta) / beta  # x_t = sqrt(1 - beta) x + noise, as a likelihood of x
        prior_precision = 1 / (1 - before)
        variance = 1 / (forward_precision + prior_precision)
        mean = variance * (math.sqrt(1 - beta) / beta * x_t + math.sqrt(before) * prior_precision * x0)
        return mean, variance

    def log_variance(self, t):
        return math.log(self.posterior(0.0, 0.0, max(t, 1))[1])

    def bound(self, x0, x_t, t, eps, v):
        """One element of the variational bound in bits."""
        x0_hat = (x_t - math.sqrt(1 - self.bar[t]) * eps) / math.sqrt(self.bar[t])
        mean = self.posterior(x0_hat, x_t, t)[0]
        share = (v + 1) / 2
        log_var = share * math.log(self.beta[t]) + (1 - share) * self.log_variance(t)
        if t:
            true_mean, true_var = self.posterior(x0, x_t, t)
            var = math.exp(log_var)
            kl = 0.5 * math.log(var / true_var) + (true_var + (true_mean - mean) ** 2) / (2 * var) - 0.5
            return kl / math.log(2)
        std = math.exp(log_var / 2)

        def cdf(z):
            return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

        upper, lower = cdf((x0 - mean + 1 / 255) / std), cdf((x0 - mean - 1 / 255) / std)
        mass = upper if x0 < -0.999 else 1 - lower if x0 > 0.999 else upper - lower
        return -math.log(max(mass, 1e-12)) / math.log(2)


@pytest.fixture(scope='module')
def diffusion():
    return GaussianDiffusion()


@pytest.fixture(scope='module')
def reference():
    return Reference([1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)])


def test_posterior(diffusion, reference):
    x0, x_t = torch.randn(2, 6, 1, 1, 1).double()
    t = torch.tensor([0, 1, 2, 300, 700, 999])
    mean = diffusion.posterior_mean(x0, x_t, t).flatten()
    for i, step in enumerate(t.tolist()):
        expected, variance = reference.posterior(x0[i].item(), x_t[i].item(), step)
        assert mean[i].item() == pytest.approx(expected, rel=1e-9)
        assert diffusion.posterior_variance[step].item() == pytest.approx(variance, rel=1e-9)
        assert diffusion.posterior_log_variance[step].item() == pytest.approx(reference.log_variance(step), rel=1e-9)


def test_noising_and_its_inverses(diffusion, reference):
    x0, noise = torch.randn(2, 3, 2, 2, 2).double()
    t = torch.tensor([0, 500, 999])
    x_t = diffusion.add_noise(x0, t, noise)
    for i, step in enumerate(t.tolist()):
        bar = reference.bar[step]
        assert torch.allclose(x_t[i], math.sqrt(bar) * x0[i] + math.sqrt(1 - bar) * noise[i], atol=1e-12)
    assert torch.allclose(diffusion.x0_from_noise(x_t, t, noise), x0, atol=1e-9)
    assert torch.allclose(diffusion.noise_from_x0(x_t, t, x0), noise, atol=1e-9)


def test_variational_bound(diffusion, reference):
    t = torch.tensor([0, 0, 0, 1, 2, 500, 999])
    x0 = torch.rand(7, 1, 2, 2).double() * 2 - 1
    x0[1], x0[2] = -1, 1  # the bins at the ends are open
    noise, v = torch.randn(7, 1, 2, 2).double(), torch.rand(7, 1, 2, 2).double() * 2 - 1
    x_t = diffusion.add_noise(x0, t, noise)
    eps = noise + 0.01 * torch.randn_like(noise)
    bound = diffusion.variational_bound(torch.cat((eps, v), 1), x0, x_t, t)
    for i, step in enumerate(t.tolist()):
        rows = zip(*(tensor[i].flatten().tolist() for tensor in (x0, x_t, eps, v)))
        terms = [reference.bound(a, b, step, c, d) for a, b, c, d in rows]
        assert bound[i].item() == pytest.approx(sum(terms) / 4, rel=1e-7)


def test_losses(diffusion):
    """The bound's gradient reaches the variance only, the squared error's the noise only."""
    x0 = torch.rand(4, 2, 3, 3) * 2 - 1
    output = torch.randn(4, 4, 3, 3, requires_grad=True)
    t, noise = torch.tensor([0, 1, 500, 999]), torch.randn(4, 2, 3, 3)
    seen = []
    losses = diffusion.losses(lambda x, steps: seen.append(steps) or output, x0, t, noise)
    assert torch.equal(seen[0], t)
    assert torch.allclose(losses['loss_mse'], (output[:, :2] - noise).square().mean((1, 2, 3)))
    bound = diffusion.variational_bound(output, x0, diffusion.add_noise(x0, t, noise), t)
    assert torch.equal(losses['loss_vb'], bound)  # no factor: see test_variational_bound for the value
    (grad,) = torch.autograd.grad(losses['loss_vb'].sum(), output, retain_graph=True)
    assert not grad[:, :2].any() and grad[:, 2:].any()
    (grad,) = torch.autograd.grad(losses['loss_mse'].sum(), output)
    assert grad[:, :2].any() and not grad[:, 2:].any()


def test_losses_in_half_precision_are_computed_in_fp32(diffusion):
    x0, noise, t = torch.rand(2, 1, 2, 2), torch.randn(2, 1, 2, 2), torch.tensor([1, 700])
    output = torch.randn(2, 2, 2, 2).bfloat16()
    low = diffusion.losses(lambda x, t: output, x0, t, noise)
    high = diffusion.losses(lambda x, t: output.float(), x0, t, noise)
    assert all(torch.equal(low[key], high[key]) for key in high)


def test_fixed_variance_has_no_bound():
    diffusion = GaussianDiffusion(learn_sigma=False)
    x = torch.randn(2, 1, 2, 2)
    assert list(diffusion.losses(lambda x, t: x, x)) == ['loss_mse']
    step = diffusion.reverse(x, x, torch.tensor([3, 3]))
    assert torch.allclose(step.log_variance.exp(), diffusion.posterior_variance[3].float().expand_as(x))


def test_draws_cover_all_steps(diffusion):
    seen = []
    diffusion.losses(lambda x, t: seen.append(t) or torch.zeros(4000, 2, 1, 1), torch.zeros(4000, 1, 1, 1))
    assert seen[0].min() < 5 and seen[0].max() > 994 and 450 < seen[0].float().mean() < 550


@pytest.mark.parametrize('steps', [1, 2, 5, 50, 250, 1000])
def test_respacing(diffusion, reference, steps):
    respaced = diffusion.respace(steps)
    kept = respaced.timestep_map.tolist()
    assert kept[-1] == 999 and kept == sorted(set(kept)) and len(kept) == steps
    if steps > 1:
        stride = Fraction(999, steps - 1)
        assert all(abs(index - i * stride) <= Fraction(1, 2) for i, index in enumerate(kept))  # the nearest step
    product = 1.0
    for index, beta in zip(kept, respaced.betas.tolist()):
        product *= 1 - beta
        assert product == pytest.approx(reference.bar[index], rel=1e-9)  # the same noise level at the kept steps
    written_out = Reference(respaced.betas.tolist())
    for step in range(steps if steps > 1 else 0):
        assert respaced.posterior_log_variance[step].item() == pytest.approx(written_out.log_variance(step), rel=1e-9)
        assert respaced.posterior_mean(
            torch.ones(1, 1).double(), -torch.ones(1, 1).double(), torch.tensor([step])
        ).item() == pytest.approx(written_out.posterior(1.0, -1.0, step)[0], rel=1e-9, abs=1e-9)
    assert respaced.posterior_log_variance.isfinite().all()


def test_the_250_steps_of_the_paper(diffusion):
    kept = diffusion.respace(250).timestep_map.tolist()
    assert kept[:4] == [0, 4, 8, 12] and kept[-3:] == [991, 995, 999]


def test_errors(diffusion):
    with pytest.raises(ValueError, match='1 ... 1000 steps, got 1001'):
        diffusion.respace(1001)
    with pytest.raises(ValueError, match='0 < beta_start <= beta_end < 1'):
        GaussianDiffusion(beta_end=1.5)
    with pytest.raises(ValueError, match='returns 1 channels where this diffusion needs 2'):
        diffusion.losses(lambda x, t: x, torch.zeros(1, 1, 2, 2))


def test_respacing_twice(diffusion):
    """Steps keep their numbers in the training process, and a_t its values."""
    twice = diffusion.respace(100).respace(10)
    assert twice.timestep_map.tolist() == [diffusion.respace(100).timestep_map[11 * i].item() for i in range(10)]
    assert torch.allclose(twice.alphas, diffusion.alphas[twice.timestep_map], rtol=1e-12)
    assert twice.network_time(torch.tensor([9, 0])).tolist() == [999, 0]


@pytest.mark.parametrize('visited', [[], [3, 3], [4, 2], [-1, 2], [0, 1000]])
def test_steps_that_a_process_does_not_have(visited):
    with pytest.raises(ValueError, match=r'ascending steps out of 0 \.\.\. 999'):
        GaussianDiffusion(visited=visited)
