"""Backbones, registered in mmengine's root registry."""

from .base import BaseBackbone
from .vision_llama import VisionLLaMA

__all__ = ['BaseBackbone', 'VisionLLaMA']
