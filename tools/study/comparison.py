"""The logs of a part, and paired comparisons of its arms."""

import json
import math
from typing import Dict, List, NamedTuple, Optional, Tuple

from plan import PARTS, Job

CONFIDENCE = 0.95

#: (epoch or iteration, value)
Curve = List[Tuple[int, float]]


class Logs(NamedTuple):
    """The records of a part's jobs."""

    rates: Dict[str, Dict[float, List[dict]]]  # arm -> learning rate tried
    runs: Dict[str, Dict[int, List[dict]]]  # arm -> seed
    seconds: int

    def first(self, arm: str) -> dict:
        """What one of an arm's runs says of itself: the same for all but seed and machine."""
        return next(reversed(self.runs[arm].values()))[0]


class Difference(NamedTuple):
    """Mean paired difference and the half-width of its interval.

    The second is NaN with one pair, and where all pairs differ alike, which leaves no spread to judge by.
    """

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
    if spread <= 1e-3 * abs(mean):  # logs are rounded
        return Difference(mean, math.nan if any(found) else 0.0, count, digits=digits)
    error = spread / math.sqrt(count)
    p = 2 * float(t.sf(abs(mean) / error, count - 1))
    return Difference(mean, float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error, count, p, digits)


def mean(values: Dict[int, float]) -> float:
    return sum(values.values()) / len(values)


def reached(runs: List[Curve], target: float) -> Optional[int]:
    """The first epoch or iteration at which the mean of the runs is at the target or above."""
    for points in zip(*runs):
        if sum(value for _, value in points) / len(points) >= target:
            return points[0][0]
    return None


def collect(name: str) -> Logs:
    """Reads the logs of a part."""
    part, logs, seconds = PARTS[name], Logs({}, {}, 0), 0
    left_out = diverged(name)
    for arm in part.arms:
        jobs = [(logs.rates, rate, Job(name, arm, 0, rate)) for rate in part.rates]
        jobs += [(logs.runs, seed, Job(name, arm, seed)) for seed in part.seeds]
        for found, key, job in jobs:
            if not job.log.exists():
                continue
            records = records_of(job)
            seconds += records[-1]['seconds']
            if job.rate is not None or key not in left_out:
                found.setdefault(arm, {})[key] = records
    return logs._replace(seconds=seconds)


def planned_runs(name: str) -> int:
    """How many runs a part has, those that divergence leaves out aside."""
    return len(PARTS[name].arms) * (len(PARTS[name].seeds) - len(diverged(name)))


def of_kind(records: List[dict], kind: str) -> List[dict]:
    """The records of a kind."""
    return [record for record in records if record['kind'] == kind]


def values_of(runs: Dict[int, List[dict]], kind: str, key: str) -> Dict[int, float]:
    """A value of the one record of its kind, by seed."""
    return {seed: of_kind(records, kind)[0][key] for seed, records in runs.items()}


def curves_of(runs: Dict[int, List[dict]], kind: str, step: str, key: str) -> List[Curve]:
    """(step, value) of the records of a kind, for every seed."""
    return [[(record[step], record[key]) for record in of_kind(records, kind)] for records in runs.values()]


def records_of(job: Job) -> List[dict]:
    """Records of a job's log."""
    return [json.loads(line) for line in job.log.read_text().splitlines()]


def diverged(part: str) -> Dict[int, str]:
    """Seeds that are left out, and the first arm that diverged with each."""
    found = {}
    for seed in PARTS[part].seeds:
        for arm in PARTS[part].arms:
            log = Job(part, arm, seed).log
            if log.exists() and '"kind": "diverged"' in log.read_text():
                found.setdefault(seed, arm)
    return found
