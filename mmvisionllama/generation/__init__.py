"""Image generation: DiT-LLaMA and SiT-LLaMA on mmengine's Runner (sections 4.1 and A.1)."""

from .data import ClassLabels, LabelledImages
from .dit_llama import DiTLLaMA
from .gaussian_diffusion import GaussianDiffusion
from .generator import ImageGenerator, load_generator
from .hooks import SampleHook
from .interpolant import LinearInterpolant
from .latents import LatentShards, PixelCodec, VAECodec
from .metrics import GenerationMetric, InceptionFeatures
from .samplers import DDIMSampler, DDPMSampler, ODESampler, SampleNoise, SDESampler, build_sampler
from .sampling import sample_set

__all__ = [
    'ClassLabels',
    'DDIMSampler',
    'DDPMSampler',
    'DiTLLaMA',
    'GaussianDiffusion',
    'GenerationMetric',
    'ImageGenerator',
    'InceptionFeatures',
    'LabelledImages',
    'LatentShards',
    'LinearInterpolant',
    'ODESampler',
    'PixelCodec',
    'SDESampler',
    'SampleHook',
    'SampleNoise',
    'VAECodec',
    'build_sampler',
    'load_generator',
    'sample_set',
]
