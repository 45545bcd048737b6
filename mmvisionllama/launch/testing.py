"""The options of ``tools/test.py``."""

import os
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any, Optional, Sequence

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.fileio import dump
from mmengine.hooks import Hook

from ..datasets.checks import dataset_class
from ..deploy.models import test_dataset
from ..errors import LaunchError
from ..layers.options import type_name
from ..visualization.detection import colours
from .checks import check_checkpoint, check_data
from .config import check_folder, check_target, prepare_dataloaders
from .runner import build_runner


def prepare_test(
    cfg: Config,
    checkpoint: str,
    *,
    show_dir: Optional[str] = None,
    show: bool = False,
    interval: int = 1,
    tta: bool = False,
    amp: bool = False,
    partial: bool = False,
    launcher: str = 'none',
) -> Config:
    """Applies the options of ``tools/test.py`` to a config and checks its inputs.

    Args:
        cfg: Config with ``work_dir`` set.
        checkpoint: Weights to evaluate.
        show_dir: Folder for images with the predictions painted in.
        show: Show them in windows.
        interval: Paint every ``interval``-th image.
        tta: Test-time augmentation: the config's ``tta_model`` and ``tta_pipeline``, or else horizontal flips.
        amp: Half precision.
        partial: Evaluate a checkpoint that lacks weights of the model, or has others, all the same.
        launcher: As in :func:`prepare_train`.

    Raises:
        LaunchError: For missing data and for options that the config does not support.
        CheckpointError: For a checkpoint that cannot be read.
    """
    cfg.launcher = launcher
    prepare_dataloaders(cfg)
    if not cfg.get('test_dataloader'):
        raise LaunchError('the config has no test_dataloader: nothing to test')
    cfg.resume = False
    if amp:
        cfg.test_cfg.fp16 = True
    if show or show_dir:
        if tta and cfg.get('default_scope') == 'mmpretrain':
            raise LaunchError('mmpretrain cannot paint predictions of test-time augmentation: drop --tta or --show-dir')
        show_predictions(cfg, show_dir, show, interval)
    if tta:
        use_tta(cfg)
    check_data(cfg, ('test',))
    cfg.load_from = check_checkpoint(checkpoint)
    if partial:
        cfg.load_from_partial = True
    return cfg


def show_predictions(cfg: Config, show_dir: Optional[str], show: bool, interval: int) -> None:
    """Switches the visualization hook of the config's library on."""
    if interval < 1:
        raise LaunchError('--interval must be at least 1')
    hook = cfg.get('default_hooks', {}).get('visualization')
    if not hook:
        raise LaunchError(
            'painting predictions needs a visualization hook: add one to default_hooks, as configs/_base_/ does'
        )
    hook.show = show
    hook.interval = cfg.paint_interval = interval
    show_dir = show_dir and os.path.abspath(show_dir)  # mmdet would put a relative one under the work directory
    if cfg.get('default_scope') == 'mmpretrain':
        hook.enable = True
        hook.out_dir = show_dir
        return
    hook.draw = True
    if show_dir and cfg.get('default_scope') == 'mmdet':
        hook.test_out_dir = show_dir
    elif show_dir:
        cfg.visualizer.save_dir = show_dir


#: mmdetection's and mmsegmentation's, which paint every picture of a test whatever their interval
PAINTERS = ('DetVisualizationHook', 'SegVisualizationHook')


def paint_every_nth(hook: Hook, interval: int) -> None:
    """Gives one of :data:`PAINTERS` every ``interval``-th picture."""
    paint, numbers = hook.after_test_iter, count()

    def after_test_iter(runner: Any, batch_idx: int, data_batch: Any, outputs: Sequence[Any]) -> None:
        shown = [output for output, number in zip(outputs, numbers) if number % interval == 0]
        if shown:
            paint(runner, batch_idx, data_batch, shown)

    hook.after_test_iter = after_test_iter


class DumpLabels(DumpResults):
    """mmengine's, without the logits of a segmentation: 210 MB for a picture of 512 x 683 and 150 classes."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """See the class."""
        kept = [{key: value for key, value in sample.items() if key != 'seg_logits'} for sample in data_samples]
        super().process(data_batch, kept)


#: scope -> (model that merges the predictions of the augmented images, the flip's argument)
DEFAULT_TTA = {
    'mmpretrain': dict(type='AverageClsScoreTTA'),
    'mmdet': dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmseg': dict(type='SegTTAModel'),
}


def use_tta(cfg: Config) -> None:
    """Wraps the model and the pipeline for test-time augmentation."""
    scope = cfg.get('default_scope')
    if 'tta_model' not in cfg:
        if scope not in DEFAULT_TTA:
            raise LaunchError('--tta needs tta_model and tta_pipeline in the config')
        cfg.tta_model = deepcopy(DEFAULT_TTA[scope])
    if type_name(cfg.tta_model.type) == 'DetTTAModel' and has_masks(cfg.model):
        raise LaunchError(
            "mmdetection's DetTTAModel merges boxes, not masks: test without --tta, or give the config a tta_model "
            'that merges both'
        )
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_pipeline' not in cfg:
        if scope == 'mmseg':
            raise LaunchError('--tta needs a tta_pipeline in the config')
        pack = deepcopy(dataset.pipeline[-1])
        if scope == 'mmdet':
            pack.meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        # metrics and pictures take the labels of the first, boxes included
        flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
        cfg.tta_pipeline = [*dataset.pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]
    dataset.pipeline = cfg.tta_pipeline
    if cfg.model.get('data_preprocessor') is not None:
        cfg.pop('data_preprocessor', None)  # mmengine would give it to the outer model, and that to the inner one
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def has_masks(model: dict) -> bool:
    """Whether a detector, or a part of it, has a head that predicts masks."""
    if any(model.get(head) is not None for head in ('mask_head', 'panoptic_head')):
        return True
    # RTMDet's box head has the masks, too
    return type_name(model.get('type')).startswith('RTMDetIns') or any(
        has_masks(part) for part in model.values() if isinstance(part, dict)
    )


def test(cfg: Config, out: Optional[str] = None) -> dict:
    """Runs a test and writes what ``--out`` asks for.

    Args:
        cfg: Config from :func:`prepare_test`.
        out: ``.pkl`` for the predictions, ``.json`` for the metrics, a folder for the label maps of a segmentation.

    Returns:
        dict: The metrics.

    Raises:
        LaunchError: For an ``out`` of another kind.
    """
    suffix = Path(out).suffix if out else ''
    if out and suffix not in ('.pkl', '.pickle', '.json'):
        if suffix or cfg.get('default_scope') != 'mmseg':
            raise LaunchError(f'--out {out!r}: expected a file .pkl (predictions) or .json (metrics)')
        check_folder(out, f'--out {out!r}')
        evaluators = cfg.test_evaluator
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            evaluator.output_dir, evaluator.keep_results = out, True
    elif out:
        check_target(out)
    runner = build_runner(cfg)
    for hook in runner.hooks:
        if type(hook).__name__ in PAINTERS and cfg.get('paint_interval', 1) > 1:
            paint_every_nth(hook, cfg.paint_interval)
    if suffix in ('.pkl', '.pickle'):
        kind = DumpLabels
        if cfg.get('default_scope') == 'mmdet':
            from mmdet.evaluation import DumpDetResults as kind
        runner.test_evaluator.metrics.append(kind(out_file_path=out))
    metrics = runner.test()
    if suffix == '.json' and is_main_process():
        os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
        dump(metrics, out)
    return metrics


def missing_classes(cfg: Config, checkpoint: dict) -> dict:
    """Classes and palette of the config's test data for a checkpoint of weights alone; empty where it has its own.

    The inferencers of mmdetection and mmsegmentation would take those of COCO and Cityscapes.

    Args:
        cfg: Config of a detector or segmentor.
        checkpoint: What was read.
    """
    dataset = test_dataset(cfg)
    if not dataset or {'dataset_meta', 'CLASSES'} & set(checkpoint.get('meta') or {}):
        return {}
    # not of a data set that is built: some ask for their files
    metainfo = dataset_class(dataset, cfg.get('default_scope'))._load_metainfo(dataset.get('metainfo'))
    classes, palette = metainfo.get('classes'), metainfo.get('palette')
    if not classes:
        return {}
    if palette is None or len(palette) != len(classes):
        palette = [tuple(colour) for colour in (255 * colours(len(classes))).round().astype(int).tolist()]
    return dict(classes=classes, palette=palette)
