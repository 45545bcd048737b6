"""Stops a training at a signal or after a time, with a checkpoint from which the same command goes on."""

import atexit
import os
import re
import signal
import sys
import threading
import time
from bisect import bisect
from multiprocessing.sharedctypes import RawValue
from typing import Any, Callable, Dict, Optional, Union

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import distributed

from ...checkpoints.writing import ATOMIC
from ...errors import OptionError
from .safe_checkpoint import STOPPED, point_to

#: Status of a training that was stopped and can go on: sysexits.h's EX_TEMPFAIL
STOPPED_STATUS = 75
#: Environment variable of launchers that do not pass a status on: a file to make instead, the status is then 0
NOTE = 'MMVISIONLLAMA_STOPPED'
SIGNALS = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name))
#: Launchers pass a signal on to processes that had it already
ECHO_SECONDS = 2.0
WORKER_SECONDS = 20


def seconds(duration: Union[str, float]) -> float:
    """Seconds of ``90``, ``'90s'``, ``'30m'``, ``'11h30m'`` or ``'2d'``.

    Raises:
        OptionError: For anything else, and for nothing.
    """
    text = str(duration).strip().lower()
    match = re.fullmatch(r'(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?', text)
    try:
        total = sum(float(n or 0) * unit for n, unit in zip(match.groups(), (86400, 3600, 60, 1))) if match else 0
    except ValueError:
        total = 0
    if total <= 0:
        raise OptionError(f'a duration of {duration!r}: give seconds, or for example 45m, 11h30m or 2d')
    return total


class SignalNote:
    """Notes the first signal; the second one ends the process, as it would have without this."""

    def __init__(self) -> None:
        self.name: Optional[str] = None
        self._since = 0.0
        self._before: Dict[int, Any] = {}

    def listen(self) -> None:
        """Takes the signals over; outside the main thread Python cannot."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def leave(self) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: Any) -> None:
        if self.name is None:
            self.name, self._since = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._since > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class PatientWorkers:
    """``worker_init_fn``: a signal to the whole group leaves the loader's workers time to serve the last iteration.

    Once the process of the training exits, which sends them the same signal and waits for them, they end at once.
    """

    def __init__(self, init_fn: Optional[Callable[[int], None]]) -> None:
        self.init_fn = init_fn
        self._exits = RawValue('b', 0)  # shared memory, without a lock that a signal could meet
        atexit.register(setattr, self._exits, 'value', 1)  # before multiprocessing's own, which is older

    def __call__(self, worker_id: int) -> None:
        if self.init_fn is not None:
            self.init_fn(worker_id)
        if hasattr(signal, 'SIGALRM'):
            for number in SIGNALS:
                signal.signal(number, self._stay)

    def _stay(self, number: int, frame: Any) -> None:
        if self._exits.value:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(WORKER_SECONDS)


class Agreement:
    """Tells all processes of a flag of any one, an iteration later and without waiting."""

    def __init__(self) -> None:
        self._group = distributed.new_group(backend='gloo')
        self._flag: Optional[torch.Tensor] = None
        self._work: Any = None

    def exchange(self, flag: bool) -> bool:
        """Sends this process's flag and returns whether any process had sent one in the last call."""
        agreed = self.wait()
        self._flag = torch.tensor([int(flag)], dtype=torch.int32)
        self._work = distributed.all_reduce(self._flag, distributed.ReduceOp.MAX, self._group, async_op=True)
        return agreed

    def wait(self) -> bool:
        """Ends what is under way."""
        if self._work is None:
            return False
        self._work.wait()
        self._work = None
        return bool(self._flag)

    def barrier(self) -> None:
        """Waits for all processes."""
        distributed.barrier(self._group)


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Stops at SIGTERM, SIGUSR1 or after a time; :func:`mmvisionllama.launch.build_runner` adds it.

    The iteration is finished (with accumulated gradients: the optimizer's step; with several processes: one more, for
    all of them to agree), a checkpoint ``stopped_iter_*.pth`` is written, and the process ends with status
    :data:`STOPPED_STATUS` (75; of several, the first). The same command with ``--resume`` goes on as if nothing had
    happened, including the validation that was due. A signal during a validation waits for its end. A second signal,
    more than two seconds later, ends the process at once.

    Args:
        stop_after: Time from the start after which to stop by itself, see :func:`seconds`.
    """

    priority = 'LOWEST'

    def __init__(self, stop_after: Union[str, float, None] = None) -> None:
        self._note = SignalNote()
        self._limit = None if stop_after is None else time.monotonic() + seconds(stop_after)
        self._stop_after = stop_after
        self._agreement: Optional[Agreement] = None
        self._wants = False
        self._validation_due = False

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Whether a validation was due."""
        if runner._resume:
            self._validation_due = bool(checkpoint['meta'].get('validation_due'))

    def before_train(self, runner: Any) -> None:
        """Listens from here on."""
        self._note.listen()
        for loop in (runner.train_loop, runner.val_loop):
            loader = getattr(loop, 'dataloader', None)
            if loader is not None:
                loader.worker_init_fn = PatientWorkers(loader.worker_init_fn)
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            self._agreement = Agreement()

    def before_train_epoch(self, runner: Any) -> None:
        """Makes up for the validation that was due when an iteration-based training was stopped."""
        if self._validation_due and runner.val_loop is not None:
            runner.val_loop.run()
        self._validation_due = False

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stops if any process was told to."""
        reason = self._note.name
        if reason is None and self._limit is not None and is_main_process() and time.monotonic() >= self._limit:
            reason = f'--stop-after {self._stop_after}'
        self._wants = self._wants or (
            reason is not None if self._agreement is None else self._agreement.exchange(reason is not None)
        )
        if self._wants and self._is_whole_step(runner):
            self._stop(runner, reason or 'a signal to another process')

    def after_train(self, runner: Any) -> None:
        """Gives the signals back."""
        if self._agreement is not None:
            self._agreement.wait()
        self._note.leave()

    @staticmethod
    def _is_whole_step(runner: Any) -> bool:
        """Accumulated gradients are in no checkpoint."""
        wrapper = runner.optim_wrapper
        count = getattr(wrapper, '_accumulative_counts', 1)
        return count == 1 or (runner.iter + 1) % count == 0 or runner.iter + 1 == runner.max_iters

    @staticmethod
    def _validates_next(runner: Any) -> bool:
        """Whether an iteration-based loop would validate after this iteration."""
        loop, done = runner.train_loop, runner.iter + 1
        if runner.val_loop is None or not hasattr(loop, 'dataloader_iterator') or done < loop.val_begin:
            return False
        interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, done + 1) - 1]
        return done % interval == 0 or done == loop.max_iters

    def _stop(self, runner: Any, reason: str) -> None:
        if self._agreement is not None:
            self._agreement.wait()
        name = STOPPED.format(runner.iter + 1)
        runner.save_checkpoint(
            runner.work_dir,
            name,
            meta=dict(epoch=runner.epoch, iter=runner.iter + 1, validation_due=self._validates_next(runner)),
            by_epoch=False,
            backend_args=dict(backend=ATOMIC),
        )
        if is_main_process():
            point_to(runner.work_dir, os.path.join(runner.work_dir, name))
        if self._agreement is not None:
            self._agreement.barrier()  # a launcher ends the others with the first
        runner.logger.warning(
            f'stopped by {reason} after iteration {runner.iter + 1}: {name} is written, and the same command with '
            f'--resume goes on from it'
        )
        leave_note = os.environ.get(NOTE)
        if leave_note:
            with open(leave_note, 'w'):
                sys.exit()
        if self._agreement is not None and not is_main_process():
            sys.exit()
        if self._agreement is not None:
            time.sleep(1)  # srun ends the others, and with another status, at the first one that is not 0
        sys.exit(STOPPED_STATUS)
