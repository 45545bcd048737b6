#!/usr/bin/env python
"""Kills trainings of a tiny model at random moments, resumes them, and compares with one that was left alone.

    python tools/dev/kill_test.py [--kills 30] [--seed 0] [--parts]

By epoch and by iteration, one and two processes; SIGKILL, SIGTERM, SIGKILL while a checkpoint is written. With --parts
the two processes share one model and write checkpoints in parts. Prints a line
per kill and ends with 1 if a resumed training lost more than it may or ended with other weights.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from processes import start as processes_of
from processes import wait
from torch import nn

import mmvisionllama  # noqa: F401  registers its hooks
from mmvisionllama import launch
from mmvisionllama.checkpoints import read_checkpoint
from mmvisionllama.engine.hooks.preemption import STOPPED_STATUS

EPOCHS, ITERS = 8, 5
INTERVAL = ITERS
BATCH = 4
ITERATION_SECONDS = 0.02
KINDS = ('SIGKILL', 'SIGTERM', 'writing')


@DATASETS.register_module(force=True)
class NoisyNumbers(torch.utils.data.Dataset):
    """Samples with random numbers of Python, numpy and torch, as augmentations draw them."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return torch.full((4,), index / self.size) + 0.1 * noise


@MODELS.register_module(force=True)
class TinyNet(BaseModel):
    """Dropout, and enough parameters for a checkpoint of some megabytes."""

    def __init__(self, seconds: float = ITERATION_SECONDS) -> None:
        super().__init__()
        self.seconds = seconds
        self.layers = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 4096))

    def forward(self, *samples: torch.Tensor, mode: str = 'loss'):
        out = self.layers(torch.stack(samples))
        if mode != 'loss':
            return list(out)
        time.sleep(self.seconds)
        return dict(loss=out.square().mean())


@METRICS.register_module(force=True)
class Nothing(BaseMetric):
    """Counts samples."""

    def process(self, data_batch, data_samples) -> None:
        self.results.append(len(data_samples))

    def compute_metrics(self, results) -> dict:
        return dict(count=sum(results))


@HOOKS.register_module(force=True)
class Recorder(Hook):
    """Appends ['iter', number, loss] and ['val', iterations done] to a file of each process."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def _write(self, *row) -> None:
        with open(self.folder / f'rank{get_rank()}.jsonl', 'a') as file:
            file.write(json.dumps(row) + '\n')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._write('iter', runner.iter, outputs['loss'].item())

    def after_val(self, runner) -> None:
        self._write('val', runner.iter)


def make_config(folder: Path, by_epoch: bool, processes: int) -> Config:
    """A training of EPOCHS epochs of ITERS iterations, checkpoint and validation after every ITERS."""
    dataset = dict(type='NoisyNumbers', size=BATCH * ITERS * processes)
    loader = dict(dataset=dataset, batch_size=BATCH, num_workers=1, persistent_workers=True)
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    iterations = dict(by_epoch=False, max_iters=EPOCHS * ITERS, val_interval=ITERS)
    return Config(
        dict(
            default_scope='mmengine',
            model=dict(type='TinyNet'),
            work_dir=str(folder),
            train_dataloader=dict(loader, sampler=sampler),
            val_dataloader=dict(
                loader, num_workers=0, persistent_workers=False, sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            val_cfg=dict(),
            val_evaluator=dict(type='Nothing'),
            train_cfg=dict(by_epoch=True, max_epochs=EPOCHS) if by_epoch else iterations,
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=1),
            param_scheduler=dict(type='CosineAnnealingLR', T_max=EPOCHS * ITERS, by_epoch=False),
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook', interval=1 if by_epoch else ITERS, by_epoch=by_epoch, max_keep_ckpts=1
                ),
                reseed=dict(type='ReseedHook'),
            ),
            custom_hooks=[
                dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.1),
                dict(type='Recorder', folder=str(folder)),
            ],
            randomness=dict(seed=0),
            log_level='ERROR',
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
        )
    )


def start(folder: Path, by_epoch: bool, processes: int, parts: bool) -> List[int]:
    """Forks the processes of a training that resumes if it can; returns their ids."""

    def work() -> None:
        cfg = make_config(folder, by_epoch, processes)
        if parts and processes > 1:
            cfg.model_wrapper_cfg = dict(type='FullyShardedModel', blocks=('Linear',), checkpoint='parts')
        launch.prepare_train(cfg, resume='auto', launcher='pytorch' if processes > 1 else 'none')
        launch.train(cfg)

    return processes_of(work, processes, folder)


def read(folder: Path, rank: int = 0) -> Tuple[List[Tuple[int, float]], List[int]]:
    """The iterations with their losses, and the validations, in the order in which they were done."""
    path = folder / f'rank{rank}.jsonl'
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith('\n')]
    return [(row[1], row[2]) for row in rows if row[0] == 'iter'], [row[1] for row in rows if row[0] == 'val']


def weights(folder: Path, by_epoch: bool) -> Dict[str, torch.Tensor]:
    """Averaged and raw weights at the end."""
    path = folder / (f'epoch_{EPOCHS}.pth' if by_epoch else f'iter_{EPOCHS * ITERS}.pth')
    checkpoint = read_checkpoint(str(path))
    return {**checkpoint['state_dict'], **{f'ema.{k}': v for k, v in checkpoint['ema_state_dict'].items()}}


def is_alive(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def strike(folder: Path, children: List[int], kind: str, rng: random.Random) -> bool:
    """Waits for a moment and kills; False if the training ended before."""
    begun = len(read(folder)[0])
    aim = begun + rng.randint(1, ITERS + 2)
    while len(read(folder)[0]) < aim:
        if not is_alive(children[0]):
            return False
        time.sleep(0.002)
    if kind == 'writing':
        while not list(folder.glob('*.part')):
            if not is_alive(children[0]):
                return False
    else:
        time.sleep(rng.random() * 2 * ITERATION_SECONDS)
    if kind == 'SIGTERM':  # a launcher signals all, an administrator perhaps one
        targets = children if rng.random() < 0.5 else [rng.choice(children)]
    else:
        targets = children
    for child in targets:
        os.kill(child, signal.SIGTERM if kind == 'SIGTERM' else signal.SIGKILL)
    return True


def check(kind: str, statuses: List[int], before: int, after: Optional[int], seconds: float) -> Optional[str]:
    """What is wrong with a kill: iterations done before it, the first one done after it, the time until the end."""
    if kind == 'SIGTERM' and (statuses[0] not in (STOPPED_STATUS, 0) or any(statuses[1:])):
        return f'statuses {statuses}'
    if kind == 'SIGTERM' and seconds > 10 + 3 * ITERATION_SECONDS:
        return f'took {seconds:.1f} s to stop'
    lost = 0 if after is None else before - after
    if lost < 0 or lost > (0 if kind == 'SIGTERM' else INTERVAL):
        return f'{lost} iterations lost'
    return None


def run_case(
    root: Path,
    by_epoch: bool,
    processes: int,
    kills: int,
    kinds: Sequence[str],
    rng: random.Random,
    parts: bool = False,
) -> int:
    """Trains once without and once with kills; returns the number of failures."""
    label = f'{"epoch" if by_epoch else "iter"}, {processes} process{"es" if processes > 1 else ""}'
    whole, broken = root / 'whole', root / 'broken'
    for folder in (whole, broken):
        folder.mkdir(parents=True)
    if any(wait(start(whole, by_epoch, processes, parts))):
        print(f'{label}: the uninterrupted training failed\n{(whole / "log0").read_text()[-3000:]}')
        return 1
    failures = done = 0
    kind, statuses, rows, before, seconds = None, [], 0, 0, 0.0
    while True:
        children = start(broken, by_epoch, processes, parts)
        next_kind = kinds[done % len(kinds)] if done < kills else None
        struck = next_kind is not None and strike(broken, children, next_kind, rng)
        began = time.monotonic()
        ends = wait(children)
        iterations = [i for i, _ in read(broken)[0]]
        if kind is not None:
            after = iterations[rows] if rows < len(iterations) else None
            wrong = check(kind, statuses, before, after, seconds)
            failures += wrong is not None
            print(f'{label}: {kind} after iteration {before}: {wrong or "resumed"}', flush=True)
        if not struck:
            break
        done += 1
        kind, statuses, seconds = next_kind, ends, time.monotonic() - began
        rows, before = len(iterations), iterations[-1] + 1
    if any(ends):
        print(f'{label}: the last resumption failed\n{(broken / "log0").read_text()[-3000:]}')
        return failures + 1
    for rank in range(processes):
        losses, validations = read(whole, rank)
        again, validations_again = read(broken, rank)
        if set(losses) != set(again):
            failures += 1
            print(f'{label}: losses of process {rank} differ')
        # a kill between a checkpoint and its validation loses that one; a stop may not
        if set(validations_again) - set(validations) or (
            set(kinds) == {'SIGTERM'} and validations_again != validations
        ):
            failures += 1
            print(f'{label}: validations {validations_again} instead of {validations}')
    first, second = weights(whole, by_epoch), weights(broken, by_epoch)
    if not all(torch.equal(first[key], second[key]) for key in first):
        failures += 1
        print(f'{label}: final weights differ')
    rest = [path.name for path in broken.glob('*') if path.suffix == '.part' or path.name.startswith('stopped_')]
    if rest:
        failures += 1
        print(f'{label}: left behind: {rest}')
    print(f'{label}: {done} kills, {failures} failures', flush=True)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=30, help='kills in all')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--by', choices=['epoch', 'iter', 'both'], default='both')
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=KINDS, help='in turn')
    parser.add_argument('--processes', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--parts', action='store_true', help='with several processes FSDP2 and checkpoints in parts')
    args = parser.parse_args()
    cases = [(by, n) for by in (True, False) for n in args.processes if args.by in ('both', 'epoch' if by else 'iter')]
    failures = kills = done = 0
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as root:
        for i, (by_epoch, processes) in enumerate(cases):
            kills = args.kills * (i + 1) // len(cases) - done
            done += kills
            failures += run_case(Path(root, str(i)), by_epoch, processes, kills, args.kinds, rng, args.parts)
    print(f'{failures} failures')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
