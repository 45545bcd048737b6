"""Tables and pictures of the parts on instance segmentation, for page.py."""

from pathlib import Path
from typing import Dict

from cells import Tested, Values, against, ending, lines_of, rates_tried, row, size_tables, spread
from comparison import Logs, collect, curves_of, mean, of_kind
from drawing import curve, line, panels, save, ticks
from plan import PARTS


def sizes_of(logs: Logs, key: str = 'ap') -> Dict[str, Values]:
    """Average precision of the masks, per cent, by the factor of the size, arm and variant, and seed."""
    sizes: Dict[str, Values] = {}
    for arm, runs in logs.runs.items():
        for seed, records in runs.items():
            for record in of_kind(records, 'test'):
                values = sizes.setdefault(f'{record["size"]:g}x', {})
                values.setdefault((arm, record['variant']), {})[seed] = record[key]
    return sizes


def tables(name: str) -> str:
    """The text between a part's marks."""
    part, logs = PARTS[name], collect(name)
    if not logs.runs:
        return 'No run is finished.'
    head = ('arm', 'backbone', 'GMACs', 'rate', 'runs', 'mask AP', f'against {part.reference}', 'AP at IoU 0.5')
    lines = [row(*head), row(*['---'] * len(head))]
    tested: Tested = []
    trained = [(arm, plan.variants[0]) for arm, plan in part.arms.items() if arm in logs.runs]
    ap, ap50 = ({arm: sizes_of(logs, key)['1x'][arm, variant] for arm, variant in trained} for key in ('ap', 'ap50'))
    for arm, runs in logs.runs.items():
        run = logs.first(arm)
        cells = [f'{run["backbone"]:,}', f'{run["gmacs"]:.2f}', f'{run["rate"]:g}', len(runs), spread(ap[arm])]
        # counted in the table of sizes
        lines.append(row(arm, *cells, against(arm, ap, part.reference, []), f'{mean(ap50[arm]):.1f}'))
    what = 'Mask AP, mean over seeds, by the factor that pictures are resized by'
    lines += size_tables(part, sizes_of(logs), what, tested)
    lines += rates_tried('mask AP on held-out training pictures', logs.rates, 'val', 'ap')
    return '\n'.join(lines + ending(name, 'Mask AP in training and by size', logs.runs, logs.seconds))


def draw(name: str, path: Path) -> None:
    """Average precision over epochs and over the factor of the size, the range of the seeds shaded."""
    part, logs = PARTS[name], collect(name)
    if not logs.runs:
        return
    figure, axes = panels(2, (11, 4.2))
    colours = {arm: f'C{number}' for number, arm in enumerate(part.arms)}
    for arm, runs in logs.runs.items():
        curve(axes[0], curves_of(runs, 'val', 'epoch', 'ap'), arm, colour=colours[arm])
    sizes = sizes_of(logs)
    factors = sorted(sizes, key=lambda text: float(text[:-1]))
    places = [float(factor[:-1]) for factor in factors]
    for arm, variant, label in lines_of(part, sizes):
        values = [list(sizes[factor][arm, variant].values()) for factor in factors]
        style = '-' if variant == part.arms[arm].variants[0] else ':'
        line(axes[1], places, values, label, style, colour=colours[arm])
    axes[0].set(title='training', xlabel='epoch', ylabel='mask AP (%)')
    axes[1].set(title='pictures resized', xlabel='factor', ylabel='mask AP (%)', xscale='log')
    ticks(axes[1], places, factors)
    save(figure, axes, path)
