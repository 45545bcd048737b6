"""How each image's own size reaches the backbone through the stock models of the mm libraries.

Their ``forward(inputs, data_samples)`` knows ``img_shape`` and their backbone sees the padded tensor alone. A hook in
front of the model's forward pass, whoever calls it (training, testing, test-time augmentation, DDP), hands the sizes on
and takes them back behind it.
"""

import functools
import threading
import weakref
from typing import Any, Callable, List, Optional, Tuple

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from mmengine.runner.activation_checkpointing import wrap_forward
from torch import Tensor, nn

from ..backbones.base import BaseBackbone
from ..errors import OptionError
from ..layers.valid_grid import ValidGrid
from ..necks.hide_padding import DENSE_PARTS, PaddingHider

#: the code of a forward pass under mmengine's ``activation_checkpointing``
RECOMPUTED = wrap_forward(print).__code__
_one_installer = threading.Lock()


class ImageSizes:
    """The hooks of one model; see :func:`follow_image_sizes`."""

    def __init__(self) -> None:
        self.hider: Optional[PaddingHider] = None

    def announce(self, model: nn.Module, args: Tuple, kwargs: dict) -> None:
        """Before the forward pass: the sizes of this batch, or none if its images fill it."""
        inputs, samples = (*args, None, None)[:2]
        inputs, samples = kwargs.get('inputs', inputs), kwargs.get('data_samples', samples)
        sizes = own_sizes(inputs, samples)
        self.withdraw(model)
        if sizes is None:
            return
        backbones = backbones_of(model)
        if not backbones:  # a library's own, which attends to the padding
            return
        pixels = ValidGrid(torch.tensor(sizes, device=inputs.device), inputs.shape[2:])
        if torch.compiler.is_compiling():
            self.install(model, backbones)
        else:
            check_recomputing(model)
            with _one_installer:  # of several threads, the others wait until the hooks are there
                self.install(model, backbones)
        self.hider.pixels.set(pixels)
        for backbone in backbones:
            backbone.batch_pixels.set(pixels)
        if hasattr(model, 'rpn_head'):  # anchors outside belong to no object
            for sample, size in zip(samples, sizes):
                sample.set_metainfo(dict(pad_shape=tuple(-(-side // n) * n for side, n in zip(size, self.hider.patch))))

    def install(self, model: nn.Module, backbones: List[BaseBackbone]) -> None:
        """Puts the hooks on necks and heads when the first padded batch comes; the model is whole by then."""
        if self.hider is None:
            hider = PaddingHider(backbones[0].first_patch)
            hider.install(model)
            self.hider = hider

    def withdraw(self, model: nn.Module, *args: Any) -> None:
        """Behind the forward pass: whoever calls the backbone alone gives it sizes or means none."""
        for backbone in backbones_of(model):
            backbone.batch_pixels.set(None)
        if self.hider is not None:
            self.hider.pixels.set(None)


def backbones_of(model: nn.Module) -> List[BaseBackbone]:
    """This package's backbones inside a model."""
    return [module for module in model.modules() if isinstance(module, BaseBackbone)]


def check_recomputing(model: nn.Module) -> None:
    """Refuses mmengine's ``activation_checkpointing`` of what asks for the sizes, which are gone when it runs again.

    Blocks of a backbone get theirs as an argument.

    Raises:
        OptionError: While training; what runs but once is no matter.
    """
    if not model.training or not torch.is_grad_enabled():
        return
    for name, module in model.named_modules():
        if getattr(vars(module).get('forward'), '__code__', None) is not RECOMPUTED:
            continue
        if backbones_of(module) or name.split('.')[0] in DENSE_PARTS:
            raise OptionError(
                f'activation_checkpointing of {name!r} computes it again when the sizes of the batch are gone, and '
                f'padding would count as image: leave it out, and set model.backbone.with_cp=True'
            )


def own_sizes(inputs: Any, samples: Any) -> Optional[List[Tuple[int, int]]]:
    """(height, width) of each image of a padded batch; None if nothing is padded or nobody knows.

    Raises:
        OptionError: For samples without ``img_shape``, or with one that is larger than the batch.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not samples:
        return None
    sizes = []
    for sample in samples:
        size = getattr(sample, 'metainfo', {}).get('img_shape')
        if size is None:
            raise OptionError(
                "the samples have no img_shape: keep 'img_shape' in the meta_keys of the packing transform"
            )
        size = tuple(int(side) for side in size[:2])
        if not all(0 < own <= side for own, side in zip(size, inputs.shape[2:])):
            raise OptionError(
                f'img_shape {size} does not fit into a batch of {tuple(inputs.shape[2:])}: a transform changes the '
                f'image and not its img_shape'
            )
        sizes.append(size)
    return None if all(size == tuple(inputs.shape[2:]) for size in sizes) else sizes


def follow_image_sizes(model: nn.Module) -> ImageSizes:
    """Lets the backbones, dense necks and heads of ``model`` know each image's own size, for models built by hand.

    In configs :func:`SizedDataPreprocessor` does it.

    Args:
        model: Called as ``model(inputs, data_samples, ...)`` with ``img_shape`` in the samples' metainfo, which is the
            size before the batch is padded at its right and bottom.

    Returns:
        ImageSizes: The hooks.
    """
    sizes = ImageSizes()
    model.register_forward_pre_hook(sizes.announce, with_kwargs=True)
    model.register_forward_hook(sizes.withdraw, always_call=True)
    return sizes


#: modules that wait to become a part of another -> what to call with that one; it must not hold the module
_waiting: 'weakref.WeakKeyDictionary[nn.Module, Callable[[nn.Module], Any]]' = weakref.WeakKeyDictionary()


def _registered(parent: nn.Module, name: str, module: Optional[nn.Module]) -> None:
    callback = None if module is None else _waiting.pop(module, None)
    if callback is not None:
        callback(parent)


@functools.cache
def _listen() -> None:
    # one hook for good: torch.compile stumbles over one that goes with its module amid a compilation
    nn.modules.module.register_module_module_registration_hook(_registered)


def once_registered(child: nn.Module, callback: Callable[[nn.Module], Any]) -> None:
    """Calls ``callback(parent)`` as soon as ``child`` becomes a part of another module."""
    _listen()
    _waiting[child] = callback


@MODELS.register_module()
def SizedDataPreprocessor(base: str, **kwargs: Any) -> nn.Module:
    """A library's own data preprocessor, whose model then knows each image's own size.

    In a config ``data_preprocessor=dict(type='SizedDataPreprocessor', base='DetDataPreprocessor')`` in the place of
    ``dict(type='DetDataPreprocessor')``; nothing else changes, and no class of the libraries does. The model that it
    becomes a part of gets the hooks of :func:`follow_image_sizes`.

    Args:
        base: ``'DetDataPreprocessor'``, ``'SegDataPreProcessor'``, ``'ClsDataPreprocessor'`` or another one.
        **kwargs: Its arguments.

    Raises:
        OptionError: Where it becomes a part of another preprocessor, as in semi-supervised detectors, whose branches
            never learn the sizes.
    """
    preprocessor = MODELS.build(dict(type=base, **kwargs))

    def follow(parent: nn.Module) -> None:
        if isinstance(parent, BaseDataPreprocessor):
            raise OptionError(
                f'{type(parent).__name__} does not hand sizes on, so that padding would count as image: give it '
                f'{base} in the place of SizedDataPreprocessor'
            )
        follow_image_sizes(parent)

    once_registered(preprocessor, follow)
    return preprocessor
