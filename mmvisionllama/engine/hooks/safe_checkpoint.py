"""mmengine's checkpoint hook, whose files are whole or not there at all."""

import contextlib
import os
from collections import deque
from pathlib import Path
from typing import Any, ContextManager, Dict, List

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from ...checkpoints.writing import ATOMIC, AtomicBackend, remove_checkpoint, remove_parts, write_atomically

#: checkpoints of stopped trainings, by iteration
STOPPED = 'stopped_iter_{}.pth'
#: steps of the checkpoints that are kept, in mmengine's message hub
SHARED_KEY = 'keep_ckpt_ids'


def point_to(work_dir: str, checkpoint: str) -> None:
    """Makes a checkpoint the one that resuming takes, and removes those of earlier stops."""
    write_atomically(checkpoint.encode(), os.path.join(work_dir, 'last_checkpoint'))
    for path in Path(work_dir).glob(STOPPED.format('*')):
        if path.name != os.path.basename(checkpoint):
            remove_checkpoint(path)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` with its arguments; :func:`mmvisionllama.launch.build_runner` puts it in its place.

    mmengine removes the oldest checkpoint, writes into the new one's final name and truncates ``last_checkpoint``.
    Here a file is written aside, forced to the disk, compared and renamed, and older ones are removed after that.
    Storages other than the local disk (``backend_args``, an ``out_dir`` with ``://``) keep mmengine's ways.

    Raises:
        CheckpointError: If a file cannot be written, for example to a full disk; the earlier ones are intact.
    """

    def before_train(self, runner: Any) -> None:
        """Chooses the storage and removes what a killed process left half-written or outdated."""
        is_local = '://' not in str(self.out_dir or runner.work_dir)
        if is_local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend=ATOMIC)
        limit, self.max_keep_ckpts = self.max_keep_ckpts, -1  # mmengine would read the list that all hooks share
        super().before_train(runner)
        self.max_keep_ckpts = limit
        if limit > 0:
            steps = self._kept_before(runner)
            self.keep_ckpt_ids = deque(steps, limit)
            if is_main_process():
                for step in steps[:-limit]:
                    self._remove(step)
        if is_local and is_main_process():
            for folder in {str(self.out_dir), runner.work_dir}:
                remove_parts(folder)

    @property
    def _kept_key(self) -> str:
        """Where the message hub has this hook's checkpoints; another one may write files of another name."""
        if self.filename_tmpl in ('epoch_{}.pth', 'iter_{}.pth'):
            return SHARED_KEY
        return f'{SHARED_KEY}:{self.filename_tmpl}'

    def _kept_before(self, runner: Any) -> List[int]:
        """Steps of the checkpoints that are there on resuming, also where hooks shared one list, as in mmengine."""
        info = runner.message_hub.runtime_info
        steps = info.get(self._kept_key, info.get(SHARED_KEY, []))
        return [step for step in steps if self._exists(self._path(step))]

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _exists(self, path: str) -> bool:
        return self.file_backend.isfile(path) or self.file_backend.isdir(path)

    def _remove(self, step: int) -> None:
        path = self._path(step)
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)

    def _removing_later(self) -> ContextManager[None]:
        if isinstance(self.file_backend, AtomicBackend):
            return self.file_backend.removing_later()
        return contextlib.nullcontext()

    def _save_best_checkpoint(self, runner: Any, metrics: Dict[str, Any]) -> None:
        with self._removing_later():
            super()._save_best_checkpoint(runner, metrics)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: Dict[str, Any]) -> None:
        """As mmengine's, in another order."""
        outdated = []
        if self.max_keep_ckpts > 0:
            steps = [*(kept for kept in self.keep_ckpt_ids if kept != step), step]
            outdated, kept = steps[: -self.max_keep_ckpts], steps[-self.max_keep_ckpts :]
            # a process killed before the removal finds the outdated ones on resuming
            runner.message_hub.update_info(self._kept_key, steps)
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            point_to(runner.work_dir, self.last_ckpt)
            for old in outdated:
                self._remove(old)
        if outdated:
            runner.message_hub.update_info(self._kept_key, list(self.keep_ckpt_ids))
