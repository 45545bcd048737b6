"""Evaluates one checkpoint at several resolutions and with several rotary variants, without retraining.

The study of Tables 11 and 12 for any classification config. A rotary table is a function of the input's grid, so a
checkpoint fits every variant and every size, and all variants share one copy of the weights.

Variants: ``as2d`` (AS2DRoPE, eq. 4), ``2d`` (2D RoPE, unscaled positions), ``ntk:ALPHA`` (base times ALPHA, unscaled),
``1d`` (for models trained with it), ``anchor:PIXELS`` (AS2DRoPE scaled onto another size than the training's) and
``yarn:LOW:HIGH`` (YaRN's ramp between two frequencies, radians per token). ``+log_n`` and ``+inverse_log_n`` behind any
of them, ``as2d+log_n`` say, give the plain backbone that temperature. A config with released switches gets the
release's version of each. ``config`` leaves the model as it is, which other libraries' backbones may have, too; it is
iLLaMA's only one.
"""

import copy
import csv
import inspect
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import ProgressBar

from ..checkpoints.loading import check_switches, load_strictly
from ..checkpoints.reading import find_state_dict, read_checkpoint
from ..errors import OptionError
from ..layers.logit_scale import LOGIT_SCALES
from ..layers.options import checked_choice, type_name
from ..moved import moved

#: transform -> its setting that is a size in pixels
SIZE_KEYS = {
    'Resize': 'scale',
    'ResizeEdge': 'scale',
    'CenterCrop': 'crop_size',
    'EfficientNetCenterCrop': 'crop_size',
    'Pad': 'size',
    'torchvision/Resize': 'size',
    'torchvision/CenterCrop': 'size',
}


#: pixels: a side, or (height, width)
Size = Union[int, Tuple[int, int]]


def scale_pipeline(pipeline: Sequence[dict], size: Size) -> List[dict]:
    """A test pipeline that ends at ``size`` pixels and keeps its proportions.

    The last transform with a size (e.g. ``CenterCrop``) gets ``size`` on its short side; the sizes before it are scaled
    by the same factor and rounded. ``ResizeEdge(256)``, ``CenterCrop(224)`` becomes ``ResizeEdge(585)``,
    ``CenterCrop(512)`` for 512 pixels: the same part of the image, at another resolution. For a height and a width the
    sizes before are those of a square of the longer side, and a crop cuts the middle of it.

    Raises:
        OptionError: If no transform of the pipeline sets a size, or the last cannot set a height and a width.
    """
    pipeline = [copy.deepcopy(dict(step)) for step in pipeline]
    named = [(step, type_name(step.get('type'))) for step in pipeline]
    sized = [(step, SIZE_KEYS[name]) for step, name in named if name in SIZE_KEYS]
    sized = [(step, key) for step, key in sized if step.get(key) is not None]
    if not sized:
        raise OptionError(
            f'the test pipeline sets no size: it needs one of {", ".join(SIZE_KEYS)} to be evaluated at another one'
        )
    last, key = sized[-1]
    base = last[key] if isinstance(last[key], int) else min(last[key])
    longest = size if isinstance(size, int) else max(size)
    for step, name in sized:
        value = step[name]
        if isinstance(value, int):
            step[name] = round(value * longest / base)
        else:
            step[name] = tuple(round(side * longest / base) for side in value)
    if not isinstance(size, int):
        if type_name(last['type']) not in ('Resize', 'CenterCrop', 'Pad'):
            raise OptionError(f'{type_name(last["type"])} at the end of the test pipeline takes no height and width')
        last[key] = (size[1], size[0])  # mmcv's order: width, height
    return pipeline


def rotary_variant(backbone: dict, variant: str) -> dict:
    """Config of a backbone with the positions of ``variant``.

    Frequencies, ratio and sharing stay as configured. Where the config has the released models' key positions
    (``key_position='flat_index'``), ``as2d`` takes their scaling (14 / H in every stage) and ``ntk`` their keys of
    plain base. 1D RoPE has no such positions.

    Raises:
        OptionError: For an unknown variant, or one of positions that the backbone does not have.
    """
    backbone = copy.deepcopy(dict(backbone))
    if variant == 'config':
        return backbone
    kind, own_name = _class_of(backbone), type_name(backbone['type'])
    if kind is None or 'rope_cfg' not in inspect.signature(kind).parameters:
        raise OptionError(f'backbone {own_name} has no rope_cfg, so there are no variants to compare')
    if 'rope_scale' in inspect.signature(kind).parameters:
        raise OptionError(
            f'variant {variant!r} is none of {own_name}, whose positions are 1D by design: evaluate config, '
            'with another model.backbone.rope_scale or model.backbone.anchor'
        )
    rope_cfg = dict(backbone.get('rope_cfg') or {})
    released = backbone.get('key_position') in ('flat_index', 'released')
    variant, _, temperature = variant.partition('+')
    if temperature:
        if 'logit_scale' not in inspect.signature(kind).parameters:
            raise OptionError(f'backbone {own_name} has no logit_scale: leave +{temperature} out')
        backbone['logit_scale'] = checked_choice('temperature', temperature, LOGIT_SCALES)
    name, *numbers = variant.split(':')
    for key in ('kind', 'ntk_alpha', 'ntk_keys', 'anchor_grid', 'yarn_range'):
        rope_cfg.pop(key, None)
    configured = rope_cfg.pop('scale', None)
    own = configured if configured not in (None, 'none') else 'per_axis'
    if variant == 'as2d':
        rope_cfg.update(dict(scale='height', anchor_grid=(14, 14)) if released else dict(scale=own))
    elif name == 'anchor' and len(numbers) == 1 and numbers[0].isdecimal() and int(numbers[0]):
        backbone['anchor'] = int(numbers[0])
        rope_cfg.update(scale=own)
    elif name == 'yarn' and len(numbers) == 2 and all(map(_positive_number, numbers)):
        rope_cfg.update(scale=own, yarn_range=tuple(map(float, numbers)))
    elif variant == '2d':
        rope_cfg.update(scale='none')
    elif variant == '1d':
        rope_cfg.update(kind='1d', scale='none')
        for key in ('key_position', 'cls_position'):  # positions of the 2D grid
            backbone.pop(key, None)
    elif name == 'ntk' and len(numbers) == 1 and _positive_number(numbers[0]):
        rope_cfg.update(scale='none', ntk_alpha=float(numbers[0]))
        if released:
            rope_cfg.update(ntk_keys='plain_base')
    else:
        raise OptionError(
            f'unknown variant {variant!r}: choose as2d, 2d, 1d, ntk:ALPHA, e.g. ntk:2, anchor:PIXELS, yarn:LOW:HIGH or '
            'config'
        )
    backbone['rope_cfg'] = rope_cfg
    return backbone


def _class_of(backbone: dict) -> Optional[type]:
    kind = backbone['type']
    return kind if inspect.isclass(kind) else MODELS.get(kind)


def _positive_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def build_variants(
    cfg: Config, checkpoint: str, variants: Sequence[str], device: torch.device
) -> Dict[str, torch.nn.Module]:
    """One model per variant, in evaluation mode, all with the same weight tensors.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit the config.
    """
    init_default_scope('mmpretrain')
    stored = read_checkpoint(checkpoint)
    state_dict = {k: v.to(device) for k, v in find_state_dict(stored).items()}
    models = {}
    for variant in variants:
        config = copy.deepcopy(cfg.model)
        if cfg.get('data_preprocessor'):
            # a copy: mmpretrain adds to the probabilities of batch augmentations that it is given
            config.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
        config.backbone = rotary_variant(config.backbone, variant)
        config.backbone.pop('init_cfg', None)
        model = MODELS.build(config).to(device).eval()
        for name, own in model.state_dict().items():  # a file may hold half precision
            if name in state_dict and own.is_floating_point() and state_dict[name].is_floating_point():
                state_dict[name] = state_dict[name].to(own.dtype)
        load_strictly(model, state_dict, checkpoint, assign=True)
        if not models:
            check_switches(model, stored, checkpoint)
        models[variant] = model
    return models


def build_test_data(cfg: Config, size: Size, batch_size: Optional[int] = None) -> torch.utils.data.DataLoader:
    """The config's test data at ``size`` pixels."""
    loader = copy.deepcopy(cfg.test_dataloader)
    dataset = loader.dataset
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = scale_pipeline(dataset.pipeline, size)
    if batch_size:
        loader.batch_size = batch_size
    loader.setdefault('collate_fn', dict(type='default_collate'))  # mmpretrain's batches are stacked tensors
    loader.persistent_workers = False
    return Runner.build_dataloader(loader)


@torch.no_grad()
def evaluate(
    cfg: Config,
    checkpoint: str,
    sizes: Sequence[Size],
    variants: Sequence[str] = ('as2d', '2d'),
    *,
    device: Optional[Union[str, torch.device]] = None,
    batch_size: Optional[int] = None,
) -> List[Dict[str, Any]]:
    """Metrics of every variant at every size.

    Args:
        cfg: Classification config, see :func:`mmvisionllama.launch.load_config`.
        checkpoint: Weights trained with it.
        sizes: Input sizes, pixels, a number or (height, width); see :func:`scale_pipeline`.
        variants: See :func:`rotary_variant`.
        device: By default the GPU if there is one.
        batch_size: Instead of the config's, for large sizes.

    Returns:
        list: One dict per pair: ``variant``, ``size`` (a number, or the text ``'72x144'``), ``images`` and the config's
        metrics under their short names (``top1`` for ``accuracy/top1``).

    Raises:
        OptionError: For a config, variant, size or data folder that is not usable.
        CheckpointError: If the checkpoint cannot be read or does not fit.
    """
    if cfg.get('default_scope') != 'mmpretrain' or 'backbone' not in cfg.model:
        raise OptionError('this study takes classification configs (default_scope mmpretrain with a backbone)')
    if any(side < 1 for size in sizes for side in ([size] if isinstance(size, int) else size)):
        raise OptionError(f'sizes are positive numbers of pixels, got {list(sizes)}')
    device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    variants = list(dict.fromkeys(variants))
    models = build_variants(cfg, checkpoint, variants, device)
    loaders = [build_test_data(cfg, size, batch_size) for size in sizes]

    rows = []
    progress = ProgressBar(len(variants) * sum(map(len, loaders)))
    for size, loader in zip(sizes, loaders):
        evaluators = {variant: Evaluator(copy.deepcopy(cfg.test_evaluator)) for variant in variants}
        for evaluator in evaluators.values():
            evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
        for batch in loader:
            for variant, model in models.items():
                evaluators[variant].process(model.test_step(batch), batch)
                progress.update()
        for variant, evaluator in evaluators.items():
            metrics = short_scalars(evaluator.evaluate(len(loader.dataset)))
            named = size if isinstance(size, int) else f'{size[0]}x{size[1]}'
            rows.append(dict(variant=variant, size=named, images=len(loader.dataset), **metrics))
    progress.file.write('\n')
    return rows


def short_scalars(metrics: Dict[str, Any]) -> Dict[str, float]:
    """The numbers among an evaluator's metrics, under their last name where no other has it.

    Raises:
        OptionError: If there are none.
    """
    found = {name: value for name, value in metrics.items() if np.ndim(value) == 0 and not isinstance(value, str)}
    if not found:
        raise OptionError(f'the evaluator gives no number: {", ".join(metrics) or "nothing"}')
    count = Counter(name.rsplit('/', 1)[-1] for name in found)
    short = {name: name.rsplit('/', 1)[-1] for name in found}
    return {short[name] if count[short[name]] == 1 else name: round(float(found[name]), 4) for name in found}


def write_csv(rows: Sequence[Dict[str, Any]], path: Union[str, Path], **same: Any) -> None:
    """Writes the rows, with the columns ``same`` (e.g. the config's name) behind their own."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, [*rows[0], *same])
        writer.writeheader()
        writer.writerows({**row, **same} for row in rows)


def format_table(rows: Sequence[Dict[str, Any]], metric: str) -> str:
    """The metric as text, one line per variant and one column per size."""
    sizes = list(dict.fromkeys(row['size'] for row in rows))
    values = {(row['variant'], row['size']): row[metric] for row in rows}
    variants = list(dict.fromkeys(row['variant'] for row in rows))
    wide = max(10, *(len(variant) + 1 for variant in variants))
    lines = [f'{metric:<{wide}}' + ''.join(f'{size:>9}' for size in sizes)]
    lines += [
        f'{variant:<{wide}}' + ''.join(f'{values[variant, size]:>9.2f}' for size in sizes) for variant in variants
    ]
    return '\n'.join(lines)


def main_metric(rows: Sequence[Dict[str, Any]]) -> str:
    """Name of the first metric."""
    return next(key for key in rows[0] if key not in ('variant', 'size', 'images'))


def training_size(backbone: ConfigDict) -> Optional[float]:
    """The backbone's ``anchor`` (its default if the config leaves it out), if it is one number."""
    parameter = inspect.signature(_class_of(backbone)).parameters.get('anchor')
    anchor = backbone.get('anchor', parameter.default if parameter else None)
    return anchor if isinstance(anchor, (int, float)) else None


__getattr__ = moved(
    __name__,
    plot_transfer='visualization.analyses',
)
