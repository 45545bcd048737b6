#!/usr/bin/env python
"""One training of the study, and its tests: what tools/study/run.py starts, with one thread.

python tools/study/job.py PART ARM --seed 0 --data-root data --work-dir work_dirs/study [--rate 1e-3]

Goes on from its last checkpoint. The log, JSON lines, appears in docs/results/study when all is done.
"""

import argparse
import json
import math
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import List, Optional

import classification
import detection
import generation
import pretraining
import torch
from logs import best_rate, scalars
from mmengine.config import Config
from plan import PARTS, ROOT, Job

from mmvisionllama import launch
from mmvisionllama.checkpoints import find_state_dict, read_checkpoint
from mmvisionllama.checkpoints.writing import write_atomically

KINDS = dict(classification=classification, detection=detection, generation=generation, pretraining=pretraining)


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='One training of the study')
    parser.add_argument('part', choices=PARTS)
    parser.add_argument('arm')
    parser.add_argument('--seed', type=int, required=True)
    parser.add_argument('--rate', type=float, help='learning rate to try on held-out training images')
    parser.add_argument('--data-root', type=Path, default=Path('data'), help='folder with the data sets')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/study'))
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, default={}, help='for tests: smaller runs'
    )
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    job = Job(args.part, args.arm, args.seed, args.rate)
    if PARTS[job.part].gpu and not has_gpu():
        raise launch.LaunchError(f'{job.part} needs a GPU, and torch finds none')
    torch.set_num_threads(1)
    rate = args.rate or best_rate(args.part, args.arm)
    work_dir, code = args.work_dir / job.name, commit()
    cfg = KINDS[PARTS[job.part].kind].config_of(job, rate, args.data_root, args.cfg_options)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = job.name.replace('/', '_')  # loggers are kept by name and second
    set_earlier_aside(work_dir, cfg.pretty_text)
    with Stopwatch(work_dir / 'seconds.txt') as stopwatch:
        write_atomically(_run(job, rate, cfg, code, stopwatch), job.log)
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    shutil.copy(checkpoint, work_dir / 'final.pth')  # says that the log was written


def _run(job: Job, rate: float, cfg: Config, code: str, stopwatch: 'Stopwatch') -> bytes:
    """Trains and tests; returns the log."""
    kind, work_dir = KINDS[PARTS[job.part].kind], Path(cfg.work_dir)
    launch.train(launch.prepare_train(cfg, resume='auto'))
    stopwatch.save()  # the tests may be killed
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()

    records = [
        dict(
            kind='run',
            part=job.part,
            arm=job.arm,
            seed=job.seed,
            rate=rate,
            config=PARTS[job.part].arms[job.arm].config,
            command=' '.join(['python', 'tools/study/job.py', job.part, job.arm, f'--seed {job.seed}'])
            + (f' --rate {job.rate:g}' if job.rate else ''),
            parameters=sum(value.numel() for value in find_state_dict(read_checkpoint(checkpoint)).values()),
            **kind.facts(cfg),
            batch=cfg.train_dataloader.batch_size,
            torch=torch.__version__,
            python=platform.python_version(),
            processor=processor(),
            **(dict(gpu=torch.cuda.get_device_name()) if torch.cuda.is_available() else {}),
            threads=torch.get_num_threads(),
            commit=code,
        )
    ]
    unfit = [record['step'] for record in scalars(work_dir) if not math.isfinite(record.get('loss', 0))]
    found = [] if unfit else kind.results(job, cfg, work_dir, checkpoint)
    # pre-trained weights are fine-tuned in there
    unfit += [record.get('iter') for record in found if not math.isfinite(record.get('loss', 0))]
    records += [dict(kind='diverged', step=unfit[0])] if unfit else found
    records.append(dict(kind='end', seconds=round(stopwatch.seconds())))
    return ''.join(json.dumps(record) + '\n' for record in records).encode()


def set_earlier_aside(work_dir: Path, text: str) -> None:
    """Keeps a finished training, or one of another config, from being taken for the job's own: its log is to be new.

    The folder gets the ending ``_before``; one that an earlier call has left is removed.
    """
    noted = work_dir / 'config.py'
    if (work_dir / 'final.pth').exists() or (noted.exists() and noted.read_text() != text):
        before = work_dir.with_name(f'{work_dir.name}_before')
        shutil.rmtree(before, ignore_errors=True)
        work_dir.rename(before)
    work_dir.mkdir(parents=True, exist_ok=True)
    noted.write_text(text)


class Stopwatch:
    """Seconds of a job, those before interruptions included."""

    def __init__(self, path: Path) -> None:
        self.path, self.start = path, time.time()
        self.before = float(path.read_text()) if path.exists() else 0.0

    def seconds(self) -> float:
        return self.before + time.time() - self.start

    def __enter__(self) -> 'Stopwatch':
        return self

    def __exit__(self, *error: object) -> None:
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(f'{self.seconds():.0f}')


def has_gpu() -> bool:
    return torch.cuda.is_available()


def processor() -> str:
    """The processor's name, where the system says it."""
    info = Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')]
    return names[0] if names else platform.processor()


def commit() -> str:
    """The commit of the code, if it is a checkout."""
    found = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip()


if __name__ == '__main__':
    sys.exit(launch.run_cli(main))
