"""Backbones, registered in mmengine's root registry."""

from .base import BaseBackbone
from .illama import iLLaMA
from .plain import PlainBackbone
from .pyramid_vision_llama import PyramidVisionLLaMA
from .vision_llama import VisionLLaMA

__all__ = ['BaseBackbone', 'PlainBackbone', 'PyramidVisionLLaMA', 'VisionLLaMA', 'iLLaMA']
