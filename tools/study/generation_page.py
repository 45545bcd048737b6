"""Tables and pictures of the parts on generation, for page.py."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from comparison import ending, mean, paired, reached, read, row
from plan import PARTS, Job

Curve = List[Tuple[int, float]]


class Results(NamedTuple):
    """What the logs of a part say; values by arm and seed."""

    rates: Dict[str, Dict[float, float]]  # arm -> rate -> held-out loss
    runs: Dict[str, dict]  # arm -> record of one of its runs
    loss: Dict[str, Dict[int, float]]
    distance: Dict[str, Dict[int, float]]
    curves: Dict[str, Dict[int, Curve]]  # (iteration, held-out loss)
    seconds: int


def collect(name: str) -> Results:
    """Reads the logs of a part."""
    part, results, seconds = PARTS[name], Results({}, {}, {}, {}, {}, 0), 0
    for arm in part.arms:
        for rate in part.rates:
            records = read(Job(name, arm, 0, rate))
            if records:
                losses = [record['loss'] for record in records if record['kind'] == 'held_out']
                results.rates.setdefault(arm, {})[rate] = losses[-1]
                seconds += records[-1]['seconds']
        for seed in part.seeds:
            records = read(Job(name, arm, seed))
            if not records:
                continue
            results.runs[arm], seconds = records[0], seconds + records[-1]['seconds']
            final = next(record for record in records if record['kind'] == 'final')
            results.loss.setdefault(arm, {})[seed] = final['loss']
            results.distance.setdefault(arm, {})[seed] = final['distance']
            points = [(record['iter'], record['loss']) for record in records if record['kind'] == 'held_out']
            results.curves.setdefault(arm, {})[seed] = points
    return results._replace(seconds=seconds)


def tables(name: str) -> str:
    """The text between a part's marks."""
    part, results = PARTS[name], collect(name)
    if not results.loss:
        return 'No run is finished.'
    base = part.reference
    head = (
        'arm',
        'parameters',
        'rate',
        'runs',
        '1000 x held-out loss',
        f'against {base}',
        'distance',
        f'against {base}',
    )
    lines = [row(*head), row(*['---'] * len(head))]
    for arm, run in results.runs.items():
        cells = []
        for values, scale in ((results.loss, 1000), (results.distance, 1)):
            ours = {seed: scale * value for seed, value in values[arm].items()}
            theirs = {seed: scale * value for seed, value in values.get(base, {}).items()}
            cells.append(f'{mean(ours):.2f} ({min(ours.values()):.2f} to {max(ours.values()):.2f})')
            cells.append((paired(ours, theirs, digits=2) or '') if arm != base else '')
        lines.append(row(arm, f'{run["parameters"]:,}', f'{run["rate"]:g}', len(results.loss[arm]), *cells))
    shown = list(next(iter(results.curves.values())).values())[0]
    lines += ['', '1000 x held-out loss, mean over seeds, by iteration:', '']
    lines += [row('arm', *(f'{step:,}' for step, _ in shown)), row(*['---'] * (1 + len(shown)))]
    means = {}
    for arm, curves in results.curves.items():
        means[arm] = [mean(dict(enumerate(losses))) for losses in zip(*([y for _, y in c] for c in curves.values()))]
        lines.append(row(arm, *(f'{1000 * loss:.2f}' for loss in means[arm])))
    sentences = []
    for arm in means:
        for first, second in ((arm, base), (base, arm)) if arm != base and base in means else ():
            curves = [[(step, -loss) for step, loss in points] for points in results.curves[first].values()]
            step, last = reached(curves, -means[second][-1]), shown[-1][0]
            when = f'after {step:,} of {last:,} iterations' if step else f'in none of {last:,} iterations'
            sentences.append(f'{first} is at the final mean loss of {second} {when}.')
    if sentences:
        lines += ['', ' '.join(sentences)]
    rates = '; '.join(
        f'{arm} ' + ', '.join(f'{1000 * loss:.2f} at {rate:g}' for rate, loss in found.items())
        for arm, found in results.rates.items()
    )
    lines += [
        '',
        f'Rates tried (1000 x loss on held-out training images): {rates}.',
        '',
        *ending(
            name, f'Held-out loss by iteration, and samples of seed {part.seeds[0]}', results.loss, results.seconds
        ),
    ]
    return '\n'.join(lines)


def draw(name: str, path: Path) -> None:
    """Held-out loss over iterations, from the lowest to the highest seed shaded, and samples of each arm beside."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    results = collect(name)
    if not results.curves:
        return
    arms = list(results.curves)
    figure, axes = plt.subplots(1, 1 + len(arms), figsize=(5 + 4 * len(arms), 3.6), layout='constrained')
    for arm in arms:
        steps = [step for step, _ in next(iter(results.curves[arm].values()))]
        losses = list(zip(*([y for _, y in c] for c in results.curves[arm].values())))
        (line,) = axes[0].plot(steps, [sum(seeds) / len(seeds) for seeds in losses], marker='o', label=arm)
        axes[0].fill_between(steps, list(map(min, losses)), list(map(max, losses)), color=line.get_color(), alpha=0.15)
    axes[0].set(xlabel='iterations', ylabel='held-out loss', yscale='log')
    axes[0].grid(alpha=0.3, which='both')
    axes[0].legend(fontsize=9)
    for axis, arm in zip(axes[1:], arms):
        picture = path.parent / name / f'{arm}.png'
        if picture.exists():
            axis.imshow(plt.imread(picture))
        axis.set(title=f'samples of {arm}, a column for each class')
        axis.axis('off')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
