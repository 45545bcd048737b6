"""From a config and a checkpoint to a model, and what of the config an exported file has to carry."""

import copy
import json
from types import FunctionType
from typing import Any, Dict, List, Sequence, Union

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..checkpoints.loading import check_switches, load_strictly
from ..checkpoints.reading import dataset_meta, find_state_dict, read_checkpoint
from ..errors import OptionError
from ..layers.options import type_name

#: steps of a test pipeline that only a data set with labels needs
LABEL_STEPS = ('LoadAnnotations', 'LoadPanopticAnnotations', 'LoadProposals', 'CheckSegFiles', 'CheckCocoFile')


def model_config(cfg: Config) -> dict:
    """The config's model with its data preprocessor, without weights to start from."""
    model = dict(copy.deepcopy(cfg.model))  # mmpretrain adds to the lists of batch augmentations that it is given
    if cfg.get('data_preprocessor') and 'data_preprocessor' not in model:
        model['data_preprocessor'] = copy.deepcopy(cfg.data_preprocessor)
    for part in ('backbone', 'neck', 'decode_head'):
        if isinstance(model.get(part), dict):
            model[part] = {key: value for key, value in model[part].items() if key != 'init_cfg'}
    model.pop('init_cfg', None)
    return model


def load_model(cfg: Config, checkpoint: str) -> nn.Module:
    """The trained model of a config, in evaluation mode, with ``dataset_meta`` where classes are known.

    Args:
        cfg: Config of a classifier, segmentor or detector.
        checkpoint: Its weights.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit.
        OptionError: If the config has no model.
    """
    if not cfg.get('model'):
        raise OptionError('the config has no model: nothing to export or to predict with')
    stored = read_checkpoint(checkpoint)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(model_config(cfg))
    load_strictly(model, find_state_dict(stored), checkpoint)
    check_switches(model, stored, checkpoint)
    model.dataset_meta = dataset_meta(stored) or test_dataset(cfg).get('metainfo') or {}
    return model.eval()


def test_dataset(cfg: Config) -> dict:
    """The config's test data set, wrappers taken off; empty without one."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def image_pipeline(cfg: Config) -> List[dict]:
    """Steps of the test pipeline that a picture without labels goes through.

    Raises:
        OptionError: If the config has no test pipeline.
    """
    pipeline = test_dataset(cfg).get('pipeline')
    if not pipeline:
        raise OptionError('the config has no test_dataloader.dataset.pipeline: it says how a picture is prepared')
    return [dict(step) for step in pipeline if type_name(step['type']) not in LABEL_STEPS]


def file_info(cfg: Config, model: nn.Module) -> Dict[str, Any]:
    """What an exported file has to know to predict without its config: classes, normalisation and preparation.

    Raises:
        OptionError: If a part of the config is no JSON.
    """
    settings = model_config(cfg)
    preprocessor = settings.get('data_preprocessor') or {}
    meta = getattr(model, 'dataset_meta', None) or {}
    head = getattr(model, 'decode_head', None)
    classifier = getattr(model, 'head', None)
    info = {
        'classes': list(meta['classes']) if meta.get('classes') else None,
        'palette': meta.get('palette'),
        'mean': preprocessor.get('mean'),
        'std': preprocessor.get('std'),
        'anchor': settings.get('backbone', {}).get('anchor'),
        'scope': cfg.get('default_scope'),
        'align_corners': getattr(head, 'align_corners', None),
        'num_classes': getattr(head, 'num_classes', None),
        'out_channels': getattr(head, 'out_channels', None),
        'threshold': getattr(head, 'threshold', None),
        # heads of several labels have a threshold
        'multi_label': dict(thr=classifier.thr, topk=classifier.topk) if hasattr(classifier, 'thr') else None,
        'model': settings,
        # none for generators and backbones, which Predictor does not serve
        'pipeline': image_pipeline(cfg) if hasattr(model, 'extract_feat') else None,
    }
    try:
        return json.loads(json.dumps(Config(info).to_dict(), default=_dotted))
    except TypeError as error:
        raise OptionError(f'the config cannot be kept in the exported file: {error}') from error


def _dotted(value: Any) -> str:
    """A class or function of a pure Python config as the name that mmengine builds from."""
    if isinstance(value, (type, FunctionType)) and '<' not in value.__qualname__:
        return f'{value.__module__}.{value.__qualname__}'
    raise TypeError(f'{value!r} is no JSON')


def file_pipeline(metadata: dict) -> List[dict]:
    """Steps of an exported file's pipeline; JSON made lists of sizes, for which mmcv asks tuples."""
    return _tuples(metadata.get('pipeline') or [])


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    if value and all(isinstance(part, (int, float)) for part in value):
        return tuple(value)
    return [_tuples(part) for part in value]


class SessionBackbone(nn.Module):
    """An exported file in the place of a library model's network.

    Args:
        session: :class:`~mmvisionllama.deploy.Session`.
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, images: Union[torch.Tensor, Sequence[torch.Tensor]]) -> tuple:
        if isinstance(images, torch.Tensor):
            return tuple(self.session(images))
        # packed images, which may have sizes of their own
        return tuple(map(torch.cat, zip(*(self.session(image[None]) for image in images))))


def unpadded(preprocessor: dict) -> dict:
    """A data preprocessor's config; in the place of SizedDataPreprocessor, whose network ignores padding, its base
    without padding: the file takes any size and does not know which part is padding."""
    if type_name(preprocessor.get('type')) != 'SizedDataPreprocessor':
        return preprocessor
    padding = ('pad_size_divisor', 'test_cfg')  # the second is mmsegmentation's
    base = {key: value for key, value in preprocessor.items() if key not in ('base', *padding)}
    return dict(base, type=preprocessor['base'])


def session_model(session: Any) -> nn.Module:
    """The library's own model around an exported network: its preprocessing, sliding windows and result types.

    Raises:
        OptionError: For a task whose post-processing needs more than the file has.
    """
    metadata = session.metadata
    settings = metadata.get('model') or {}
    init_default_scope(metadata.get('scope') or 'mmengine')
    shell = dict(backbone=dict(type=SessionBackbone, session=session))
    if settings.get('data_preprocessor'):
        shell['data_preprocessor'] = unpadded(settings['data_preprocessor'])
    if metadata['task'] == 'classification':
        labels = metadata.get('multi_label')
        head = dict(type='ClsHead') if labels is None else dict(type='MultiLabelClsHead', **labels)
        shell.update(type='ImageClassifier', head=head)
    elif metadata['task'] == 'segmentation':
        shell.update(
            type='EncoderDecoder',
            decode_head=dict(
                type=_logits_head(),
                in_channels=1,
                channels=1,
                num_classes=metadata['num_classes'],
                out_channels=metadata.get('out_channels'),
                threshold=metadata.get('threshold'),
                align_corners=metadata['align_corners'],
            ),
            test_cfg=ConfigDict(settings.get('test_cfg') or dict(mode='whole')),
        )
    else:
        raise OptionError(
            f'a file of the task {metadata["task"]!r} holds a part of a model: run it with '
            f'mmvisionllama.deploy.load_exported, or predict with the config and the checkpoint'
        )
    model = MODELS.build(shell)
    model.dataset_meta = {key: metadata[key] for key in ('classes', 'palette') if metadata.get(key)}
    return model.eval()


def _logits_head() -> type:
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    class LogitsHead(BaseDecodeHead):
        """The exported file's logits are those of its decode head."""

        def forward(self, inputs: tuple) -> torch.Tensor:
            return inputs[0]

    return LogitsHead
