"""Logs of jobs: JSON lines, and what they say."""

import json
from pathlib import Path
from typing import List

from plan import PARTS, Job

from mmvisionllama import launch


def read(log: Path) -> List[dict]:
    """The records of a log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def last(records: List[dict], kind: str) -> dict:
    """The last record of a kind."""
    return [record for record in records if record['kind'] == kind][-1]


def score(records: List[dict]) -> float:
    """What chooses a rate, the higher the better: top-1, average precision, or the negative held-out loss."""
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
