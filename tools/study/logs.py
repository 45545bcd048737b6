"""Logs of jobs: JSON lines, and what they say."""

import json
import math
from pathlib import Path
from typing import List

from plan import PARTS, Job

from mmvisionllama import launch
from mmvisionllama.visualization.training import read_scalars


def read(log: Path) -> List[dict]:
    """The records of a log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def scalars(work_dir: Path) -> List[dict]:
    """What a training logged, in order; of what was repeated after an interruption the newest."""
    newest = {('lr' in record, record['step']): record for record in read_scalars(work_dir)}
    return [newest[key] for key in sorted(newest, key=lambda key: (key[1], key[0]))]


def check_end(records: List[dict], epochs: int, work_dir: Path) -> None:
    """Refuses a training whose last validation is missing: a resumed training does not make up for it.

    Raises:
        LaunchError: Then.
    """
    if not any(record['kind'] == 'val' and record['epoch'] == epochs for record in records):
        raise launch.LaunchError(
            f'{work_dir}: stopped in its last validation; delete the folder, so that it runs again'
        )


def last(records: List[dict], kind: str) -> dict:
    """The last record of a kind."""
    return [record for record in records if record['kind'] == kind][-1]


def score(records: List[dict]) -> float:
    """What chooses a rate, the higher the better: top-1, average precision, or the negative held-out loss."""
    if any(record['kind'] == 'diverged' for record in records):
        return -math.inf
    losses = [record['loss'] for record in records if record['kind'] == 'held_out']
    if losses:
        return -losses[-1]
    tested = last(records, 'val')
    return tested['top1'] if 'top1' in tested else tested['ap']


def best_rate(part: str, arm: str) -> float:
    """The learning rate with the best score on held-out training images, the smaller one of equals."""
    found = {}
    for rate in PARTS[part].rates:
        job = Job(part, arm, 0, rate)
        if not job.log.exists():
            raise launch.LaunchError(f'{job.name} comes first: it helps to choose the learning rate')
        found[rate] = score(read(job.log))
    return max(sorted(found), key=found.get)
