"""Options of diffusion, samplers and networks by their formulas, each with values that show it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mmvisionllama.engine.hooks import samples
from mmvisionllama.generation import (
    DDIMSampler,
    DiTLLaMA,
    GaussianDiffusion,
    ImageGenerator,
    LinearInterpolant,
    SDESampler,
    metrics,
)
from mmvisionllama.generation.gaussian_diffusion import ReverseStep
from mmvisionllama.generation.generator import to_uint8
from mmvisionllama.generation.labelled_images import center_crop
from mmvisionllama.generation.samplers import build_sampler


def test_clipping_changes_the_noise_too():
    diffusion = GaussianDiffusion(learn_sigma=False)
    x, t = 3 * torch.randn(2, 1, 4, 4).double(), torch.tensor([300, 700])
    step = diffusion.reverse(-x, x, t, clip=True)
    assert step.x0.abs().max() <= 1
    assert torch.allclose(diffusion.add_noise(step.x0, t, step.noise), x)


@pytest.mark.parametrize(
    'name, width', [('sigma', 0.7), ('constant', 1.0), ('sine', math.sin(math.pi * 0.3) ** 2)], ids=lambda v: str(v)[:8]
)
def test_the_drift_of_the_sde(name, width):
    """v + w(t) / 2 times the score, here at t = 0.3 and with half of the width."""
    sampler = SDESampler(LinearInterpolant(), diffusion=name, diffusion_scale=0.5)
    x, v = torch.randn(2, 3, 1, 2, 2).double()
    assert sampler.coefficient(0.3) == pytest.approx(0.5 * width)
    score = (0.3 * v - x) / 0.7
    assert torch.allclose(sampler.drift(lambda x, t: v, x, 0.3), v + 0.5 * width * score)


@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
def test_a_step_of_ddim(eta):
    """Equation 12 of Song et al., 2021, arXiv:2010.02502."""
    sampler = DDIMSampler(GaussianDiffusion(learn_sigma=False), 10, eta=eta)
    now, before = (sampler.process.alphas[i].item() for i in (4, 3))
    x0, noise, fresh = torch.randn(3, 1, 1, 1, 1).double()
    sigma = eta * math.sqrt((1 - before) / (1 - now) * (1 - now / before))
    expected = math.sqrt(before) * x0 + math.sqrt(1 - before - sigma**2) * noise + sigma * fresh
    assert torch.allclose(sampler.step(ReverseStep(None, None, x0, noise), 4, lambda: fresh), expected)


def test_short_names_of_samplers():
    flow, diffusion = LinearInterpolant(), GaussianDiffusion(learn_sigma=False)
    expected = {
        'ddpm': ('DDPMSampler', None),
        'ddim': ('DDIMSampler', None),
        'ode': ('ODESampler', 'dopri5'),
        'ode-euler': ('ODESampler', 'euler'),
        'ode-heun': ('ODESampler', 'heun2'),
        'sde': ('SDESampler', 'euler'),
        'sde-heun': ('SDESampler', 'heun'),
    }
    made = {name: build_sampler(name, diffusion if name in ('ddpm', 'ddim') else flow) for name in expected}
    assert {name: (type(made[name]).__name__, getattr(made[name], 'method', None)) for name in made} == expected


def generator(**options):
    torch.manual_seed(0)
    arch = dict(embed_dims=32, num_layers=2, num_heads=2)
    network = dict(type='DiTLLaMA', arch=arch, in_channels=4, num_classes=3, anchor=4)
    sampler = dict(type='DDIMSampler', num_steps=3)
    model = ImageGenerator(network, dict(type='GaussianDiffusion'), sampler, cfg_scale=3.0, **options)
    for param in model.network.parameters():
        nn.init.normal_(param, std=0.1)
    return model


def test_guided_channels_and_seed_of_the_config():
    every, three = generator(), generator(cfg_channels='first_three')
    assert not torch.equal(three.sample([0, 1]), every.sample([0, 1]))
    assert torch.equal(three.sample([0, 1]), every.sample([0, 1], cfg_channels='first_three'))
    assert torch.equal(generator(seed=7).sample([0]), every.sample([0], seed=7))
    assert not torch.equal(generator(seed=7).sample([0]), every.sample([0]))


def test_pixels_are_rounded():
    levels = torch.arange(256)
    assert torch.equal(to_uint8(levels / 127.5 - 1).long(), levels)
    assert to_uint8(torch.tensor([-2.0, 2.0, 0.6 / 127.5 - 1])).tolist() == [0, 255, 1]


@pytest.mark.parametrize('shape, halvings', [((64, 40), 2), ((41, 64), 2), ((9, 9), 0), ((17, 300), 1)])
def test_the_crop_pixel_by_pixel(shape, halvings):
    """Means of boxes while the shorter side is twice as long or more, then bicubic, then the middle."""
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    scaled = image
    for _ in range(halvings):
        scaled = scaled.resize((scaled.width // 2, scaled.height // 2), Image.Resampling.BOX)
    factor = 8 / min(scaled.size)
    scaled = scaled.resize((round(scaled.width * factor), round(scaled.height * factor)), Image.Resampling.BICUBIC)
    top, left = (scaled.height - 8) // 2, (scaled.width - 8) // 2
    assert np.array_equal(np.asarray(center_crop(image, 8)), np.asarray(scaled)[top : top + 8, left : left + 8])


def test_positions_of_the_plain_network_are_scaled():
    torch.manual_seed(0)
    arch = dict(embed_dims=32, num_layers=1, num_heads=2)
    options = dict(num_classes=3, anchor=4, position='sincos')
    scaled, unscaled = (DiTLLaMA(arch, rope_cfg=dict(scale=scale), **options) for scale in ('per_axis', 'none'))
    for param in scaled.parameters():
        nn.init.normal_(param, std=0.2)
    unscaled.load_state_dict(scaled.state_dict())
    labels = torch.tensor([3]), torch.tensor([1])
    larger, same = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)
    assert not torch.allclose(scaled(larger, *labels), unscaled(larger, *labels))
    assert torch.allclose(scaled(same, *labels), unscaled(same, *labels), atol=1e-5)


def test_initial_values_of_embeddings():
    network = DiTLLaMA(dict(embed_dims=64, num_layers=1, num_heads=2), num_classes=100)
    for weight in (network.label_embed.weight, network.time_embed.fc1.weight, network.time_embed.fc2.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_pictures_while_training_are_guided_as_asked(monkeypatch):
    asked = []

    def sample_set(model, labels, keep, **options):
        asked.append(options)
        keep([0], torch.zeros(1, 1, 2, 2))

    monkeypatch.setattr(samples, 'sample_set', sample_set)
    samples.SampleHook(classes=(0,), per_class=1, cfg_scale=2.0, sampler='ddim')._sample(None)
    assert (asked[0]['cfg_scale'], asked[0]['sampler']) == (2.0, 'ddim')


def test_splits_of_the_inception_score():
    rng = np.random.default_rng(0)
    metric = metrics.GenerationMetric.__new__(metrics.GenerationMetric)
    metric.reference = dict(statistics={}, features=dict(pool=rng.random((8, 2), dtype=np.float32)))
    metric.neighbour, metric.split_size, metric._size = 5, 2, 0
    logits = rng.random((6, 3))
    results = [(i, dict(logits=logits[i], pool=np.zeros(2, np.float32))) for i in range(6)]
    score = metric.compute_metrics(results)['IS']
    assert score == pytest.approx(metrics.inception_score(logits, 2))
    assert score != pytest.approx(metrics.inception_score(logits, 6))
