"""Images of any sizes through stock classifiers: a list of images in the place of one padded tensor."""

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..errors import OptionError


@MODELS.register_module()
class PackedDataPreprocessor(nn.Module):
    """A library's own data preprocessor, run for each image, whose model gets a list of images.

    In a config ``data_preprocessor=dict(type='PackedDataPreprocessor', base='ClsDataPreprocessor', ...)``. The stock
    classifier hands the list to the backbone, and :class:`~mmvisionllama.backbones.VisionLLaMA` packs it. The data
    loader must not stack images (``collate_fn=dict(type='pseudo_collate')``).

    Args:
        base: ``'ClsDataPreprocessor'`` or another one.
        batch_augments: Must be None: mixing needs images of one size.
        **kwargs: The base's arguments.

    Raises:
        OptionError: For batch augments.
    """

    def __init__(self, base: str = 'ClsDataPreprocessor', batch_augments: Any = None, **kwargs: Any) -> None:
        super().__init__()
        if batch_augments:
            raise OptionError('packed images have different sizes and cannot be mixed: leave batch augments out')
        self.base = MODELS.build(dict(type=base, **kwargs))

    def forward(self, data: dict, training: bool = False) -> dict:
        """A batch as the data loader gives it to ``inputs``, a list of ``(C, H, W)``, and ``data_samples``."""
        images, samples = data['inputs'], data.get('data_samples')
        one_by_one = [
            self.base(dict(inputs=[image], data_samples=None if samples is None else [samples[n]]), training)
            for n, image in enumerate(images)
        ]
        if samples is not None:
            samples = [one['data_samples'][0] for one in one_by_one]
        return dict(inputs=[one['inputs'][0] for one in one_by_one], data_samples=samples)
