"""Sampled images during the training of a generator."""

import os.path as osp
from typing import Optional, Sequence, Union

import numpy as np
import torch
from mmengine.dist import all_gather_object, barrier, get_dist_info, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS

from ...generation.labelled_images import check_labels
from ...generation.pictures import image_grid, save_picture
from ...generation.sample_set import sample_set
from ...generation.samplers import build_sampler
from ..sharding import whole_copy
from ..unwrapping import unwrapped


@HOOKS.register_module()
class SampleHook(Hook):
    """Writes a grid of sampled images every so often: ``<work_dir>/samples/iter_<n>.png``, one row per class.

    The noise is the same every time, so the pictures show one set of samples developing. With an ``EMAHook`` the
    averaged weights are used. The training's random numbers are not touched. The processes share the images. (The
    adaptive ODE chooses its steps for a batch, so its images depend slightly on the number of processes.)

    Args:
        interval: Iterations between pictures.
        classes: Classes that are shown.
        per_class: Images of each.
        cfg_scale: Guidance of the pictures; by default the model's.
        sampler: Sampler of the pictures; by default the model's.
        batch_size: Images that one process samples at once, at most.
        min_side: Small pictures are enlarged to this many pixels.
    """

    priority = 'LOW'

    def __init__(
        self,
        interval: int = 10000,
        classes: Sequence[int] = tuple(range(8)),
        per_class: int = 8,
        cfg_scale: Optional[float] = None,
        sampler: Optional[Union[dict, str]] = None,
        batch_size: int = 64,
        min_side: int = 512,
    ) -> None:
        self.interval = interval
        self.labels = [label for label in classes for _ in range(per_class)]
        self.per_class = per_class
        self.options = dict(cfg_scale=cfg_scale, sampler=sampler)
        self.batch_size = batch_size
        self.min_side = min_side

    def before_train(self, runner) -> None:
        """Reads the VAE and checks the settings now: a wrong one should not wait for the first picture.

        Raises:
            CheckpointError: If there is no VAE where the model's codec looks for it.
            ValueError: For a class out of range, a sampler that does not fit, or guidance without a null class.
        """
        model = unwrapped(runner.model)
        check_labels(self.labels, model.network.num_classes)
        if self.options['sampler'] is not None:
            build_sampler(self.options['sampler'], model.objective)
        if self.options['cfg_scale'] is not None:
            model.check_sampling(model.image_size, self.options['cfg_scale'])
        if is_main_process():
            model.codec.load()
        barrier()  # one process fetches a VAE from the hub, the others find it there
        model.codec.load()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        averaged = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
        model = averaged[0] if averaged else unwrapped(runner.model)
        images = self._sample(whole_copy(model))
        if is_main_process():
            path = osp.join(runner.work_dir, 'samples', f'iter_{runner.iter + 1:07d}.png')
            save_picture(path, image_grid(images, self.per_class), self.min_side)
            runner.logger.info(f'samples written to {path}')

    def _sample(self, model) -> torch.Tensor:
        """All images, on the host of every process."""
        rank, world_size = get_dist_info()
        own = {}

        def keep(indices, images):
            own.update(zip(indices, images.cpu().numpy()))  # a tensor's row would be sent with its whole batch

        share = -(-len(self.labels) // world_size)
        batch_size = min(self.batch_size, share)
        sample_set(model, self.labels, keep, batch_size=batch_size, rank=rank, world_size=world_size, **self.options)
        found = {index: image for part in all_gather_object(own) for index, image in part.items()}
        return torch.from_numpy(np.stack([found[index] for index in range(len(self.labels))]))
