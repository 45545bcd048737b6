"""Reconstructions during masked image modelling."""

import random
from contextlib import contextmanager
from typing import Iterator, Optional

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ...pretraining.reconstruction import check_reconstructs, reconstruct_fixed
from ...visualization.reconstruction import draw_reconstruction
from ..sharding import whole_copy
from ..unwrapping import unwrapped


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Leaves Python's, numpy's and torch's CPU generators as they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


def reconstruction_picture(model: nn.Module, images: Tensor, seed: int = 0) -> np.ndarray:
    """The picture of preprocessed images under masks that depend on the seed alone.

    Args:
        model: The whole MAE; its mode is left as it was.
        images: Preprocessed images ``(B, C, H, W)``; three channels are taken for RGB.
        seed: Seed of the masks.

    Returns:
        ndarray: ``(height, width, 3)``, uint8, RGB.
    """
    preprocessor = model.data_preprocessor
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    return draw_reconstruction(reconstruct_fixed(model, images, seed), mean, std)


@HOOKS.register_module()
class MAEReconstructionHook(Hook):
    """Shows original, masked image and reconstruction of the same few training images under the same masks.

    The picture goes to the runner's visualizer: with the local backend it lies in ``vis_data/vis_image/``. Training
    itself is not touched, random numbers included.

    Args:
        interval: Epochs (or iterations) between two pictures; the last one is always drawn.
        num_images: Images in the picture, the first ones of the training set.
        seed: Seed of the masks and of the images' augmentation.
        by_epoch: Count epochs.
        name: Name of the picture.
    """

    priority = 'LOW'

    def __init__(
        self,
        interval: int = 20,
        num_images: int = 8,
        seed: int = 0,
        by_epoch: bool = True,
        name: str = 'reconstruction',
    ) -> None:
        self.interval = interval
        self.num_images = num_images
        self.seed = seed
        self.by_epoch = by_epoch
        self.name = name
        self._images: Optional[Tensor] = None

    def before_train(self, runner) -> None:
        """Refuses a backbone that it cannot draw, before epochs are trained."""
        check_reconstructs(unwrapped(runner.model).backbone)

    def after_train_epoch(self, runner) -> None:
        """Draws after every ``interval`` epochs."""
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self.write(runner, runner.epoch + 1)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Draws after every ``interval`` iterations."""
        if not self.by_epoch and (self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)):
            self.write(runner, runner.iter + 1)

    def write(self, runner, step: int) -> None:
        """Draws the picture of this moment; all processes have to call it."""
        model = whole_copy(unwrapped(runner.model))
        if not is_main_process():
            return
        if self._images is None:
            self._images = self._read_images(runner, model)
        picture = reconstruction_picture(model, self._images, self.seed)
        runner.visualizer.add_image(self.name, picture, step=step)

    def _read_images(self, runner, model) -> Tensor:
        dataset = runner.train_dataloader.dataset
        with preserved_random_state():
            random.seed(self.seed)
            np.random.seed(self.seed)
            torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would reseed the GPUs, which draw masks
            samples = [dataset[i] for i in range(min(self.num_images, len(dataset)))]
        inputs = torch.stack([sample['inputs'] for sample in samples])
        batch = model.data_preprocessor(dict(inputs=inputs, data_samples=[s['data_samples'] for s in samples]), False)
        inputs = batch['inputs']
        return inputs[0] if isinstance(inputs, (list, tuple)) else inputs
