"""Which checkpoint a training continues from, and that no second one writes into the same folder."""

import contextlib
import os
import re
import socket
from pathlib import Path
from typing import Iterator, List, Optional

from ..checkpoints.reading import read_checkpoint
from ..checkpoints.sharded import STATE, is_sharded, read_list
from ..errors import CheckpointError, LaunchError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = '.training'
#: says which checkpoint a training was given; its time is the start of the training's first turn
GIVEN = '.resumed'


def is_first_process(launcher: Optional[str] = None) -> bool:
    """Whether this is the first of the processes that a launcher started.

    Under the launcher ``'none'`` the tasks of srun and mpirun are runs of their own, as in a sweep.
    """
    names = ('RANK',) if launcher == 'none' else ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return next((os.environ[name] for name in names if name in os.environ), '0') == '0'


def _say(text: str) -> None:
    if is_first_process():
        print(text, flush=True)


def check_resumable(path: str) -> None:
    """Raises a CheckpointError for a file that a training cannot continue from."""
    if is_sharded(path):  # may be larger than the memory
        read_list(path)
        checkpoint = read_checkpoint(os.path.join(path, STATE))
    else:
        checkpoint = read_checkpoint(path)
    meta = checkpoint.get('meta')
    # best_*.pth have counters and no optimizer: mmengine would go on with a new one and the schedules' first rates
    parts = {'message_hub', 'optimizer'} <= set(checkpoint)
    if not isinstance(meta, dict) or not {'epoch', 'iter'} <= set(meta) or not parts:
        raise CheckpointError(
            f'checkpoint {path!r} has no state of a training to continue: start from its weights with --cfg-options '
            f'load_from={path}'
        )


def _named(work_dir: str) -> str:
    try:
        return Path(work_dir, 'last_checkpoint').read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ''


def _pointer(work_dir: str) -> Optional[str]:
    """The file that ``last_checkpoint`` names: its namesake in the folder itself, which may have been moved, first."""
    named = _named(work_dir)
    for path in (os.path.join(work_dir, os.path.basename(named)), named):
        if named and '\0' not in named and (os.path.isfile(path) or is_sharded(path)):
            return path
    return None


def _candidates(work_dir: str) -> List[str]:
    """Checkpoints of a folder: the one that its ``last_checkpoint`` names, then the others, newest first."""

    def age(path: Path):
        number = re.findall(r'\d+', path.stem)
        return path.stat().st_mtime, int(number[-1]) if number else -1

    files = [path for path in Path(work_dir).glob('*.pth') if path.is_file() or is_sharded(path)]
    files = [path for path in files if not path.name.startswith('best_')]
    named = _pointer(work_dir)
    others = [str(path) for path in sorted(files, key=age, reverse=True) if str(path) != str(named and Path(named))]
    return ([named] if named else []) + others


def _mark(given: str) -> str:
    return f'{os.environ.get("SLURM_JOB_ID", "")} {given}'


def mark_first_turn(work_dir: str, given: str, launcher: Optional[str] = None) -> None:
    """Remembers when a training began from a given checkpoint, for :func:`newest_of_this_training`."""
    if is_first_process(launcher):
        Path(work_dir, GIVEN).write_text(_mark(given))


def newest_of_this_training(work_dir: str, given: str) -> Optional[str]:
    """The newest whole checkpoint since :func:`mark_first_turn`, None without one; older ones are not its own."""
    marker = Path(work_dir, GIVEN)
    if not marker.exists() or marker.read_text() != _mark(given):
        return None
    began = marker.stat().st_mtime
    for path in _candidates(work_dir):
        with contextlib.suppress(CheckpointError, OSError):
            if os.path.getmtime(path) >= began:
                check_resumable(path)
                _say(f'resumes from {path}')
                return path
    return None


def newest_checkpoint(work_dir: str) -> Optional[str]:
    """The newest whole checkpoint of a training; damaged ones are named and left out.

    Returns:
        str: Its path, or None if the folder has no checkpoint.

    Raises:
        CheckpointError: If none of them can be used.
        LaunchError: If ``last_checkpoint`` names an address and the folder has no file of that name.
    """
    named = _named(work_dir)
    if '://' in named and _pointer(work_dir) is None:  # default_hooks.checkpoint.out_dir; files here are older
        raise LaunchError(
            f'the newest checkpoint of {work_dir!r} lies at {named}, and only local files are resumed: download it and '
            f'give --resume FILE, or put it into that folder'
        )
    reason = None
    for path in _candidates(work_dir):
        try:
            check_resumable(path)
        except CheckpointError as error:
            reason = error
            _say(f'not resumed: {error}')
        else:
            _say(f'resumes from {path}')
            return path
    if reason is not None:
        raise CheckpointError(
            f'no checkpoint in {work_dir!r} can be resumed (the last one tried: {reason}); to start over, give another '
            f'--work-dir or leave out --resume'
        )
    return None


def check_resume_file(path: str) -> None:
    """:func:`check_resumable`, and for a damaged file the name of a whole one beside it."""
    try:
        check_resumable(path)
    except CheckpointError as error:
        folder = os.path.dirname(path) or '.'
        is_damaged = 'damaged' in str(error) and os.path.isdir(folder)
        for other in _candidates(folder) if is_damaged else []:
            with contextlib.suppress(CheckpointError):
                check_resumable(other)
                raise LaunchError(f'{error}; the newest whole one beside it: --resume {other}') from error
        raise


@contextlib.contextmanager
def lock_work_dir(work_dir: str, launcher: Optional[str] = None) -> Iterator[None]:
    """Holds a folder for this training; of several processes the first does, see :func:`is_first_process`.

    The lock is the operating system's and ends with the process, however that ends; the file's text is for people.
    Data loader workers that outlive the process do not hold it.

    Raises:
        LaunchError: If another training holds it.
    """
    if fcntl is None or not is_first_process(launcher):
        yield
        return
    os.makedirs(work_dir, exist_ok=True)
    with open(os.path.join(work_dir, LOCK), 'a+') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise LaunchError(
                f'another training ({file.read(200).strip() or "unknown"}) writes into {work_dir!r}: wait for its end, '
                f'or give another --work-dir'
            ) from error
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}')
        file.flush()
        yield
        file.truncate(0)
