"""What ``tools/train.py`` and ``tools/test.py`` do: check what the user gave, then hand over to mmengine's Runner."""

import importlib
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.fileio import dump, list_from_file
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from ..checkpoints.reading import CheckpointError, read_checkpoint
from ..data.coco_files import check_categories
from ..data.seg_files import DataError, check_pictures

#: scope of a config -> what to install for it
LIBRARIES = {
    'mmpretrain': "pip install 'mmvisionllama[onedl]'",
    'mmseg': "pip install 'mmvisionllama[onedl]'",
    'mmdet': "pip install --no-build-isolation 'mmvisionllama[onedl]' (mmdet needs mmcv's compiled operators)",
}


class LaunchError(RuntimeError):
    """Something the user gave is wrong; the message is one line and says what to do."""


def run_cli(main: Callable[[], Any]) -> None:
    """Runs ``main`` and ends with one clear line, without a traceback, when the user can put it right.

    Of several processes only the first speaks.
    """
    try:
        main()
    except (LaunchError, CheckpointError) as error:
        message = str(error)
    except DataError as error:
        # a data loader's worker puts its traceback before the message
        message = str(error).rstrip().splitlines()[-1].split('DataError: ')[-1]
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith('mmvisionllama'):
            raise
        message = missing_library(error.name)
    except ImportError as error:
        if "pip install 'mmvisionllama[" not in str(error):  # a broken library, not a missing extra
            raise
        message = str(error)
    except AssertionError as error:  # mmcv's LoadImageFromFile
        if 'failed to load image: ' not in str(error):
            raise
        path = str(error).rstrip().splitlines()[-1].split('failed to load image: ')[-1]
        message = f'picture {path} cannot be read: replace the file'
    except ValueError as error:
        if 'need at least one array to concatenate' not in str(error):
            raise
        # mmengine packs the samples of a data set into one array
        message = 'a data set of the config has no samples: check its ann_file, data_prefix and filter_cfg'
    else:
        return
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(f'error: {message}', file=sys.stderr)
    sys.exit(1)


def missing_library(name: str) -> str:
    """Which library is missing and how to install it."""
    return f'{name} is not installed: {LIBRARIES.get(name.split(".")[0], f"pip install {name}")}'


def load_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Reads a config file and applies ``--cfg-options``.

    Raises:
        LaunchError: If the file does not exist, is no Python, JSON or YAML file, or its library is not installed.
    """
    if not os.path.isfile(path):
        raise LaunchError(f'config {path!r} does not exist: check the path (the configs are listed under configs/)')
    if not path.endswith(('.py', '.json', '.yaml', '.yml')):
        raise LaunchError(f'config {path!r} is no config: expected a .py, .json or .yaml file')
    cfg = Config.fromfile(path)
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    scope = cfg.get('default_scope')
    if scope in LIBRARIES:
        try:
            importlib.import_module(scope)
        except ModuleNotFoundError as error:
            raise LaunchError(f'this config needs {scope}: {missing_library(error.name or scope)}') from error
    return cfg


def default_work_dir(cfg: Config, config_path: str, work_dir: Optional[str]) -> str:
    """``--work-dir``, or the config's own, or ``work_dirs/`` and the config's name."""
    return work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(config_path).stem)


def iter_datasets(dataloader: Any, name: str) -> Iterator[Tuple[str, dict]]:
    """Name and config of every dataset in a dataloader config, wrapped ones included."""
    if isinstance(dataloader, (list, tuple)):
        for i, item in enumerate(dataloader):
            yield from iter_datasets(item, f'{name}.{i}')
    elif isinstance(dataloader, dict):
        if 'type' in dataloader and 'data_root' in dataloader:
            yield name, dataloader
        for key in ('dataset', 'datasets'):
            if key in dataloader:
                yield from iter_datasets(dataloader[key], f'{name}.{key}')


def check_data(cfg: Config, splits: Tuple[str, ...] = ('train', 'val')) -> None:
    """Raises a LaunchError for a data folder that does not exist.

    Args:
        cfg: Config with ``{split}_dataloader`` entries.
        splits: The splits that will be read.

    Raises:
        DataError: For a COCO file whose categories are not the data set's classes, and for a folder without a picture
            for a segmentation.
    """
    for split in splits:
        for name, dataset in iter_datasets(cfg.get(f'{split}_dataloader'), f'{split}_dataloader'):
            root = dataset.get('data_root') or ''
            if '://' in root or not root:
                continue
            if not os.path.isdir(root):
                raise LaunchError(
                    f'the data folder {root!r} does not exist: put the data there, link it, or say where it is with '
                    f'--cfg-options {name}.data_root=FOLDER'
                )
            # only ImageNet's split is a folder; CIFAR's, for one, is a part of its files
            split_folder = dataset.get('split') if str(dataset['type']).split('.')[-1].startswith('ImageNet') else ''
            prefix = dataset.get('data_prefix') or split_folder or ''
            prefixes = prefix.values() if isinstance(prefix, dict) else [prefix]
            annotations = dataset.get('ann_file')
            for part in [*prefixes, annotations]:
                if isinstance(part, str) and '://' not in part and not os.path.exists(os.path.join(root, part)):
                    # ImageNet's split may be a folder, or a list in meta/ over images that lie side by side
                    if part == split_folder and os.path.exists(os.path.join(root, 'meta', f'{part}.txt')):
                        continue
                    raise LaunchError(
                        f'{os.path.join(root, part)!r}, which {name} of the config names, does not exist: check the '
                        f'layout of the data folder {root!r}'
                    )
            kind = str(dataset['type']).split('.')[-1]
            if kind == 'CocoDataset' and annotations:
                check_categories(os.path.join(root, annotations), coco_classes(dataset))
            if kind in ('ADE20KDataset', 'BaseSegDataset') and not annotations:  # others have suffixes of their own
                folder = os.path.join(root, (dataset.get('data_prefix') or {}).get('img_path') or '')
                check_pictures(folder, dataset.get('img_suffix', '.jpg'))
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
            annotations = evaluator.get('ann_file')
            if annotations and '://' not in annotations and not os.path.exists(annotations):
                raise LaunchError(
                    f'the annotation file {annotations!r} of {split}_evaluator does not exist: it has to be the one of '
                    f'{split}_dataloader, --cfg-options {split}_evaluator.ann_file=FILE'
                )


def coco_classes(dataset: dict) -> Sequence[str]:
    """Names of the classes of an mmdetection data set's config, in the order of their labels."""
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        from mmdet.datasets import CocoDataset

        classes = CocoDataset.METAINFO['classes']
    return list_from_file(classes) if isinstance(classes, str) else classes


def check_names(images: Sequence[str]) -> None:
    """Raises a LaunchError for two pictures of one name: what is written about them would be one file."""
    names = [Path(image).stem for image in images]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LaunchError(f'several pictures are named {", ".join(twice)}: run once for each, with an --out of its own')


def check_checkpoint(path: str) -> None:
    """Raises a CheckpointError for a file that is missing, truncated or holds more than weights.

    mmengine would fall back to unsafe unpickling for the last kind.
    """
    if '://' not in path:
        read_checkpoint(path)


def check_pretrained(model: Any, name: str = 'model') -> None:
    """Raises a LaunchError for pre-trained weights that the model's config names and that are not there.

    Args:
        model: Config of a model or of a part of it.
        name: Its name in the whole config.
    """
    if not isinstance(model, dict):
        return
    init_cfg = model.get('init_cfg')
    for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
        path = cfg.get('checkpoint') if isinstance(cfg, dict) and cfg.get('type') == 'Pretrained' else None
        if isinstance(path, str) and '://' not in path and not os.path.isfile(path):
            raise LaunchError(
                f'the pre-trained weights {path!r} do not exist: say where they are with --cfg-options '
                f'{name}.init_cfg.checkpoint=FILE, or train without with {name}.init_cfg=None'
            )
    for key, part in model.items():
        check_pretrained(part, f'{name}.{key}')


def prepare_dataloaders(cfg: Config) -> None:
    """Fills in what mmpretrain's own scripts fill in: batches are stacked tensors, not lists."""
    for split in ('train', 'val', 'test'):
        dataloader = cfg.get(f'{split}_dataloader')
        if dataloader and cfg.get('default_scope') == 'mmpretrain':
            dataloader.setdefault('collate_fn', dict(type='default_collate'))
            dataloader.setdefault('pin_memory', torch.cuda.is_available())


def prepare_train(
    cfg: Config,
    *,
    resume: Optional[str] = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    validate: bool = True,
    launcher: str = 'none',
) -> Config:
    """Applies the options of ``tools/train.py`` to a config and checks its inputs.

    Args:
        cfg: Config with ``work_dir`` set.
        resume: ``'auto'`` continues from the newest checkpoint of the work directory (from the start if there is
            none), a path from that checkpoint.
        amp: Mixed precision; float16 with loss scaling unless the config says otherwise, bfloat16 on the CPU.
        auto_scale_lr: Scale the learning rate by the real batch size over ``auto_scale_lr.base_batch_size``.
        validate: Evaluate during training.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        LaunchError: For missing data and for options that the config or the machine does not support.
        CheckpointError: For a checkpoint that cannot be read.
    """
    cfg.launcher = launcher
    prepare_dataloaders(cfg)
    if not validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if amp:
        use_amp(cfg)
    if auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            raise LaunchError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config')
        cfg.auto_scale_lr.enable = True
    if resume:
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume
    check_data(cfg, ('train', 'val') if cfg.get('val_dataloader') else ('train',))
    check_pretrained(cfg.get('model'))
    latest = cfg.get('load_from')
    if cfg.get('resume') and latest is None:
        latest = find_latest_checkpoint(cfg.work_dir)
    if latest:
        check_checkpoint(latest)
    return cfg


def use_amp(cfg: Config) -> None:
    """Switches the optimizer wrapper to mixed precision: float16 with loss scaling on GPUs, bfloat16 without one."""
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind == 'AutocastOptimWrapper':
        return  # is mixed precision already
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise LaunchError(f'--amp works with OptimWrapper, and the config uses {kind}: set its precision in the config')
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    else:
        cfg.optim_wrapper.type = 'AutocastOptimWrapper'
        for option in ('loss_scale', 'dtype'):
            cfg.optim_wrapper.pop(option, None)


def prepare_test(
    cfg: Config,
    checkpoint: str,
    *,
    show_dir: Optional[str] = None,
    show: bool = False,
    interval: int = 1,
    tta: bool = False,
    amp: bool = False,
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
        launcher: As in :func:`prepare_train`.

    Raises:
        LaunchError: For missing data and for options that the config does not support.
        CheckpointError: For a checkpoint that cannot be read.
    """
    cfg.launcher = launcher
    prepare_dataloaders(cfg)
    if not cfg.get('test_dataloader'):
        raise LaunchError('the config has no test_dataloader: nothing to test')
    cfg.load_from = checkpoint
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
    check_checkpoint(checkpoint)
    return cfg


def show_predictions(cfg: Config, show_dir: Optional[str], show: bool, interval: int) -> None:
    """Switches the visualization hook of the config's library on."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if not hook:
        raise LaunchError(
            'painting predictions needs a visualization hook: add one to default_hooks, as configs/_base_/ does'
        )
    hook.show = show
    hook.interval = interval
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
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_pipeline' not in cfg:
        if scope == 'mmseg':
            raise LaunchError('--tta needs a tta_pipeline in the config')
        pack = deepcopy(dataset.pipeline[-1])
        if scope == 'mmdet':
            pack.meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.tta_pipeline = [*dataset.pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def init_cpu_group(launcher: str) -> bool:
    """Starts a gloo process group when no GPU is visible; mmengine's own start-up always asks for one.

    Returns:
        bool: Whether the group was started here.
    """
    if launcher not in ('pytorch', 'slurm') or torch.cuda.is_available() or torch.distributed.is_initialized():
        return False
    if launcher == 'slurm':
        nodes = ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']]
        os.environ.setdefault('MASTER_ADDR', subprocess.check_output(nodes, text=True).split()[0])
        os.environ.setdefault('MASTER_PORT', '29500')
        for ours, slurm in (('RANK', 'PROCID'), ('WORLD_SIZE', 'NTASKS'), ('LOCAL_RANK', 'LOCALID')):
            os.environ[ours] = os.environ[f'SLURM_{slurm}']
    torch.distributed.init_process_group('gloo')
    return True


def build_runner(cfg: Config) -> Runner:
    """Runner of a config; without a GPU it trains on the CPU, several processes over gloo."""
    if init_cpu_group(cfg.launcher):
        # DistributedDataParallel takes no device on the CPU, and mmengine passes the local rank
        wrapper = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        cfg.model_wrapper_cfg = {**wrapper, **cfg.get('model_wrapper_cfg', {}), 'device_ids': None}
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)


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
        cfg.test_evaluator.output_dir = out
        cfg.test_evaluator.keep_results = True
    runner = build_runner(cfg)
    if suffix in ('.pkl', '.pickle'):
        if cfg.get('default_scope') == 'mmdet':
            from mmdet.evaluation import DumpDetResults as DumpResults
        else:
            from mmengine.evaluator import DumpResults
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=out))
    metrics = runner.test()
    if suffix == '.json' and is_main_process():
        os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
        dump(metrics, out)
    return metrics
