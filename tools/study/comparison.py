"""Paired comparisons of arms, and what the pages of all kinds need."""

import json
import math
from typing import Dict, List, NamedTuple, Optional, Tuple

from plan import Job

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """Mean paired difference and the half-width of its interval; the second is NaN with one pair."""

    mean: float
    half: float
    pairs: int
    p: float = math.nan
    digits: int = 1

    @property
    def is_significant(self) -> bool:
        return abs(self.mean) > self.half  # False with NaN

    def __str__(self) -> str:
        text = f'{self.mean:+.{self.digits}f}' + ('' if math.isnan(self.half) else f' ± {self.half:.{self.digits}f}')
        return f'**{text}**' if self.is_significant else text


def paired(values: Dict[int, float], reference: Dict[int, float], digits: int = 1) -> Optional[Difference]:
    """Values minus those of the same seeds, with a t-interval; None without a common seed."""
    from scipy.stats import t

    found = [values[seed] - reference[seed] for seed in sorted(set(values) & set(reference))]
    if not found:
        return None
    mean, count = sum(found) / len(found), len(found)
    if count == 1:
        return Difference(mean, math.nan, 1, digits=digits)
    spread = math.sqrt(sum((value - mean) ** 2 for value in found) / (count - 1))
    error = spread / math.sqrt(count)
    p = 2 * float(t.sf(abs(mean) / error, count - 1)) if error else math.nan
    return Difference(mean, float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error, count, p, digits)


def mean(values: Dict[int, float]) -> float:
    return sum(values.values()) / len(values)


def reached(runs: List[List[Tuple[int, float]]], target: float) -> Optional[int]:
    """The first epoch or iteration at which the mean of the runs is at the target or above."""
    for points in zip(*runs):
        if sum(value for _, value in points) / len(points) >= target:
            return points[0][0]
    return None


def ending(name: str, picture: str, runs: Dict[str, Dict[int, float]], seconds: int) -> List[str]:
    """The last lines of a part: its picture, and what its runs took."""
    return [
        f'![{picture}](results/study/{name}.png)',
        '',
        f'{sum(map(len, runs.values()))} runs and those that chose the rates: {seconds / 3600:.1f} hours of one core.',
    ]


def row(*cells: object) -> str:
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def read(job: Job) -> Optional[List[dict]]:
    """Records of a job's log, None before it ran."""
    return [json.loads(line) for line in job.log.read_text().splitlines()] if job.log.exists() else None
