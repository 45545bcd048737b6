"""Building a Runner, with or without GPUs."""

import os
import re
import subprocess
from datetime import timedelta
from typing import Optional

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..engine.hooks.checkpoint_fit import CheckpointFitHook, CheckpointNamesHook
from ..engine.hooks.preemption import PreemptionHook
from ..engine.hooks.reseed import ReseedHook
from ..engine.hooks.safe_checkpoint import SafeCheckpointHook  # noqa: F401  registers itself
from ..engine.sharding import ShardedCheckpointHook
from ..errors import LaunchError
from .checked_runner import CheckedRunner
from .config import check_folder, check_model

#: launcher -> what it finds in the environment, and what sets that
LAUNCHERS = {
    'pytorch': (('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'), 'tools/dist_train.sh or torchrun'),
    'slurm': (('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST', 'SLURM_LOCALID'), 'tools/slurm_train.sh or srun'),
    'mpi': (
        ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MASTER_ADDR'),
        'mpirun -x MASTER_ADDR=HOST, the host of the first process',
    ),
}


def check_launcher(launcher: str) -> None:
    """Raises a LaunchError where the launcher that a config names has not started this process."""
    variables, starter = LAUNCHERS.get(launcher, ((), ''))
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise LaunchError(
            f'--launcher {launcher} needs {", ".join(missing)} in the environment: start with {starter}, or leave '
            f'--launcher out'
        )
    if launcher == 'slurm':
        os.environ.setdefault('MASTER_PORT', os.environ.get('PORT') or str(port_of_job()))


def port_of_job() -> int:
    """A port, 20000 ... 39999, of a Slurm job and step: mmengine's one for all would serve one job of a machine."""
    job, step = (int(os.environ.get(f'SLURM_{name}_ID', 0)) for name in ('JOB', 'STEP'))
    return 20000 + (31 * job + step) % 20000


#: torch's names: fp32; TF32; bfloat16 products where the GPU has no better
MATMUL_PRECISIONS = ('highest', 'high', 'medium')


def init_cpu_group(launcher: str, timeout: Optional[float] = None) -> bool:
    """Starts a gloo process group when no GPU is visible; mmengine's own start-up always asks for one.

    Args:
        launcher: As in :func:`prepare_train`.
        timeout: Seconds that a process waits for the others; by default torch's 30 minutes.

    Returns:
        bool: Whether the group was started here.
    """
    if launcher not in LAUNCHERS or torch.cuda.is_available() or torch.distributed.is_initialized():
        return False
    if launcher == 'slurm':
        nodes = ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']]
        os.environ.setdefault('MASTER_ADDR', subprocess.check_output(nodes, text=True).split()[0])
        os.environ.setdefault('MASTER_PORT', str(port_of_job()))
        for ours, slurm in (('RANK', 'PROCID'), ('WORLD_SIZE', 'NTASKS'), ('LOCAL_RANK', 'LOCALID')):
            os.environ[ours] = os.environ[f'SLURM_{slurm}']
    elif launcher == 'mpi':
        os.environ.setdefault('MASTER_PORT', '29500')
        for ours in ('RANK', 'LOCAL_RANK'):
            os.environ[ours] = os.environ[f'OMPI_COMM_WORLD_{ours}']
        os.environ['WORLD_SIZE'] = os.environ['OMPI_COMM_WORLD_SIZE']
    torch.distributed.init_process_group('gloo', timeout=None if timeout is None else timedelta(seconds=timeout))
    return True


def set_matmul_precision(cfg: Config) -> None:
    """Lets a GPU multiply fp32 matrices in TF32, or as ``env_cfg.matmul_precision`` says.

    ``'highest'`` keeps fp32, in convolutions too, which torch computes in TF32 by itself.

    TF32 has fp32's range and 10 bits of mantissa. Positions never see it: tables are made by broadcast products.

    Raises:
        LaunchError: For another value than torch's ``'highest'``, ``'high'`` and ``'medium'``.
    """
    precision = cfg.get('env_cfg', {}).get('matmul_precision', 'high')
    if precision not in MATMUL_PRECISIONS:
        raise LaunchError(
            f'env_cfg.matmul_precision is {precision!r}: choose {", ".join(map(repr, MATMUL_PRECISIONS))}'
        )
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != 'highest'


def use_safe_checkpoints(cfg: Config) -> None:
    """Puts :class:`SafeCheckpointHook` in the place of mmengine's hook, wherever the config has it."""
    hooks = cfg.setdefault('default_hooks', {})
    hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))  # the Runner's own default
    for hook in [*hooks.values(), *(cfg.get('custom_hooks') or [])]:
        kind = hook.get('type') if isinstance(hook, dict) else None
        name = f'{kind.__module__}.{kind.__name__}' if isinstance(kind, type) else str(kind)
        if re.fullmatch(r'(mmengine\.(.*\.)?)?CheckpointHook', name):
            hook['type'] = 'SafeCheckpointHook'


def build_runner(cfg: Config) -> Runner:
    """Runner of a config; without a GPU it trains on the CPU, several processes over gloo.

    What it loads has to be the model's; ``load_from_partial=True`` in the config takes what fits. Checkpoints
    are written atomically, and a signal or ``stop_after`` in the config stops a training so that it can go on.

    Raises:
        LaunchError: For a config without a model, a work directory that cannot be written, and a launcher that has not
            started this process.
    """
    check_model(cfg)
    check_folder(cfg.work_dir, f'the work directory {cfg.work_dir!r}')
    check_launcher(cfg.get('launcher', 'none'))
    set_matmul_precision(cfg)
    if cfg.get('launcher') == 'mpi':  # mmengine's start does not say it, and its model wrapper asks for it
        os.environ['LOCAL_RANK'] = os.environ['OMPI_COMM_WORLD_LOCAL_RANK']
    if init_cpu_group(cfg.launcher, cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')):
        # DistributedDataParallel takes no device on the CPU, and mmengine passes the local rank
        wrapper = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        given = cfg.get('model_wrapper_cfg') or {}
        if given.get('type', wrapper['type']) == wrapper['type']:
            cfg.model_wrapper_cfg = {**wrapper, **given, 'device_ids': None}
    use_safe_checkpoints(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else CheckedRunner.from_cfg(cfg)
    if isinstance(runner, Runner):  # strategies load sharded files of their own
        partial = cfg.get('load_from_partial', False)
        runner.register_hook(CheckpointNamesHook(partial))
        runner.register_hook(CheckpointFitHook(partial), 'VERY_LOW')
        if not any(isinstance(hook, ReseedHook) for hook in runner.hooks):  # an epoch is continued by it alone
            runner.register_hook(ReseedHook())
        runner.register_hook(ShardedCheckpointHook())
        runner.register_hook(PreemptionHook(stop_after=cfg.get('stop_after')))
    return runner
