"""The model that mmengine's Runner trains: network, objective, sampler and codec."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS, TASK_UTILS
from torch import Tensor

from ..checkpoints.loading import load_strictly
from ..checkpoints.reading import find_state_dict, read_checkpoint
from ..errors import OptionError
from ..layers.options import checked_choice, checked_number, checked_sides
from .codecs import check_image_size
from .dit_llama import CFG_CHANNELS, CFG_CHANNELS_ALIASES
from .labelled_images import check_labels
from .samplers import SampleNoise, build_sampler


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to 0 ... 255, rounded."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)


@MODELS.register_module()
class LabelledBatchPreprocessor(BaseDataPreprocessor):
    """mmengine's, which moves a batch to the device, after a look at its labels on the host.

    A label out of range is an assertion on the device, and the null class's has a row of its own, which a data set with
    one class too many would train in silence. On the device the look would wait for the step before.

    Args:
        num_classes: Labels are 0 ... num_classes - 1.
        non_blocking: As in mmengine.
    """

    def __init__(self, num_classes: int, non_blocking: bool = False) -> None:
        super().__init__(non_blocking)
        self.num_classes = num_classes

    def forward(self, data: dict, training: bool = False) -> dict:
        """See the class.

        Raises:
            ValueError: For a label out of range.
        """
        if 'labels' in data:
            check_labels(data['labels'], self.num_classes)
        return super().forward(data, training)


@MODELS.register_module()
class ImageGenerator(BaseModel):
    """Class-conditional image generator for ``mmengine.Runner``.

    ``loss`` mode takes images (``inputs``, in [-1, 1]) or stored VAE ``moments`` with ``labels``; ``predict`` mode
    takes ``labels`` and ``index`` (the number of each sample in its set) and draws images.

    Args:
        network: Config of the network, e.g. ``dict(type='DiTLLaMA', arch='B', patch_size=4)``.
        objective: ``dict(type='GaussianDiffusion')`` (DiT) or ``dict(type='LinearInterpolant')`` (SiT).
        sampler: Sampler of ``predict`` mode, a config or a name; see :mod:`.samplers`.
        codec: ``dict(type='VAECodec')`` or ``dict(type='PixelCodec')``.
        image_size: Images that are sampled, pixels, a number or (height, width); by default the anchor of the network.
        cfg_scale: Strength of the classifier-free guidance; 1 is none.
        cfg_channels: ``'all'`` latent channels are guided, or ``'first_three'``.
        flip_prob: Probability of mirroring a training image; 0 with stored moments.
        seed: Seed of ``predict`` mode.
        data_preprocessor: As in mmengine; by default a :class:`LabelledBatchPreprocessor`.
        init_cfg: As in mmengine.

    Raises:
        ValueError: For an unknown option, a size that does not fit, guidance without a null class, and a sampler
            that is not for this objective.
    """

    def __init__(
        self,
        network: dict,
        objective: dict,
        sampler: Union[dict, str],
        codec: Optional[dict] = None,
        image_size: Optional[Union[int, Sequence[int]]] = None,
        cfg_scale: float = 1.0,
        cfg_channels: str = 'all',
        flip_prob: float = 0.0,
        seed: int = 0,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.network = MODELS.build(network)
        if data_preprocessor is None:
            self.data_preprocessor = LabelledBatchPreprocessor(self.network.num_classes)
        self.objective = TASK_UTILS.build(objective)
        self.sampler = build_sampler(sampler, self.objective)
        self.codec = TASK_UTILS.build(codec or dict(type='PixelCodec'))
        self.image_size = self.anchor_size if image_size is None else checked_sides('image_size', image_size)
        self.check_sampling(self.image_size, cfg_scale)
        self.cfg_scale = cfg_scale
        self.cfg_channels = checked_choice('cfg_channels', cfg_channels, CFG_CHANNELS, CFG_CHANNELS_ALIASES)
        if not 0 <= flip_prob <= 1:
            raise OptionError(f'flip_prob must be in 0 ... 1, got {flip_prob!r}')
        self.flip_prob = flip_prob
        self.seed = seed

    @property
    def anchor_size(self) -> Tuple[int, int]:
        """Images (height, width) at the anchor of the network, pixels."""
        height, width = (
            g * p * self.codec.downsample for g, p in zip(self.network.anchor_grid, self.network.patch_size)
        )
        return height, width

    def forward(
        self,
        inputs: Optional[Tensor] = None,
        labels: Optional[Tensor] = None,
        moments: Optional[Tensor] = None,
        index: Optional[Tensor] = None,
        mode: str = 'tensor',
    ) -> Union[Tensor, Dict[str, Tensor], List[Dict[str, Any]]]:
        """See the class.

        Args:
            inputs: Images, ``(B, channels, height, width)``; latents in ``tensor`` mode.
            labels: ``(B,)``, int64.
            moments: Stored moments, ``(B, 2 channels, h, w)``, in place of ``inputs``.
            index: Number of each sample in its set, ``(B,)``; its noise depends on it.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'`` (the network at the first time, for counting).
        """
        if mode == 'loss':
            return self.loss(inputs, labels, moments)
        if mode == 'predict':
            index = range(len(labels)) if index is None else index.tolist()
            images = self.sample(labels, indices=index)
            return [dict(image=i, label=y, index=n) for i, y, n in zip(images, labels.tolist(), index)]
        if mode == 'tensor':
            labels = inputs.new_zeros(len(inputs), dtype=torch.int64) if labels is None else labels
            return self.network(inputs, labels.new_zeros(len(inputs)), labels)
        raise ValueError(f"unknown mode {mode!r}: choose 'loss', 'predict' or 'tensor'")

    def example_inputs(self, shape: Sequence[int], device: str) -> Dict[str, Tensor]:
        """Arguments of one ``tensor`` mode call for images of ``shape`` (height, width) pixels, to count its work."""
        latent_size = check_image_size(shape, self.codec.downsample)
        return dict(inputs=torch.rand(1, self.network.in_channels, *latent_size, device=device))

    def check_sampling(self, size: Sequence[int], cfg_scale: float) -> Tuple[int, int]:
        """Latent size of images of ``size`` (height, width).

        Raises:
            ValueError: For a size that does not fit, guidance without a null class, or of no finite strength.
        """
        latent_size = check_image_size(size, self.codec.downsample)
        self.network.token_grid(latent_size)
        if checked_number('cfg_scale', cfg_scale) != 1:
            _ = self.network.null_label
        return latent_size

    def loss(self, inputs: Optional[Tensor], labels: Tensor, moments: Optional[Tensor] = None) -> Dict[str, Tensor]:
        """Training losses, averaged over the batch. Everything random in training is drawn here.

        Raises:
            OptionError: For stored moments with ``flip_prob``.
            ValueError: For a class out of range among labels on the host; the Runner's batches were looked at there.
        """
        if labels.device.type == 'cpu':
            check_labels(labels, self.network.num_classes)
        if moments is not None:
            if self.flip_prob:
                raise OptionError(
                    'flip_prob mirrors images and a stored latent cannot be mirrored: set model.flip_prob=0 '
                    '(latents that were encoded with mirrored images hold both)'
                )
            latents = self.codec.sample(moments)
        else:
            if self.flip_prob:
                flip = torch.rand(len(inputs), device=inputs.device) < self.flip_prob
                inputs = torch.where(flip[:, None, None, None], inputs.flip(-1), inputs)
            latents = self.codec.encode(inputs)
        losses = self.objective.losses(lambda x, t: self.network(x, t, labels), latents)
        return {name: value.mean() for name, value in losses.items()}

    @torch.no_grad()
    def sample(
        self,
        labels: Union[Tensor, Sequence[int]],
        *,
        indices: Optional[Sequence[int]] = None,
        seed: Optional[int] = None,
        cfg_scale: Optional[float] = None,
        cfg_channels: Optional[str] = None,
        sampler: Optional[Union[dict, str]] = None,
        image_size: Optional[Union[int, Sequence[int]]] = None,
    ) -> Tensor:
        """Draws one image per label, in evaluation mode.

        A sample depends on its label, ``seed`` and index alone, not on the batch or process it is made in (but the
        step sizes of the adaptive ODE are chosen for the batch).

        Args:
            labels: Classes 0 ... num_classes - 1.
            indices: Number of each sample in its set; 0, 1, ... by default.
            seed: As in the constructor, which these arguments override.
            cfg_scale: As in the constructor.
            cfg_channels: As in the constructor.
            sampler: As in the constructor.
            image_size: As in the constructor.

        Returns:
            Tensor: uint8, ``(B, channels, height, width)``.

        Raises:
            ValueError: For a class out of range, a size that does not fit, or guidance without a null class.
            CheckpointError: If there is no VAE where the codec looks for it.
        """
        check_labels(labels, self.network.num_classes)
        size = self.image_size if image_size is None else checked_sides('image_size', image_size)
        sampler = self.sampler if sampler is None else build_sampler(sampler, self.objective)
        cfg_scale = self.cfg_scale if cfg_scale is None else cfg_scale
        cfg_channels = self.cfg_channels if cfg_channels is None else cfg_channels
        latent_size = self.check_sampling(size, cfg_scale)
        self.codec.load()  # a missing VAE should not wait for the sampler's many steps
        weight = self.network.head.weight
        labels = torch.as_tensor(labels, device=weight.device)
        noise = SampleNoise(
            self.seed if seed is None else seed,
            range(len(labels)) if indices is None else indices,
            (self.network.in_channels, *latent_size),
            weight.device,
        )

        def model(x: Tensor, t: Tensor) -> Tensor:
            return self.network.forward_with_cfg(x, t, labels, cfg_scale, cfg_channels)

        was_training = self.network.training
        self.network.eval()
        try:
            latents = sampler(model, noise)
        finally:
            self.network.train(was_training)
        return to_uint8(self.codec.decode(latents))


def load_generator(cfg: Config, checkpoint: str, device: str = 'cpu') -> ImageGenerator:
    """Builds the generator of a config and fills it from a checkpoint, for sampling.

    A checkpoint that was written with an ``EMAHook`` gives the averaged weights: its ``state_dict`` holds them.

    Args:
        cfg: Config with ``model``.
        checkpoint: File that the Runner or the converter wrote.
        device: Where the network goes.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit the config.
    """
    model = MODELS.build(cfg.model)
    load_strictly(model, find_state_dict(read_checkpoint(checkpoint)), checkpoint)
    return model.to(device).eval()
