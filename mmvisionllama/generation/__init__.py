"""Image generation: DiT-LLaMA and SiT-LLaMA on mmengine's Runner (sections 4.1 and A.1)."""

from ..moved import moved
from .codecs import PixelCodec, VAECodec
from .dit_llama import DiTLLaMA
from .gaussian_diffusion import GaussianDiffusion
from .generator import ImageGenerator, load_generator
from .held_out import ClassifierFeatures, held_out_loss
from .interpolant import LinearInterpolant
from .labelled_images import ClassLabels, LabelledImages
from .latents import LatentShards
from .metrics import GenerationMetric, InceptionFeatures
from .sample_set import sample_set
from .samplers import DDIMSampler, DDPMSampler, ODESampler, SampleNoise, SDESampler, build_sampler

__all__ = [
    'ClassLabels',
    'ClassifierFeatures',
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
    'SampleNoise',
    'VAECodec',
    'build_sampler',
    'held_out_loss',
    'load_generator',
    'sample_set',
]


__getattr__ = moved(
    __name__,
    SampleHook='engine.hooks',
)
