"""Tables and pictures of the parts on instance segmentation, for page.py."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from comparison import Values, ending, lines_of, mean, of_all, paired, read, row, size_tables
from plan import PARTS, Job

Curve = List[Tuple[int, float]]


class Results(NamedTuple):
    """What the logs of a part say; average precision of the masks, per cent."""

    rates: Dict[str, Dict[float, float]]  # arm -> rate -> on held-out training pictures
    runs: Dict[str, dict]  # arm -> record of one of its runs
    ap: Dict[str, Dict[int, float]]  # arm -> seed -> at the size of the pictures
    ap50: Dict[str, Dict[int, float]]
    sizes: Dict[str, Values]
    curves: Dict[str, Dict[int, Curve]]  # arm -> seed -> (epoch, average precision)
    seconds: int


def collect(name: str) -> Results:
    """Reads the logs of a part."""
    part, results, seconds = PARTS[name], Results({}, {}, {}, {}, {}, {}, 0), 0
    for arm, plan in part.arms.items():
        for rate in part.rates:
            records = read(Job(name, arm, 0, rate))
            if records:
                found = [record['ap'] for record in records if record['kind'] == 'val']
                results.rates.setdefault(arm, {})[rate] = found[-1]
                seconds += records[-1]['seconds']
        for seed in part.seeds:
            records = read(Job(name, arm, seed))
            if not records:
                continue
            results.runs[arm], seconds = records[0], seconds + records[-1]['seconds']
            for record in records:
                if record['kind'] == 'test':
                    values = results.sizes.setdefault(f'{record["size"]:g}x', {})
                    values.setdefault((arm, record['variant']), {})[seed] = record['ap']
                    if record['size'] == 1 and record['variant'] == plan.variants[0]:
                        results.ap.setdefault(arm, {})[seed] = record['ap']
                        results.ap50.setdefault(arm, {})[seed] = record['ap50']
            points = [(record['epoch'], record['ap']) for record in records if record['kind'] == 'val']
            results.curves.setdefault(arm, {})[seed] = points
    return results._replace(seconds=seconds)


def tables(name: str) -> str:
    """The text between a part's marks."""
    part, results = PARTS[name], collect(name)
    if not results.ap:
        return 'No run is finished.'
    head = ('arm', 'backbone', 'GMACs', 'rate', 'runs', 'mask AP', f'against {part.reference}', 'AP at IoU 0.5')
    lines = [row(*head), row(*['---'] * len(head))]
    tested: List[Tuple[float, str]] = []
    for arm, run in results.runs.items():
        values = results.ap[arm]
        other = paired(values, results.ap.get(part.reference, {})) if arm != part.reference else None
        tested += of_all(arm, other)
        lines.append(
            row(
                arm,
                f'{run["backbone"]:,}',
                f'{run["gmacs"]:.2f}',
                f'{run["rate"]:g}',
                len(values),
                f'{mean(values):.1f} ({min(values.values()):.1f} to {max(values.values()):.1f})',
                other or '',
                f'{mean(results.ap50[arm]):.1f}',
            )
        )
    lines += size_tables(
        part, results.sizes, 'Mask AP, mean over seeds, by the factor that pictures are resized by', tested
    )
    rates = '; '.join(
        f'{arm} ' + ', '.join(f'{value:.1f} at {rate:g}' for rate, value in found.items())
        for arm, found in results.rates.items()
    )
    lines += ['', f'Rates tried (mask AP on held-out training pictures): {rates}.', '']
    return '\n'.join(lines + ending(name, 'Mask AP in training and by size', results.ap, results.seconds))


def draw(name: str, path: Path) -> None:
    """Average precision over epochs and over the factor of the size, the range of the seeds shaded."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    part, results = PARTS[name], collect(name)
    if not results.curves:
        return
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')

    def line(axis, points, values, label, style='-'):
        means = [sum(seeds) / len(seeds) for seeds in values]
        (drawn,) = axis.plot(points, means, style, marker='o', label=label)
        axis.fill_between(points, list(map(min, values)), list(map(max, values)), color=drawn.get_color(), alpha=0.15)

    for arm, curves in results.curves.items():
        epochs = [epoch for epoch, _ in next(iter(curves.values()))]
        line(axes[0], epochs, list(zip(*([value for _, value in curve] for curve in curves.values()))), arm)
    factors = sorted(results.sizes, key=lambda text: float(text[:-1]))
    for arm, variant, label in lines_of(part, results.sizes):
        values = [list(results.sizes[factor][arm, variant].values()) for factor in factors]
        style = '-' if variant == part.arms[arm].variants[0] else ':'
        line(axes[1], [float(factor[:-1]) for factor in factors], values, label, style)
    axes[0].set(title='training', xlabel='epoch', ylabel='mask AP (%)')
    axes[1].set(title='pictures resized', xlabel='factor', ylabel='mask AP (%)', xscale='log')
    axes[1].set_xticks([float(factor[:-1]) for factor in factors], factors)
    axes[1].minorticks_off()
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
