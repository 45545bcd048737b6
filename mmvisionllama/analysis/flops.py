"""Parameters and operations of a model, counted by torch."""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Dict, Iterable, Optional, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..errors import OptionError
from ..layers.options import type_name


@dataclass
class Complexity:
    """Size of a model and the work of one forward pass.

    Attributes:
        shape: Height and width of the input, pixels.
        params: Parameters.
        trainable: Those that take gradients.
        macs: Multiply-accumulates; papers often print this number as "FLOPs".
        flops: Floating-point operations, two per multiply-accumulate.
        by_module: FLOPs of each module.
    """

    shape: Tuple[int, int]
    params: int
    trainable: int
    macs: int
    flops: int
    by_module: Dict[str, int]

    def __str__(self) -> str:
        rows = [
            ('input', f'{self.shape[0]} x {self.shape[1]} (height x width), one sample'),
            ('parameters', f'{self.params:,} ({self.params / 1e6:.2f} M), trainable {self.trainable:,}'),
            ('MACs', f'{self.macs / 1e9:.3f} G multiply-accumulates (what papers often call FLOPs)'),
            ('FLOPs', f'{self.flops / 1e9:.3f} G operations = 2 x MACs'),
        ]
        return '\n'.join(f'{name:<12}{text}' for name, text in rows)


def input_size(cfg: Config, default: Union[int, Tuple[int, int]] = 224) -> Tuple[int, int]:
    """Height and width of the input that a config is for: the size of its preprocessor, its crop or its resize."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    size = preprocessor.get('size') or cfg.get('crop_size') or cfg.get('img_size')
    if size is None:
        dataset = (cfg.get('test_dataloader') or cfg.get('train_dataloader') or {}).get('dataset') or {}
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        for step in dataset.get('pipeline') or []:
            kind = type_name(step.get('type'))
            if kind.endswith('Crop'):
                size = step.get('crop_size') or step.get('scale') or size
            elif kind == 'Resize':
                # (width, height); the short side is what the model sees of a square image
                size = step['scale'][::-1] if isinstance(step.get('scale'), (list, tuple)) else step.get('scale')
    size = default if size is None else size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def model_inputs(model: nn.Module, shape: Tuple[int, int], device: str) -> Tuple[tuple, dict]:
    """Arguments of one forward pass over one sample.

    A model that takes something else than ``forward(inputs, data_samples, mode)`` has a method
    ``example_inputs(shape, device)`` that returns its keyword arguments.
    """
    if hasattr(model, 'example_inputs'):
        return (), model.example_inputs(shape, device)
    images = torch.rand(1, in_channels(model), *shape, device=device)
    parameters = inspect.signature(model.forward).parameters
    if 'mode' not in parameters or hasattr(model, 'roi_head'):
        return (images,), {}
    if type(model).__module__.startswith('mmdet.'):  # DETR's kind asks where images end
        from mmdet.structures import DetDataSample

        sizes = dict.fromkeys(('img_shape', 'batch_input_shape', 'pad_shape', 'ori_shape'), tuple(shape))
        return (images, [DetDataSample(metainfo=sizes)]), dict(mode='tensor')
    return (images,), dict(mode='tensor')


def in_channels(model: nn.Module) -> int:
    """Channels of the first convolution."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)


def two_stage_forward(model: nn.Module, images: torch.Tensor) -> None:
    """A two-stage detector of mmdetection over as many regions as its ``test_cfg`` allows.

    The regions' contents do not matter for counting, so nothing has to be computed to find them.
    """
    levels, roi_head = model.extract_feat(images), model.roi_head
    if model.with_rpn:
        model.rpn_head(levels)
    if getattr(model, 'with_semantic_head', False):
        model.semantic_head(levels)
    for part, cfg in (('bbox', model.test_cfg.rpn), ('mask', model.test_cfg.rcnn)):
        if getattr(roi_head, f'with_{part}'):
            extractors, heads = (_stages(getattr(roi_head, f'{part}_{name}')) for name in ('roi_extractor', 'head'))
            for extractor, head in zip(extractors, heads):
                size = extractor.roi_layers[0].output_size
                regions = images.new_empty(cfg.max_per_img, extractor.out_channels, *size)
                head(roi_head.shared_head(regions) if roi_head.with_shared_head else regions)


def _stages(part: nn.Module) -> Iterable[nn.Module]:
    """A cascade has a list of each part."""
    return part if isinstance(part, nn.ModuleList) else [part]


def count(model: nn.Module, shape: Tuple[int, int], device: str = 'cpu') -> Complexity:
    """Counts one forward pass in evaluation mode.

    Matrix products, convolutions and attention are counted; element-wise operations, norms and softmax are not, as in
    the tables of the papers.

    Args:
        model: Any model; on the meta device nothing is computed.
        shape: Height and width of the input, pixels.
        device: Where the model is.
    """
    model.eval()
    args, kwargs = model_inputs(model, shape, device)
    forward = partial(two_stage_forward, model) if hasattr(model, 'roi_head') else model
    counter = FlopCounterMode(display=False)
    # the CPU's fused attention is not in torch's table of operations; written out, it is counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        forward(*args, **kwargs)
    flops = counter.get_total_flops()
    params = list(model.parameters())
    return Complexity(
        shape=tuple(shape),
        params=sum(p.numel() for p in params),
        trainable=sum(p.numel() for p in params if p.requires_grad),
        macs=flops // 2,
        flops=flops,
        by_module={name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()},
    )


def count_config(cfg: Config, shape: Optional[Tuple[int, int]] = None) -> Complexity:
    """Builds the model of a config and counts it.

    Everything is counted on the meta device (no memory, no computing), or on the CPU where a model asks for values: of
    pre-training models the encoder over a whole image, of two-stage detectors the heads over as many regions as
    ``test_cfg`` allows (1000 boxes and 100 masks), a mask head that samples points not among them.

    Args:
        cfg: Config of any library.
        shape: Height and width, by default what the config is for.

    Raises:
        OptionError: For a model that cannot be run like that.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    shape = shape or input_size(cfg)
    cfg = cfg.copy()
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    try:
        with torch.device('meta'):
            return count(MODELS.build(cfg.model), shape, 'meta')
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is a RuntimeError
        if 'meta' not in str(error):
            raise _uncountable(cfg, error) from error
    try:
        return count(MODELS.build(cfg.model), shape)
    except (RuntimeError, AssertionError) as error:
        raise _uncountable(cfg, error) from error


def _uncountable(cfg: Config, error: Exception) -> OptionError:
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    return OptionError(f'a {type_name(cfg.model.type)} cannot be counted by a forward pass over one image: {reason}')
