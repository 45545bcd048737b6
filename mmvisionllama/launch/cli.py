"""How a command-line tool begins and ends: its options, and a clear line where the user can put an error right."""

import os
import re
import socket
import sys
import traceback
from argparse import Action, ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from typing import Any, Callable, Optional, Sequence, Tuple
from urllib.error import URLError

from mmengine.config import DictAction
from torch import distributed
from torch.utils.data._utils import fetch

from ..errors import DataError, MMVisionLLaMAError
from .config import missing_library
from .mistakes import build_mistake

#: set in the environment, errors keep their traceback
TRACEBACK = 'MMVISIONLLAMA_TRACEBACK'
#: what torchrun, Slurm and MPI call a process's number, among all and on its machine
PLACES = (
    ('RANK', 'LOCAL_RANK'),
    ('SLURM_PROCID', 'SLURM_LOCALID'),
    ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
)


class DefaultsFormatter(ArgumentDefaultsHelpFormatter):
    """Help that ends with each option's default; what None means is in the option's own words."""

    def _get_help_string(self, action: Action) -> Optional[str]:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class CfgOptions(DictAction):
    """Action of ``--cfg-options KEY=VALUE ...``: mmengine's, which spaces inside a value survive."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Optional[str] = None
    ) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for item in values:
            key, equals, value = item.partition('=')
            if not key or not equals:
                parser.error(f'{option_string}: expected KEY=VALUE, got {item!r}')
            if re.fullmatch(r'dict\(.*\)|\{\W*\w+\W*:.*\}', value):  # mmengine would keep it as text
                parser.error(f'{option_string}: {key} is a dictionary: give its entries, {key}.NAME=VALUE')
            try:
                options[key] = _parse_value(value)
            except (AssertionError, RecursionError) as error:  # mmengine's, for brackets that do not match
                parser.error(f'{option_string}: the value of {key} cannot be read ({error})')
        setattr(namespace, self.dest, options)


def _parse_value(value: str) -> Any:
    value = value.strip('\'"')
    # mmengine drops every space; those of a list or tuple mean nothing, those of a path are part of its name
    if ' ' in value and ',' not in value and not value.startswith(('(', '[')):
        return value
    return DictAction._parse_iterable(value)


def run_cli(main: Callable[[], Any]) -> Any:
    """Runs ``main`` and ends with one clear line, without a traceback, when the user can put it right.

    Returns what ``main`` does, an exit status or None. Of several processes only the first of each machine speaks, but
    each of its own share of the data. With ``MMVISIONLLAMA_TRACEBACK=1`` in the environment every error keeps its
    traceback.
    """
    is_first, is_first_here = _place()  # before tools set a LOCAL_RANK that is missing to 0
    try:
        returned = main()
    except SystemExit:  # a preempted run ends in order, too
        leave_processes()
        raise
    except Exception as error:
        message, shared = explain(error), not _of_own_data(error)
        if message is None or os.environ.get(TRACEBACK):
            raise
    else:
        leave_processes()
        return returned
    if is_first or is_first_here or not shared:
        host = '' if is_first or not shared else f' on {socket.gethostname()}'
        print(f'error{host}: {message}', file=sys.stderr)
    sys.exit(1)


def _place() -> Tuple[bool, bool]:
    """Whether this is the first process of all, and the first of its machine, whose files may differ."""
    # without --launcher the tasks of srun and mpirun are runs of their own, as in a sweep
    places = PLACES if _has_launcher(sys.argv) else PLACES[:1]
    rank, local = next((names for names in places if names[0] in os.environ), PLACES[0])
    return os.environ.get(rank, '0') == '0', os.environ.get(local) == '0'


def _has_launcher(argv: Sequence[str]) -> bool:
    """Whether a command line has ``--launcher``, or a beginning of it, and not ``none``."""
    for item, following in zip(argv, [*argv[1:], '']):
        if item.startswith('--la'):
            return (item.partition('=')[2] or following) != 'none'
    return False


def leave_processes() -> None:
    """Ends the process group, whose threads can abort a process that exits under them."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _of_own_data(error: Exception) -> bool:
    """Whether it comes from reading samples, of which each process has its own, here or in a loader's worker."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(code.co_filename == fetch.__file__ or code.co_name == '_process_data' for code in codes)


def explain(error: Exception) -> Optional[str]:
    """What the user can put right, in one line, or None for an error that is a fault of the code."""
    if isinstance(error, DataError):
        # a data loader's worker puts its traceback before the message
        return str(error).rstrip().splitlines()[-1].split('DataError: ')[-1]
    if isinstance(error, MMVisionLLaMAError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        known = error.name is not None and not error.name.startswith('mmvisionllama')
        return missing_library(error.name) if known else None
    if isinstance(error, URLError):
        return f'a download failed ({error.reason}): put the files there by hand, or say where they are (data_root)'
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, (str, bytes)):
        return f'{os.fsdecode(error.filename)!r} cannot be used ({error.strerror}): check the path and its permissions'
    return build_mistake(error)
