"""The part of a model that goes into an exported file: tensors in, tensors out, nothing of the mm libraries left."""

import copy
from typing import List, Optional, Sequence, Tuple, Type

import torch
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from ..errors import OptionError
from ..generation.dit_llama import guide
from .rewriting import fold_layer_scales, pairs_to_halves

#: images that the tracer sees; no two sides and no side and the batch are related
EXAMPLE_SIZE = (2, 157, 219)


class AdaptiveAveragePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products: ONNX has none for sizes that are not known in advance.

    Args:
        output_size: Rows and columns of the output.
    """

    def __init__(self, output_size: Tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size

    @staticmethod
    def weights(length: int, cells: int, like: Tensor) -> Tensor:
        """Share of each of ``length`` positions in each mean: ``(cells, length)``."""
        cell = torch.arange(cells, device=like.device)[:, None]
        position = torch.arange(length, device=like.device)
        first = cell * length // cells
        last = ((cell + 1) * length + (cells - 1)) // cells
        member = ((position >= first) & (position < last)).to(like.dtype)
        return member / member.sum(dim=1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, *output_size)``."""
        rows, cols = (self.weights(n, cells, x) for n, cells in zip(x.shape[2:], self.output_size))
        return rows @ x @ cols.T


class Network(nn.Module):
    """Base of the exported networks.

    Attributes:
        task: Name of the task, kept in the file.
        input_names: Names of the arguments of ``forward``.
    """

    task = ''
    input_names: Sequence[str] = ('images',)
    #: dynamic axes of each input
    input_axes: Sequence[dict] = ({0: 'batch', 2: 'height', 3: 'width'},)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def output_names(self) -> List[str]:
        """Names of what ``forward`` returns."""
        return ['logits']

    def example(
        self, size: Tuple[int, int, int] = EXAMPLE_SIZE, generator: Optional[torch.Generator] = None
    ) -> Tuple[Tensor, ...]:
        """Random inputs of ``size`` (batch, height, width)."""
        batch, height, width = size
        return (torch.randn(batch, input_channels(self.model), height, width, generator=generator),)


class ClassifierNetwork(Network):
    """mmpretrain's ``ImageClassifier``: normalised images ``(B, C, H, W)`` to logits ``(B, classes)``."""

    task = 'classification'

    def forward(self, images: Tensor) -> Tensor:
        return self.model.head(self.model.extract_feat(images))


class SegmentorNetwork(Network):
    """mmseg's ``EncoderDecoder``: normalised images to the logits ``(B, classes, H', W')`` of its decode head.

    Sliding windows and the resizing to the image stay outside.
    """

    task = 'segmentation'

    def forward(self, images: Tensor) -> Tensor:
        return self.model.decode_head(self.model.extract_feat(images))


class DetectorNetwork(Network):
    """mmdet's two-stage detectors up to the proposals: images to the neck's maps and the RPN's raw outputs.

    Decoding boxes, NMS and RoIAlign stay outside.
    """

    task = 'detection'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        levels = len(model.rpn_head.prior_generator.strides)
        self._names = [f'{name}_{i}' for name in ('map', 'rpn_scores', 'rpn_boxes') for i in range(levels)]

    @property
    def output_names(self) -> List[str]:
        return self._names

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        maps = self.model.extract_feat(images)
        scores, boxes = self.model.rpn_head(maps)
        return (*maps, *scores, *boxes)


class GuidedNetwork(Network):
    """The network of a DiT or SiT with classifier-free guidance: one step of a sampler.

    Latents ``(B, C, H, W)`` whose sides are multiples of the patch, times ``(B,)`` in fp32 (0 ... 999 for DiT, 0 ... 1
    for SiT), labels ``(B,)`` in int64 and the strength of the guidance, a scalar, to the prediction.
    """

    task = 'generation'
    input_names = ('latents', 'times', 'labels', 'guidance')
    input_axes = ({0: 'batch', 2: 'height', 3: 'width'}, {0: 'batch'}, {0: 'batch'}, {})
    #: channels that guidance changes; None for all of the latent
    guided: Optional[int] = None

    @property
    def output_names(self) -> List[str]:
        return ['prediction']

    def example(
        self, size: Tuple[int, int, int] = EXAMPLE_SIZE, generator: Optional[torch.Generator] = None
    ) -> Tuple[Tensor, ...]:
        batch, *sides = size
        height, width = (max(side // patch, 1) * patch for side, patch in zip(sides, self.model.patch_size))
        return (
            torch.randn(batch, self.model.in_channels, height, width, generator=generator),
            torch.rand(batch, generator=generator),
            torch.randint(self.model.num_classes, (batch,), generator=generator),
            torch.tensor(4.0),
        )

    def forward(self, latents: Tensor, times: Tensor, labels: Tensor, guidance: Tensor) -> Tensor:
        batch = latents.shape[0]
        null = torch.full_like(labels, self.model.null_label)
        both = self.model(torch.cat((latents, latents)), torch.cat((times, times)), torch.cat((labels, null)))
        return guide(both[:batch], both[batch:], guidance, self.guided or self.model.in_channels)


class BackboneNetwork(Network):
    """A backbone alone: one output per ``out_index``, with ``output_cls_token`` a feature map and a class token."""

    task = 'features'

    @property
    def output_names(self) -> List[str]:
        kinds = ('features', 'cls_token') if getattr(self.model, 'output_cls_token', False) else ('features',)
        return [f'{kind}_{i}' for i in range(len(self.model.out_indices)) for kind in kinds]

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        outputs = self.model(images)
        return tuple(x for out in outputs for x in (out if isinstance(out, tuple) else (out,)))


def input_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its first convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise OptionError(f'{type(model).__name__} has no patch embedding: it cannot be exported')


def without_obstacles(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the CPU: what no runtime has is replaced, and what runtimes do slowly rewritten."""
    model = revert_sync_batchnorm(copy.deepcopy(model).cpu().eval())
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                setattr(parent, name, AdaptiveAveragePool((size, size) if isinstance(size, int) else tuple(size)))
    fold_layer_scales(model)
    pairs_to_halves(model)
    return model.requires_grad_(False)


def _kind(model: nn.Module) -> Optional[Type[Network]]:
    # by what they have: importing the libraries to ask for their classes would load all three
    if hasattr(model, 'decode_head') and hasattr(model, 'extract_feat'):
        return SegmentorNetwork
    if hasattr(model, 'rpn_head') and hasattr(model, 'roi_head'):
        return DetectorNetwork
    if (
        hasattr(model, 'extract_feat')
        and getattr(model, 'head', None) is not None
        and hasattr(model.head, 'pre_logits')
    ):
        return ClassifierNetwork
    if hasattr(model, 'forward_with_cfg'):
        return GuidedNetwork
    if hasattr(model, 'out_indices') and hasattr(model, 'get_layer_depth'):
        return BackboneNetwork
    return None


def export_network(model: nn.Module) -> Network:
    """The exported part of a model, as a copy on the CPU.

    Args:
        model: A classifier of mmpretrain, a segmentor of mmseg, a two-stage detector of mmdet, an image generator or
            a backbone.

    Raises:
        OptionError: For any other model, and for a generator that was trained without a null class.
    """
    first_three = getattr(model, 'cfg_channels', None) == 'first_three'
    model = getattr(model, 'network', model)  # of an image generator
    kind = _kind(model)
    if kind is None:
        raise OptionError(
            f'{type(model).__name__} cannot be exported: classifiers (ImageClassifier), segmentors (EncoderDecoder), '
            f'two-stage detectors (MaskRCNN, FasterRCNN), DiTLLaMA and backbones can'
        )
    if kind is GuidedNetwork:
        _ = model.null_label  # guidance needs it
    network = kind(without_obstacles(model)).eval()
    if first_three:
        network.guided = min(3, network.model.in_channels)
    return network
