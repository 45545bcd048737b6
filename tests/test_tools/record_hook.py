"""Imported by the configs of these tests: writes losses and weights of every rank, and can end its process abruptly."""

import json
import os
import signal
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from yapf.yapflib import yapf_api

# as in conftest.py, which other processes do not read
yapf_api.FormatCode = lambda text, *args, **kwargs: (text, False)


@HOOKS.register_module()
class RecordHook(Hook):
    """
    Args:
        folder: Where ``rank0.jsonl``, ``rank0.pth``, ... go.
        kill_at: Iteration after which rank 1 dies, as by a power cut.
    """

    def __init__(self, folder, kill_at=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kill_at = kill_at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(self.folder / f'rank{get_rank()}.jsonl', 'a') as file:
            file.write(json.dumps([runner.iter, outputs['loss'].item()]) + '\n')
        if runner.iter == self.kill_at and get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train(self, runner):
        model = runner.model.module
        torch.save(model.state_dict(), self.folder / f'rank{get_rank()}.pth')
        backend = torch.distributed.get_backend()
        (self.folder / f'rank{get_rank()}.json').write_text(
            json.dumps(dict(backend=backend, unused=runner.model.find_unused_parameters))
        )
