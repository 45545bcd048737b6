"""Latents of the VAE, encoded once and read by training."""

import hashlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np
import torch
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import DataError, OptionError
from ..moved import moved
from .codecs import VAECodec
from .labelled_images import LabelledImages

META = 'latents.json'
#: entries of it that files of earlier versions lack
LATER = ('class_names', 'files')

__getattr__ = moved(__name__, PixelCodec='generation.codecs', check_image_size='generation.codecs')


AGAIN = 'run tools/generation/encode_latents.py again with the same arguments'


def _shard_paths(root: Path, shard: int) -> Tuple[Path, Path]:
    return root / f'moments_{shard:05d}.npy', root / f'labels_{shard:05d}.npy'


def _read_meta(root: Path) -> Dict[str, Any]:
    path = root / META
    try:
        meta = json.loads(path.read_text())
        if not {'images', 'shard_size', 'shards', 'views'} <= meta.keys():
            raise ValueError('entries are missing')
    except (ValueError, AttributeError) as error:  # text that is no JSON or no UTF-8, JSON of another kind
        raise DataError(f'{str(path)!r} is damaged ({error}): remove it and {AGAIN}') from error
    return meta


def _is_whole(root: Path, meta: Dict[str, Any], shard: int) -> bool:
    """Whether the files of a shard are there, as long as their headers say, and for as many images as belong in it."""
    count = min(meta['shard_size'], meta['images'] - shard * meta['shard_size'])
    try:
        moments, labels = (np.load(path, mmap_mode='r') for path in _shard_paths(root, shard))
    except (FileNotFoundError, ValueError, EOFError):  # no .npy file, or a shorter one than its header says
        return False
    return moments.shape[:2] == (count, meta['views']) and labels.shape == (count,)


def _write_npy(path: Path, array: np.ndarray) -> None:
    """Writes under another name first, so that a file with the right name is complete."""
    partial = path.with_suffix('.partial')
    with open(partial, 'wb') as file:
        np.save(file, array)
    os.replace(partial, path)


def describe(dataset: LabelledImages) -> Dict[str, Any]:
    """What tells an image folder from another one: image size, classes, and a digest of the files' names in order.

    A broken picture that was mended has its name still, and encoding goes on.
    """
    digest = hashlib.sha256()
    for path, _ in dataset.samples:
        digest.update(os.fsencode(path[len(dataset.data_root) :].lstrip(os.sep)) + b'\0')
    names = dataset.classes
    return dict(size=dataset.size, classes=len(names), class_names=names, files=digest.hexdigest())


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

    Several processes share the work by shards. Shards that are whole are left alone, so running the same command again
    after an interruption goes on where it stopped. The moments are stored, not samples: training draws fresh latents
    each time, as it would with the VAE.

    Args:
        codec: The VAE.
        dataset: Gives dicts with ``inputs`` (image in [-1, 1]) and ``labels``, the same ones in every call.
        root: Folder to write.
        description: Anything else that a resumed run must agree with, as :func:`describe` gives it.
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
        OptionError: If ``root`` holds shards of other settings.
        DataError: If its ``latents.json`` is damaged.
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
        written = _read_meta(root)
        # earlier versions stored neither names of classes nor what files there were
        expected = {key: value for key, value in meta.items() if key in written or key not in LATER}
        if written != expected:
            differing = [key for key in {**written, **expected} if written.get(key) != expected.get(key)]
            raise OptionError(
                f'{root} holds latents made with other settings or pictures ({", ".join(sorted(differing))}): '
                f'choose another folder, or remove this one'
            )
    elif rank == 0:
        partial = root / f'{META}.partial'
        partial.write_text(json.dumps(meta, indent=2) + '\n')
        os.replace(partial, root / META)

    todo = [s for s in range(rank, shards, world_size) if not _is_whole(root, meta, s)]
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
        DataError: If ``data_root`` holds no latents, lacks shards, has damaged ones, or has no mirrored images.
    """

    def __init__(self, data_root: str, flip: bool = True) -> None:
        self.root = Path(data_root)
        if not (self.root / META).is_file():
            raise DataError(f'{data_root} holds no latents: write them with tools/generation/encode_latents.py')
        self.meta = _read_meta(self.root)
        missing = [s for s in range(self.meta['shards']) if not all(p.exists() for p in _shard_paths(self.root, s))]
        if missing:
            raise DataError(
                f'{data_root} lacks {len(missing)} of {self.meta["shards"]} shards: {AGAIN}, '
                f'it goes on where it stopped'
            )
        for shard in range(self.meta['shards']):
            if not _is_whole(self.root, self.meta, shard):
                paths = ' or '.join(repr(str(path)) for path in _shard_paths(self.root, shard))
                raise DataError(f'{paths} is damaged: {AGAIN}, which makes that shard anew')
        if flip and self.meta['views'] < 2:
            raise DataError(f'{data_root} was encoded without mirrored images: set flip=False, or encode them too')
        self.views = 2 if flip else 1
        self._shards: Dict[int, Tuple[int, Tuple[int, ...], np.dtype, np.ndarray]] = {}

    @property
    def metainfo(self) -> Dict[str, Any]:
        """Class names; numbers where an earlier version stored their count alone."""
        names = self.meta.get('class_names')
        if names is None and isinstance(self.meta.get('classes'), int):
            names = [str(label) for label in range(self.meta['classes'])]
        return {} if names is None else dict(classes=names)

    @property
    def image_size(self) -> Optional[int]:
        """Side of the images in pixels, if it is known."""
        return self.meta.get('size')

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
