"""Tables and pictures of the parts on pre-training, for page.py."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from comparison import ending, mean, paired, reached, read, row
from plan import PARTS, SCRATCH, Job

Curve = List[Tuple[int, float]]


class Results(NamedTuple):
    """What the logs of a part say; values by arm and seed."""

    rates: Dict[str, Dict[float, float]]  # arm -> rate -> top-1 of the probe on held-out training images
    runs: Dict[str, dict]  # arm -> record of one of its runs, with the encoder's parameters
    probed: Dict[str, Dict[int, float]]
    tuned: Dict[str, Dict[int, float]]
    scratch: Dict[str, Dict[int, float]]  # top-1 of the same network, trained from scratch
    curves: Dict[str, Dict[int, Curve]]  # (epoch, top-1) of the fine-tuning
    scratch_curves: Dict[str, Dict[int, Curve]]
    losses: Dict[str, Dict[int, Curve]]  # (epoch, mean loss) of the pre-training
    seconds: int


def _curve(records: List[dict]) -> Curve:
    return [(record['epoch'], record['top1']) for record in records if record['kind'] == 'val']


def _losses(records: List[dict]) -> Curve:
    found: Dict[int, List[float]] = {}
    for record in records:
        if record['kind'] == 'train':
            found.setdefault(record['epoch'], []).append(record['loss'])
    return [(epoch, sum(losses) / len(losses)) for epoch, losses in sorted(found.items())]


def collect(name: str) -> Results:
    """Reads the logs of a part, and those of the same networks from scratch."""
    part, results, seconds = PARTS[name], Results({}, {}, {}, {}, {}, {}, {}, {}, 0), 0
    for arm, plan in part.arms.items():
        for rate in part.rates:
            records = read(Job(name, arm, 0, rate))
            if records:
                results.rates.setdefault(arm, {})[rate] = _curve(records)[-1][1]
                seconds += records[-1]['seconds']
        for seed in part.seeds:
            records = read(Job(name, arm, seed))
            if not records:
                continue
            seconds += records[-1]['seconds']
            kinds = {record['kind']: record for record in records}
            results.runs[arm] = dict(records[0], parameters=kinds['probe']['encoder'])
            results.probed.setdefault(arm, {})[seed] = kinds['probe']['top1']
            results.tuned.setdefault(arm, {})[seed] = kinds['final']['top1']
            results.curves.setdefault(arm, {})[seed] = _curve(records)
            results.losses.setdefault(arm, {})[seed] = _losses(records[: records.index(kinds['probe'])])
            other = read(Job(SCRATCH, plan.fine_tuned, seed))
            if other and kinds['probe']['as_scratch']:
                final = next(record for record in other if record['kind'] == 'final')
                results.scratch.setdefault(arm, {})[seed] = final['top1']
                results.scratch_curves.setdefault(arm, {})[seed] = _curve(other)
    return results._replace(seconds=seconds)


def _cell(values: Dict[int, float]) -> str:
    return f'{mean(values):.1f} ({min(values.values()):.1f} to {max(values.values()):.1f})'


def tables(name: str) -> str:
    """The text between a part's marks."""
    part, results = PARTS[name], collect(name)
    if not results.tuned:
        return 'No run is finished.'
    base = part.reference
    against = f'against {base}'
    head = ('arm', 'encoder', 'rate', 'runs', 'probe', against, 'fine-tuned', against, 'against from scratch')
    lines = [row(*head), row(*['---'] * len(head))]
    for arm, run in results.runs.items():
        cells = []
        for values in (results.probed, results.tuned):
            other = paired(values[arm], values.get(base, {})) if arm != base else None
            cells += [_cell(values[arm]), other or '']
        cells.append(paired(results.tuned[arm], results.scratch.get(arm, {})) or '')
        lines.append(row(arm, f'{run["parameters"]:,}', f'{run["rate"]:g}', len(results.tuned[arm]), *cells))
    sentences = []
    for arm, curves in results.scratch_curves.items():
        ends = [curve[-1][1] for curve in curves.values()]
        epoch, last = reached(list(results.curves[arm].values()), sum(ends) / len(ends)), curves[min(curves)][-1][0]
        when = f'after epoch {epoch} of {last}' if epoch else f'in none of {last} epochs'
        sentences.append(f'Fine-tuned, {arm} is at the final mean of the same network from scratch {when}.')
    lines += ['', ' '.join(sentences)] if sentences else []
    rates = '; '.join(
        f'{arm} ' + ', '.join(f'{value:.1f} at {rate:g}' for rate, value in found.items())
        for arm, found in results.rates.items()
    )
    lines += ['', f'Rates tried (top-1 of the probe on held-out training images): {rates}.']
    return '\n'.join(
        [*lines, '', *ending(name, 'Loss of pre-training, and top-1 while fine-tuning', results.tuned, results.seconds)]
    )


def draw(name: str, path: Path) -> None:
    """Loss of pre-training, and top-1 while fine-tuning beside that from scratch; the range of the seeds shaded."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    results = collect(name)
    if not results.curves:
        return
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    shown = [(axes[0], results.losses, '-', ''), (axes[1], results.curves, '-', 'fine-tuned')]
    for axis, found, style, what in [*shown, (axes[1], results.scratch_curves, ':', 'from scratch')]:
        for arm, curves in found.items():
            steps = [step for step, _ in next(iter(curves.values()))]
            values = list(zip(*([value for _, value in curve] for curve in curves.values())))
            colour = f'C{list(results.curves).index(arm)}'
            means = [sum(seeds) / len(seeds) for seeds in values]
            axis.plot(steps, means, style, color=colour, label=f'{arm}, {what}' if what else arm)
            axis.fill_between(steps, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.15)
    axes[0].set(title='pre-training', xlabel='epoch', ylabel='loss on hidden patches')
    axes[1].set(title='5,000 labels', xlabel='epoch', ylabel='top-1 (%)')
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
