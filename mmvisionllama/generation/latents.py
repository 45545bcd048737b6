"""Between images and what the network sees: the VAE of latent diffusion, pixels, and latents encoded once.

Images here are fp32 in [-1, 1], ``(B, channels, height, width)``. A codec is a plain object, not a module: the frozen
VAE is in no checkpoint, in no optimizer, and is not copied for the moving average.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.registry import DATASETS, TASK_UTILS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import CheckpointError, DataError, MissingExtraError, OptionError

META = 'latents.json'


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
        self.pretrained = os.fspath(pretrained)
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
        self.load()
        if self._vae.device != device:
            self._vae = self._vae.to(device)
        return self._vae

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """Mean and standard deviation of the latents of images, unscaled: ``(B, 2 channels, h, w)``."""
        posterior = self.vae(images.device).encode(images).latent_dist
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
        return torch.cat([vae.decode(part / self.scale).sample for part in latents.split(self.chunk)])


def _shard_paths(root: Path, shard: int) -> Tuple[Path, Path]:
    return root / f'moments_{shard:05d}.npy', root / f'labels_{shard:05d}.npy'


def _write_npy(path: Path, array: np.ndarray) -> None:
    """Writes under another name first, so that a file with the right name is complete."""
    partial = path.with_suffix('.partial')
    with open(partial, 'wb') as file:
        np.save(file, array)
    os.replace(partial, path)


def encode_dataset(
    codec: VAECodec,
    dataset: Dataset,
    root: str,
    *,
    description: Optional[Dict[str, Any]] = None,
    shard_size: int = 4096,
    batch_size: int = 32,
    flip: bool = True,
    dtype: str = 'float16',
    num_workers: int = 4,
    device: str = 'cpu',
    rank: int = 0,
    world_size: int = 1,
    report: Callable[[str], None] = print,
) -> None:
    """Encodes a data set once into shards that :class:`LatentShards` reads.

    Several processes share the work by shards. Shards that exist are left alone, so running the same command again
    after an interruption goes on where it stopped. The moments are stored, not samples: training draws fresh latents
    each time, as it would with the VAE.

    Args:
        codec: The VAE.
        dataset: Gives dicts with ``inputs`` (image in [-1, 1]) and ``labels``, the same ones in every call.
        root: Folder to write.
        description: Anything else that a resumed run must agree with (source folder, image size, ...).
        shard_size: Images per file.
        batch_size: Images that are encoded at once.
        flip: Store the mirrored image's moments as well.
        dtype: ``'float16'`` or ``'float32'``.
        num_workers: Loader processes.
        device: Device of the VAE.
        rank: Number of this process.
        world_size: Number of processes.
        report: Called with one line of progress per shard.

    Raises:
        ValueError: If ``root`` holds shards of other settings.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    shards = math.ceil(len(dataset) / shard_size)
    meta = dict(
        images=len(dataset),
        shard_size=shard_size,
        shards=shards,
        views=2 if flip else 1,
        dtype=np.dtype(dtype).name,
        vae=codec.pretrained,
        **(description or {}),
    )
    if (root / META).exists():
        written = json.loads((root / META).read_text())
        if written != meta:
            differing = [key for key in {**written, **meta} if written.get(key) != meta.get(key)]
            raise OptionError(
                f'{root} holds latents made with other settings ({", ".join(sorted(differing))}): '
                f'choose another folder, or remove this one'
            )
    elif rank == 0:
        partial = root / f'{META}.partial'
        partial.write_text(json.dumps(meta, indent=2) + '\n')
        os.replace(partial, root / META)

    todo = [s for s in range(rank, shards, world_size) if not all(p.exists() for p in _shard_paths(root, s))]
    start, encoded = time.time(), 0
    total = sum(min(shard_size, len(dataset) - s * shard_size) for s in todo)
    for shard in todo:
        indices = range(shard * shard_size, min((shard + 1) * shard_size, len(dataset)))
        loader = DataLoader(Subset(dataset, indices), batch_size=batch_size, num_workers=num_workers)
        moments, labels = [], []
        for batch in loader:
            images = batch['inputs'].to(device)
            views = [codec.moments(view) for view in ([images, images.flip(-1)] if flip else [images])]
            moments.append(torch.stack(views, dim=1).cpu().numpy().astype(dtype))  # [B, views, 2 channels, h, w]
            labels.append(batch['labels'].numpy())
        moments_path, labels_path = _shard_paths(root, shard)
        _write_npy(moments_path, np.concatenate(moments))
        _write_npy(labels_path, np.concatenate(labels))
        encoded += len(indices)
        rate = encoded / (time.time() - start)
        report(
            f'shard {shard + 1} of {shards} written: {encoded} of {total} images of this process, '
            f'{rate:.1f} images/s, {(total - encoded) / rate / 60:.0f} min left'
        )


@DATASETS.register_module()
class LatentShards(Dataset):
    """Latents that :func:`encode_dataset` wrote, as moments from which the model draws.

    With ``flip``, item i + n is the mirrored image of item i, n the number of images: one pass sees both.

    Args:
        data_root: Folder of the shards.
        flip: Use the mirrored images too.

    Raises:
        DataError: If ``data_root`` holds no latents, shards are missing, or mirrored images were not encoded.
    """

    def __init__(self, data_root: str, flip: bool = True) -> None:
        self.root = Path(data_root)
        if not (self.root / META).is_file():
            raise DataError(f'{data_root} holds no latents: write them with tools/generation/encode_latents.py')
        self.meta = json.loads((self.root / META).read_text())
        missing = [s for s in range(self.meta['shards']) if not all(p.exists() for p in _shard_paths(self.root, s))]
        if missing:
            raise DataError(
                f'{data_root} lacks {len(missing)} of {self.meta["shards"]} shards: run '
                f'tools/generation/encode_latents.py again with the same arguments, it goes on where it stopped'
            )
        if flip and self.meta['views'] < 2:
            raise DataError(f'{data_root} was encoded without mirrored images: set flip=False, or encode them too')
        self.views = 2 if flip else 1
        self._shards: Dict[int, Tuple[int, Tuple[int, ...], np.dtype, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.meta['images'] * self.views

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _shards={})  # each loader process reads what it needs

    def _shard(self, shard: int) -> Tuple[int, Tuple[int, ...], np.dtype, np.ndarray]:
        """First byte of a shard's moments in their file, their shape and dtype, and its labels."""
        if shard not in self._shards:
            moments, labels = (np.load(path, mmap_mode='r') for path in _shard_paths(self.root, shard))
            # no file stays open: there can be more shards than files that a process may have open
            self._shards[shard] = moments.offset, moments.shape, moments.dtype, np.array(labels)
        return self._shards[shard]

    def __getitem__(self, index: int) -> Dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        view, index = divmod(index, self.meta['images'])
        shard, row = divmod(index, self.meta['shard_size'])
        start, shape, dtype, labels = self._shard(shard)
        count = math.prod(shape[2:])
        start += (row * shape[1] + view) * count * dtype.itemsize
        moments = np.fromfile(_shard_paths(self.root, shard)[0], dtype, count, offset=start).reshape(shape[2:])
        return dict(moments=torch.from_numpy(moments), labels=int(labels[row]))


def check_image_size(size: Sequence[int], downsample: int) -> Tuple[int, int]:
    """Latent size of images of ``size`` (height, width); raises an OptionError if the codec does not divide it."""
    if any(side % downsample or side < downsample for side in size):
        raise OptionError(
            f'image size {size[0]}x{size[1]} is no multiple of {downsample}, the pixels per latent pixel: '
            f'choose another size'
        )
    return size[0] // downsample, size[1] // downsample
