"""What the tables of all kinds of parts are made of."""

import math
from typing import Dict, List, Optional, Tuple

from comparison import Curve, Difference, diverged, mean, of_kind, paired, planned_runs, reached
from plan import PARTS, Part

#: (arm, variant) -> seed -> value
Values = Dict[Tuple[str, str], Dict[int, float]]
#: p of a difference, and where it is
Tested = List[Tuple[float, str]]


def row(*cells: object) -> str:
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def spread(values: Dict[int, float], digits: int = 1) -> str:
    """``'51.4 (50.7 to 52.5)'``: mean, lowest and highest."""
    low, high = min(values.values()), max(values.values())
    return f'{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})'


def against(
    arm: str,
    values: Dict[str, Dict[int, float]],
    reference: str,
    tested: Tested,
    where: str = 'on all test images',
    digits: int = 1,
) -> str:
    """The cell of an arm's difference to the reference; appends its p, to be counted with those of other tables."""
    found = paired(values[arm], values.get(reference, {}), digits) if arm != reference else None
    note(found, f'{arm} {where}', tested)
    return str(found or '')


def note(found: Optional[Difference], where: str, tested: Tested) -> None:
    """Appends p and place of a difference that has one."""
    if found is not None and not math.isnan(found.p):
        tested.append((found.p, where))


def smallest_p(tested: Tested) -> List[str]:
    """The line on the smallest p of several, corrected for their number as Bonferroni does."""
    if len(tested) < 2:
        return []
    p, where = min(tested)
    product = 'less than 0.01.' if p * len(tested) < 0.01 else f'{min(p * len(tested), 1):.2f}.'
    text = f'The smallest p of all {len(tested)} differences in these tables is {p:.4f} ({where}); '
    return ['', f'{text}times their number that is {product}']


def speed(first: List[Curve], second: List[Curve], names: Tuple[str, str], unit: str, what: str = 'mean') -> str:
    """The sentence on when the mean of some runs is where that of others ends."""
    ends = [curve[-1][1] for curve in second]
    step, last = reached(first, sum(ends) / len(ends)), first[0][-1][0]
    if unit == 'epochs':
        when = f'after epoch {step} of {last}' if step else f'in none of {last} epochs'
    else:
        when = f'after {step:,} of {last:,} {unit}' if step else f'in none of {last:,} {unit}'
    return f'{names[0]} is at the final {what} of {names[1]} {when}.'


def rates_tried(
    what: str, rates: Dict[str, Dict[float, List[dict]]], kind: str, key: str, scale: float = 1, digits: int = 1
) -> List[str]:
    """The line on the learning rates, with the last value of a kind of record for each."""
    found = []
    for arm, tried in rates.items():
        scores = []
        for rate, records in tried.items():
            values = of_kind(records, kind)
            scores.append(f'{scale * values[-1][key]:.{digits}f} at {rate:g}' if values else f'diverged at {rate:g}')
        found.append(f'{arm} ' + ', '.join(scores))
    return ['', f'Rates tried ({what}): {"; ".join(found)}.'] if found else []


def ending(name: str, picture: str, runs: Dict[str, Dict[int, object]], seconds: int) -> List[str]:
    """The last lines of a part: its picture, and what its runs took."""
    time = f'{seconds / 3600:.1f} hours of {"jobs that share a GPU" if PARTS[name].gpu else "one core"}'
    left_out = [f'Seed {seed} is left out: {arm} diverged.' for seed, arm in diverged(name).items()]
    return [
        '',
        *([' '.join(left_out), ''] if left_out else []),
        f'![{picture}](results/study/{name}.png)',
        '',
        f'{progress(name, runs)} runs and those that chose the rates: {time}.',
    ]


def progress(name: str, runs: Dict[str, Dict[int, object]]) -> str:
    """Number of a part's runs, and of how many while some are missing."""
    done, planned = sum(map(len, runs.values())), planned_runs(name)
    return str(done) if done == planned else f'{done} of {planned}'


def lines_of(part: Part, sizes: Dict[str, Values]) -> List[Tuple[str, str, str]]:
    """(arm, variant, label) of every line of the tables over sizes, of arms that were tested at all of them."""
    found = []
    for arm, plan in part.arms.items():
        for variant in plan.variants:
            label = arm if len(plan.variants) == 1 else f'{arm}, {variant}'
            if sizes and all((arm, variant) in values for values in sizes.values()):
                found.append((arm, variant, label))
    return found


def differences(
    sizes: Dict[str, Values], lines: List[Tuple[str, str, str, Tuple[str, str]]], tested: Tested
) -> List[str]:
    """A table of differences by size, of (arm, variant, label, what to compare with); appends p and place of each.

    Positions that change nothing at a size, as scaling at the training size, are not counted again.
    """
    table = [row('positions', *sizes), row(*['---'] * (1 + len(sizes)))]
    for arm, variant, label, other in lines:
        cells = [paired(sizes[size][arm, variant], sizes[size].get(other, {})) for size in sizes]
        table.append(row(label, *(cell or '' for cell in cells)))
        earlier = [line[1] for line in lines[: lines.index((arm, variant, label, other))] if line[0::3] == (arm, other)]
        for cell, size in zip(cells, sizes):
            values = sizes[size]
            if not any(values[arm, variant] == values[arm, same] for same in earlier):
                note(cell, f'{label} at {size}', tested)
    return table


def size_tables(part: Part, sizes: Dict[str, Values], what: str, tested: Tested) -> List[str]:
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
    return lines + smallest_p(tested)
