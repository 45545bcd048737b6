#!/usr/bin/env python
"""Runs the study: every job without a log, some at once, one thread each. Stopped, the same command goes on.

python tools/study/run.py [PART ...] [--workers 2] [--data-root data] [--work-dir work_dirs/study] [--minutes 9]
"""

import argparse
import contextlib
import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterable, List, Optional

import files
from plan import PARTS, Job, jobs

from mmvisionllama import launch

PR_SET_PDEATHSIG = 1
#: seconds that a job has to stop
PATIENCE = 60


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Run the study')
    parser.add_argument(
        'parts', nargs='*', metavar='PART', help=f'of {", ".join(PARTS)}; by default all that need no GPU'
    )
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='jobs at once (default: processors)')
    parser.add_argument('--data-root', type=Path, default=Path('data'), help='folder with the data sets')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/study'))
    parser.add_argument('--minutes', type=float, default=math.inf, help='stop then; the same command goes on')
    parser.add_argument('--list', action='store_true', help='say what is left and end')
    args = parser.parse_args(argv)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        raise launch.LaunchError(f'unknown part {", ".join(sorted(unknown))}: choose from {", ".join(PARTS)}')
    return args


def start(job: Job, args: argparse.Namespace) -> subprocess.Popen:
    """A process of its own for a job; what it prints is in the work directory."""
    log = args.work_dir / f'{job.name}.log'
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, Path(__file__).parent / 'job.py', job.part, job.arm, '--seed', job.seed]
    command += ['--data-root', args.data_root, '--work-dir', args.work_dir]
    if job.rate is not None:
        command += ['--rate', job.rate]
    env = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    if not PARTS[job.part].gpu:
        env['CUDA_VISIBLE_DEVICES'] = ''
    with open(log, 'a') as file:
        # a session of its own: Ctrl-C is for this process, which lets its jobs write a checkpoint
        return subprocess.Popen(
            list(map(str, command)),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            preexec_fn=end_with_parent if sys.platform == 'linux' else None,
        )


def end_with_parent() -> None:
    """Lets a job stop with a checkpoint when this process is killed: it would hold its folder against the next call."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def ready(job: Job, waiting: List[Job], running: Dict[Job, subprocess.Popen]) -> bool:
    """Whether the rates of its arm have been tried."""
    others = [*waiting, *running]
    return job.rate is not None or not any(
        other.rate is not None and (other.part, other.arm) == (job.part, job.arm) for other in others
    )


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """Lets jobs write a checkpoint, and stops those that do not end: they may be at their tests by then."""
    for process in processes:
        process.terminate()
    for process in processes:
        for _ in range(2):
            try:
                process.wait(timeout=PATIENCE)
                break
            except subprocess.TimeoutExpired:
                process.terminate()
        else:
            process.kill()
            process.wait()


def clock(seconds: float) -> str:
    """``'1:02'``, hours and minutes."""
    return f'{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}'


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    everything = list(jobs(args.parts or None))
    waiting = [job for job in everything if not job.log.exists()]
    print(f'{len(everything) - len(waiting)} of {len(everything)} jobs have a log, {len(waiting)} are left')
    if args.list:
        print(''.join(f'  {job.name}\n' for job in waiting), end='')
        return
    for part in dict.fromkeys(job.part for job in waiting):
        if PARTS[part].prepare:
            getattr(files, PARTS[part].prepare)(args.data_root)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: jobs are stopped on the way out
    begun, spent, total = time.time(), 0.0, sum(job.cost for job in waiting)
    running: Dict[Job, subprocess.Popen] = {}
    try:
        while (waiting or running) and time.time() - begun < 60 * args.minutes:
            for job in list(waiting):
                if len(running) < args.workers and ready(job, waiting, running):
                    waiting.remove(job)
                    running[job] = start(job, args)
            time.sleep(0.2)
            for job, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                if process.returncode:
                    log = args.work_dir / f'{job.name}.log'
                    end = '\n'.join(log.read_text().splitlines()[-8:])
                    raise launch.LaunchError(f'{job.name} failed; the end of {log}:\n{end}')
                spent += job.cost
                passed = time.time() - begun
                left = passed / spent * (total - spent)
                print(f'{clock(passed)}  {job.name} is done, about {clock(left)} left', flush=True)
    finally:
        stop(list(running.values()))


if __name__ == '__main__':
    sys.exit(launch.run_cli(main))
