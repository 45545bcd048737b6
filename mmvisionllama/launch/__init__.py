"""What the command-line tools share: check what the user gave, then hand over to mmengine's Runner."""

from ..errors import LaunchError
from .checks import check_checkpoint, check_data, check_names, check_pretrained
from .cli import CfgOptions, DefaultsFormatter, explain, run_cli
from .config import (
    check_device,
    check_folder,
    check_model,
    check_target,
    default_work_dir,
    iter_datasets,
    load_config,
    missing_library,
    prepare_dataloaders,
)
from .resuming import lock_work_dir, newest_checkpoint
from .runner import build_runner, init_cpu_group, set_matmul_precision
from .testing import missing_classes, prepare_test, show_predictions, test, use_tta
from .training import prepare_train, train, use_amp

__all__ = [
    'CfgOptions',
    'DefaultsFormatter',
    'LaunchError',
    'build_runner',
    'check_checkpoint',
    'check_data',
    'check_device',
    'check_folder',
    'check_model',
    'check_names',
    'check_pretrained',
    'check_target',
    'default_work_dir',
    'explain',
    'init_cpu_group',
    'iter_datasets',
    'load_config',
    'lock_work_dir',
    'missing_classes',
    'missing_library',
    'newest_checkpoint',
    'prepare_dataloaders',
    'prepare_test',
    'prepare_train',
    'run_cli',
    'set_matmul_precision',
    'show_predictions',
    'test',
    'train',
    'use_amp',
    'use_tta',
]
