"""Between images and what the network sees: the VAE of latent diffusion, or pixels.

Images here are fp32 in [-1, 1], ``(B, channels, height, width)``. A codec is a plain object, not a module: the frozen
VAE is in no checkpoint, in no optimizer, and is not copied for the moving average.
"""

import os
from pathlib import Path
from typing import Optional, Sequence, Tuple

import torch
from mmengine.registry import TASK_UTILS
from torch import Tensor

from ..errors import CheckpointError, MissingExtraError, OptionError


@TASK_UTILS.register_module()
class PixelCodec:
    """No VAE: the network sees the pixels. For small images."""

    downsample = 1

    def load(self) -> None:
        """Nothing to load."""

    def encode(self, images: Tensor) -> Tensor:
        """The images themselves."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """The latents themselves."""
        return latents


@TASK_UTILS.register_module()
class VAECodec:
    """Stable Diffusion's VAE (the paper's [33], [52]) through ``diffusers.AutoencoderKL``; read at its first use.

    Args:
        pretrained: Folder written by ``save_pretrained`` (config.json and weights), or a name on the Hugging Face hub.
            The paper and the released code use the ft-EMA weights.
        subfolder: Folder inside ``pretrained`` that holds the VAE.
        scale: Latents are multiplied by it; 0.18215 makes their variance about 1.
        downsample: Pixels per latent pixel, 8 for Stable Diffusion.
        chunk: Images that are decoded at once.
    """

    def __init__(
        self,
        pretrained: str = 'stabilityai/sd-vae-ft-ema',
        subfolder: Optional[str] = None,
        scale: float = 0.18215,
        downsample: int = 8,
        chunk: int = 16,
    ) -> None:
        self.pretrained = os.path.expanduser(pretrained)
        self.subfolder = subfolder
        self.scale = scale
        self.downsample = downsample
        self.chunk = chunk
        self._vae = None

    def __deepcopy__(self, memo) -> 'VAECodec':
        return self

    def load(self) -> None:
        """Reads the VAE.

        Raises:
            MissingExtraError: Without diffusers.
            CheckpointError: If there is no VAE at ``pretrained``, or it has another downsampling factor.
        """
        if self._vae is not None:
            return
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise MissingExtraError("the VAE needs diffusers: pip install 'mmvisionllama[generation]'") from error
        advice = (
            'give a folder with config.json and weights (written by save_pretrained) or a name on the Hugging Face '
            'hub such as stabilityai/sd-vae-ft-ema'
        )
        folder = Path(self.pretrained, self.subfolder or '')
        is_local = Path(self.pretrained).exists() or self.pretrained.startswith(('.', '/', '~'))
        if (is_local or self.pretrained.count('/') != 1) and not (folder / 'config.json').is_file():
            raise CheckpointError(f'no VAE at {str(folder)!r}: {advice}')
        try:
            vae = AutoencoderKL.from_pretrained(self.pretrained, subfolder=self.subfolder, low_cpu_mem_usage=False)
        except Exception as error:  # diffusers, huggingface_hub and safetensors each raise their own
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(f'the VAE {self.pretrained!r} cannot be read ({reason}): {advice}') from error
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if factor != self.downsample:
            raise CheckpointError(
                f'the VAE {self.pretrained!r} downsamples by {factor}, the codec says {self.downsample}: '
                f'set downsample={factor}'
            )
        self._vae = vae.eval().requires_grad_(False)

    def vae(self, device: torch.device) -> torch.nn.Module:
        """The VAE on ``device``."""
        if self._vae is None and torch.compiler.is_compiling():
            # a network that is made while a training step is traced is not whole
            torch.compiler.disable(self.load)()
        self.load()
        if self._vae.device != device:
            self._vae = self._vae.to(device)
        return self._vae

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """Mean and standard deviation of the latents of images, unscaled, fp32: ``(B, 2 channels, h, w)``."""
        vae = self.vae(images.device)
        with torch.autocast(images.device.type, enabled=False):  # as encode_latents.py has it
            posterior = vae.encode(images.float()).latent_dist
        return torch.cat((posterior.mean, posterior.std), dim=1)

    def sample(self, moments: Tensor) -> Tensor:
        """Draws scaled latents from stored :meth:`moments`, fp32: ``(B, channels, h, w)``."""
        mean, std = moments.float().chunk(2, dim=1)
        return (mean + std * torch.randn(mean.shape, device=mean.device)) * self.scale

    def encode(self, images: Tensor) -> Tensor:
        """Draws scaled latents of images."""
        return self.sample(self.moments(images))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to images."""
        vae = self.vae(latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            parts = latents.float().split(self.chunk)
            return torch.cat([vae.decode(part / self.scale).sample for part in parts])


def check_image_size(size: Sequence[int], downsample: int) -> Tuple[int, int]:
    """Latent size of images of ``size`` (height, width); raises an OptionError if the codec does not divide it."""
    if any(side % downsample or side < downsample for side in size):
        raise OptionError(
            f'image size {size[0]}x{size[1]} is no multiple of {downsample}, the pixels per latent pixel: '
            f'choose another size'
        )
    return size[0] // downsample, size[1] // downsample
