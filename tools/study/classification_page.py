"""Tables and pictures of the parts on classification, for page.py."""

from pathlib import Path
from typing import Dict, List

from cells import Tested, Values, against, ending, lines_of, rates_tried, row, size_tables, speed, spread
from comparison import Logs, collect, curves_of, mean, of_kind, values_of
from drawing import line, panels, save, ticks
from plan import PARTS

#: points of a curve from which it says something of speed
MANY = 6


def sizes_of(logs: Logs) -> Dict[str, Values]:
    """Top-1 by size, arm and variant, and seed."""
    sizes: Dict[str, Values] = {}
    for arm, runs in logs.runs.items():
        for seed, records in runs.items():
            for record in of_kind(records, 'test'):
                values = sizes.setdefault(str(record['size']), {})
                values.setdefault((arm, record['variant']), {})[seed] = record['top1']
    return sizes


def convergence(reference: str, logs: Logs) -> List[str]:
    """Sentences on the epochs that arms need for each other's final accuracy, where it was measured often enough."""
    curves = {arm: curves_of(runs, 'val', 'epoch', 'top1') for arm, runs in logs.runs.items()}
    lines, other = [], curves.get(reference)
    for arm, runs in curves.items():
        if arm == reference or not other or min(map(len, [*runs, *other])) < MANY:
            continue
        lines.append(speed(runs, other, (arm, reference), 'epochs'))
        lines.append(speed(other, runs, (reference, arm), 'epochs'))
    return lines


def tables(name: str) -> str:
    """The text between a part's marks."""
    part, logs = PARTS[name], collect(name)
    if not logs.runs:
        return 'No run is finished.'
    head = ('arm', 'parameters', 'rate', 'runs', 'top-1', f'against {part.reference}', 'mean recall', 'ECE', 'NLL')
    lines = [row(*head), row(*['---'] * len(head))]
    tested: Tested = []
    top1 = {arm: values_of(runs, 'final', 'top1') for arm, runs in logs.runs.items()}
    again = part.test_every == 1  # the training size is among those of the second table, with the same images
    for arm, runs in logs.runs.items():
        recall, ece, nll = (mean(values_of(runs, 'final', metric)) for metric in ('recall', 'ece', 'nll'))
        cells = [f'{logs.first(arm)["parameters"]:,}', f'{logs.first(arm)["rate"]:g}', len(runs), spread(top1[arm])]
        cells += [
            against(arm, top1, part.reference, [] if again else tested),
            f'{recall:.1f}',
            f'{ece:.1f}',
            f'{nll:.2f}',
        ]
        lines.append(row(arm, *cells))
    what = 'Top-1, mean over seeds, by input size (height x width where it is no square)'
    lines += size_tables(part, sizes_of(logs), what, tested)
    if convergence(part.reference, logs):
        lines += ['', ' '.join(convergence(part.reference, logs))]
    lines += rates_tried('top-1 on held-out training images', logs.rates, 'val', 'top1')
    return '\n'.join(lines + ending(name, 'Top-1 over the input size', logs.runs, logs.seconds))


def draw(name: str, path: Path) -> None:
    """Top-1 over the side of squares, a line for each arm and variant, from the lowest to the highest seed shaded."""
    part, values = PARTS[name], sizes_of(collect(name))
    if not values:
        return
    sizes = sorted(int(size) for size in values if size.isdecimal())
    lines = lines_of(part, values)
    trained = [(*found[:2], found[0]) for found in lines if found[1] == part.arms[found[0]].variants[0]]
    varied = max(part.arms, key=lambda arm: len(part.arms[arm].variants))
    same = [(*found[:2], found[1]) for found in lines if found[0] == varied]
    figure, axes = panels(2, (11, 4.2))
    for axis, shown, title in zip(axes, (trained, same), ('trained with', f'{varied}: tested with')):
        for (arm, variant, label), marker in zip(shown, 'osD^vP*X'):
            seeds = [list(values[str(size)][arm, variant].values()) for size in sizes]
            line(axis, sizes, seeds, label, marker=marker)
        axis.set(title=title, xlabel='input size (pixels)', ylabel='top-1 (%)', xscale='log')
        ticks(axis, sizes, list(map(str, sizes)))
    save(figure, axes, path)
