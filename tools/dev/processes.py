"""Several processes of one training on this machine, forked, so that nothing is imported again."""

import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Callable, List, Optional

import torch


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def start(work: Callable[[], None], processes: int, logs: Optional[Path] = None) -> List[int]:
    """Forks processes that find in their environment what torchrun would have put there; returns their ids.

    Each computes with one thread and ends with status 0, with that of a SystemExit, or with 1 after printing what went
    wrong. With ``logs``, what it prints goes to ``log0``, ``log1``, ... in that folder.
    """
    port, children = free_port(), []
    for rank in range(processes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        status = 1
        try:
            if logs is not None:
                log = os.open(logs / f'log{rank}', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
            torch.set_num_threads(1)
            place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
            os.environ.update({key: str(value) for key, value in place.items()})
            work()
            status = 0
        except SystemExit as error:
            status = error.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return children


def wait(children: List[int]) -> List[int]:
    """Exit statuses, negative for signals."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
