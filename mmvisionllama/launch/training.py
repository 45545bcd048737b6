"""The options of ``tools/train.py``."""

import os
from typing import Optional

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object
from mmengine.runner import Runner
from torch import nn

from ..engine.hooks.preemption import seconds
from ..errors import LaunchError
from ..layers.options import type_name
from .checks import check_checkpoint, check_data, check_pretrained
from .config import prepare_dataloaders
from .resuming import check_resume_file, lock_work_dir, mark_first_turn, newest_checkpoint, newest_of_this_training
from .runner import build_runner

#: how often a launcher has started this training again
RESTART_COUNTS = ('SLURM_RESTART_COUNT', 'TORCHELASTIC_RESTART_COUNT')


def prepare_train(
    cfg: Config,
    *,
    resume: Optional[str] = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    validate: bool = True,
    partial: bool = False,
    stop_after: Optional[str] = None,
    launcher: str = 'none',
) -> Config:
    """Applies the options of ``tools/train.py`` to a config and checks its inputs.

    Args:
        cfg: Config with ``work_dir`` set.
        resume: ``'auto'`` continues from the newest whole checkpoint of the work directory (as without ``resume`` if
            there is none), a path from that checkpoint.
        amp: Mixed precision, see :func:`use_amp`.
        auto_scale_lr: Scale the learning rate by the real batch size over ``auto_scale_lr.base_batch_size``, both of
            one iteration, without accumulated ones.
        validate: Evaluate during training.
        partial: Of the checkpoint in ``load_from`` take what fits by name and shape; a config says the same with
            ``load_from_partial=True``. Otherwise every weight has to fit.
        stop_after: Time after which the training stops with a checkpoint and status 75, such as ``'11h30m'``; a config
            says the same with ``stop_after='11h30m'``.
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
    check_data(cfg, ('train', 'val') if cfg.get('val_dataloader') else ('train',))
    check_pretrained(cfg.get('model'))
    choose_checkpoint(cfg, resume)
    if partial:
        cfg.load_from_partial = True
    if stop_after is not None:
        cfg.stop_after = stop_after
    if cfg.get('stop_after') is not None:
        seconds(cfg.stop_after)
    return cfg


def choose_checkpoint(cfg: Config, resume: Optional[str] = None) -> None:
    """Sets ``load_from`` and ``resume`` to a file that was read and to whether the training continues from it."""
    if resume and resume != 'auto':
        # PATH is for the first turn
        newest = newest_of_this_training(cfg.work_dir, resume) if is_started_again() else None
        cfg.load_from, cfg.resume, cfg.resume_path = newest or resume, True, resume
    elif resume or (cfg.get('resume') and not cfg.get('load_from')):
        newest = newest_checkpoint(cfg.work_dir)
        # without one, what the config itself resumes
        cfg.resume = newest is not None or bool(cfg.get('resume') and cfg.get('load_from'))
        cfg.load_from = newest or cfg.get('load_from')
        if newest:
            return  # has been read
    if cfg.get('load_from'):
        cfg.load_from = check_checkpoint(cfg.load_from, read=not cfg.get('resume'))
        if cfg.get('resume'):
            check_resume_file(cfg.load_from)


def is_started_again() -> bool:
    """Whether Slurm or torchrun has started this training before, under the same command."""
    return any(os.environ.get(name, '0') not in ('', '0') for name in RESTART_COUNTS)


def train(cfg: Config) -> nn.Module:
    """Trains a config from :func:`prepare_train` and returns the model.

    Raises:
        LaunchError: If another training writes into the same folder.
    """
    given = cfg.pop('resume_path', None)
    with lock_work_dir(cfg.work_dir, cfg.get('launcher')):
        runner = build_runner(cfg)
        if given:
            agree_on_checkpoint(runner, given)
        return runner.train()


def agree_on_checkpoint(runner: Runner, given: str) -> None:
    """Lets all processes go on from one file: only those of the machine that failed know that they were started again.

    Where none of them has found a newer one than ``given``, the training begins here.
    """
    newer = [path for path in all_gather_object(runner._load_from) if path != given]
    if newer:
        runner._load_from = newer[0]
    else:
        mark_first_turn(runner.work_dir, given, getattr(runner, 'launcher', None))


def use_amp(cfg: Config) -> None:
    """Switches the optimizer wrapper to mixed precision.

    That is bfloat16 on the CPU and on GPUs that have it, float16 with loss scaling on others and where the config asks
    for it: ``optim_wrapper.dtype='float16'`` or ``type='AmpOptimWrapper'``.
    """
    wrapper = cfg.optim_wrapper
    kind = type_name(wrapper.get('type', 'OptimWrapper'))
    if kind == 'AutocastOptimWrapper':
        return  # is mixed precision already
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise LaunchError(f'--amp works with OptimWrapper, and the config uses {kind}: set its precision in the config')
    asked = kind == 'AmpOptimWrapper' or wrapper.get('dtype') == 'float16'
    if torch.cuda.is_available() and (asked or not has_bfloat16()):
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
    else:
        wrapper.type = 'AutocastOptimWrapper'
        for option in ('loss_scale', 'dtype'):
            wrapper.pop(option, None)


def has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16 (NVIDIA: from Ampere on), not only emulates it."""
    return bool(torch.version.hip) or torch.cuda.get_device_capability()[0] >= 8
