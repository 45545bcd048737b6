"""Paired comparisons of arms, and what the pages of all kinds need."""

import json
import math
from typing import Dict, List, NamedTuple, Optional, Tuple

from plan import PARTS, Job, Part

CONFIDENCE = 0.95

#: (arm, variant) -> seed -> value
Values = Dict[Tuple[str, str], Dict[int, float]]


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
    time = f'{seconds / 3600:.1f} hours of one {"GPU" if PARTS[name].gpu else "core"}'
    left_out = [f'Seed {seed} is left out: {arm} diverged.' for seed, arm in diverged(name).items()]
    return [
        *([' '.join(left_out), ''] if left_out else []),
        f'![{picture}](results/study/{name}.png)',
        '',
        f'{sum(map(len, runs.values()))} runs and those that chose the rates: {time}.',
    ]


def row(*cells: object) -> str:
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def read(job: Job) -> Optional[List[dict]]:
    """Records of a job's log; None before it ran, and where it or another arm with its seed diverged."""
    if not job.log.exists() or job.seed in diverged(job.part, job.rate, job.arm):
        return None
    return [json.loads(line) for line in job.log.read_text().splitlines()]


def diverged(part: str, rate: Optional[float] = None, arm: Optional[str] = None) -> Dict[int, str]:
    """Seeds that are left out, and the first arm that diverged with each; of one arm alone where rates are tried."""
    found = {}
    for seed in PARTS[part].seeds:
        for other in PARTS[part].arms if rate is None else [arm]:
            log = Job(part, other, seed, rate).log
            if log.exists() and '"kind": "diverged"' in log.read_text():
                found.setdefault(seed, other)
    return found


def lines_of(part: Part, sizes: Dict[str, Values]) -> List[Tuple[str, str, str]]:
    """(arm, variant, label) of every line of the tables over sizes, the reference first."""
    found = []
    for arm, plan in part.arms.items():
        for variant in plan.variants:
            label = arm if len(plan.variants) == 1 else f'{arm}, {variant}'
            if any((arm, variant) in values for values in sizes.values()):
                found.append((arm, variant, label))
    return found


def differences(
    sizes: Dict[str, Values], lines: List[Tuple[str, str, str, Tuple[str, str]]], tested: List[Tuple[float, str]]
) -> List[str]:
    """A table of differences by size, of (arm, variant, label, what to compare with); appends p and place of each."""
    table = [row('positions', *sizes), row(*['---'] * (1 + len(sizes)))]
    for arm, variant, label, other in lines:
        cells = [paired(sizes[size][arm, variant], sizes[size].get(other, {})) or '' for size in sizes]
        table.append(row(label, *cells))
        found = [(cell.p, f'{label} at {size}') for cell, size in zip(cells, sizes) if cell]
        tested += [(p, where) for p, where in found if not math.isnan(p)]
    return table


def of_all(arm: str, found: Optional[Difference]) -> List[Tuple[float, str]]:
    """p and place of a difference in the first table of a part, to be counted with those by size."""
    return [] if found is None or math.isnan(found.p) else [(found.p, f'{arm} on all test images')]


def size_tables(part: Part, sizes: Dict[str, Values], what: str, tested: List[Tuple[float, str]]) -> List[str]:
    """Means by size, differences against the reference, and against the same weights with other positions.

    ``tested``: p and place of the differences in the table before, which are counted as well.
    """
    shown, (reference, base) = lines_of(part, sizes), (part.reference, part.arms[part.reference])
    lines = ['', f'{what}:', '', row('positions', *sizes), row(*['---'] * (1 + len(sizes)))]
    for arm, variant, label in shown:
        lines.append(row(label, *(f'{mean(sizes[size][arm, variant]):.1f}' for size in sizes)))
    head = reference if len(base.variants) == 1 else f'{reference}, {base.variants[0]}'
    lines += ['', f'Paired differences against {head}, with 95 % intervals:', '']
    first = (reference, base.variants[0])
    lines += differences(sizes, [(*line, first) for line in shown if line[:2] != first], tested)
    own = [
        (arm, variant, label, (arm, part.arms[arm].variants[0]))
        for arm, variant, label in shown
        if arm != reference and variant != part.arms[arm].variants[0]
    ]
    if own:
        lines += ['', 'Paired differences against the same weights with the first of their positions:', '']
        lines += differences(sizes, own, tested)
    if tested:
        p, where = min(tested)
        lines += [
            '',
            f'The smallest p of all {len(tested)} differences in these tables is {p:.4f} ({where}); times their number '
            'that is ' + ('less than 0.01.' if p * len(tested) < 0.01 else f'{min(p * len(tested), 1):.2f}.'),
        ]
    return lines
