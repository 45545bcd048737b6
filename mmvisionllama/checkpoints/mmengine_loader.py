"""This package's safe reader as mmengine's, through mmengine's own registration of loaders.

mmengine unpickles whatever its weights-only attempt refuses. After ``import mmvisionllama`` its ``load_checkpoint``,
and with it every Runner, ``init_cfg=dict(type='Pretrained')`` and inferencer, reads through :func:`read_checkpoint`
instead and refuses such a file with one line that says how to allow it.
"""

import os
from typing import Any, Callable, Dict
from urllib.parse import urlparse

import mmengine.runner.checkpoint as stock

from ..errors import CheckpointError
from .reading import HOW_TO_ALLOW, read_checkpoint, unsafe_allowed


def load_from_mmvisionllama(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """A local file or an http(s) address; mmengine logs the end of this function's name."""
    checkpoint = read_checkpoint(filename, map_location=map_location)
    meta = checkpoint.get('meta')
    if isinstance(meta, dict) and not unsafe_allowed():
        # Runner.resume runs this text as a Python config; what mmengine itself writes is called cfg and is not run
        meta.pop('config', None)
    return checkpoint


def _named_address(filename: str) -> str:
    """The address, or the file in mmengine's folder, that a name such as ``torchvision://resnet50`` stands for."""
    scheme, name = filename.split('://', 1)
    if scheme in ('modelzoo', 'torchvision'):
        addresses = stock.get_torchvision_models()
    elif scheme == 'mmcls':
        addresses = stock.get_mmcls_models()
    else:
        addresses = stock.get_external_models()
        name = stock.get_deprecated_model_names().get(name, name)
    if name not in addresses:
        raise CheckpointError(f'{filename!r} is no model that mmengine knows: check the name')
    address = addresses[name]
    return address if urlparse(address).scheme else os.path.join(stock._get_mmengine_home(), address)


def load_from_mmvisionllama_by_name(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """A model that mmengine knows by name."""
    checkpoint = read_checkpoint(_named_address(filename), map_location=map_location)
    return stock._process_mmcls_checkpoint(checkpoint) if filename.startswith('mmcls://') else checkpoint


def _only_if_allowed(loader: Callable) -> Callable:
    """A stock loader for storage that needs a client of its own; what it brings is unpickled without checks."""

    def load_from_mmvisionllama_storage(filename: str, map_location: Any = None) -> Dict[str, Any]:
        if not unsafe_allowed():
            raise CheckpointError(
                f'{filename!r} would be unpickled unchecked: copy the file here and give its path, or, if you trust '
                f'it, allow it: {HOW_TO_ALLOW}'
            )
        return loader(filename, map_location)

    return load_from_mmvisionllama_storage


def install() -> None:
    """Registers the loaders; later registrations by other code take their place as usual."""
    register = stock.CheckpointLoader.register_scheme
    register(['', 'http://', 'https://'], load_from_mmvisionllama, force=True)
    names = ['modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://']
    register(names, load_from_mmvisionllama_by_name, force=True)
    register('pavi://', _only_if_allowed(stock.load_from_pavi), force=True)
    register([r'(\S+\:)?s3://', r'(\S+\:)?petrel://'], _only_if_allowed(stock.load_from_ceph), force=True)
