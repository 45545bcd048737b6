"""Tables and pictures of the parts on generation, for page.py."""

from pathlib import Path
from typing import Dict, List

from cells import Tested, against, ending, rates_tried, row, smallest_p, speed, spread
from comparison import Curve, Logs, collect, curves_of, mean, values_of
from drawing import curve, panels, save
from plan import PARTS


def curves(logs: Logs) -> Dict[str, List[Curve]]:
    """Held-out loss over iterations, by arm."""
    return {arm: curves_of(runs, 'held_out', 'iter', 'loss') for arm, runs in logs.runs.items()}


def tables(name: str) -> str:
    """The text between a part's marks."""
    part, logs = PARTS[name], collect(name)
    if not logs.runs:
        return 'No run is finished.'
    base = part.reference
    head = ['arm', 'parameters', 'rate', 'runs', '1000 x held-out loss', f'against {base}']
    head += ['distance', f'against {base}']
    lines = [row(*head), row(*['---'] * len(head))]
    tested: Tested = []
    scores = [{arm: values_of(runs, 'final', key) for arm, runs in logs.runs.items()} for key in ('loss', 'distance')]
    scores[0] = {arm: {seed: 1000 * loss for seed, loss in values.items()} for arm, values in scores[0].items()}
    for arm, runs in logs.runs.items():
        cells = [f'{logs.first(arm)["parameters"]:,}', f'{logs.first(arm)["rate"]:g}', len(runs)]
        for values, where in zip(scores, ('in held-out loss', 'in distance')):
            cells += [spread(values[arm], 2), against(arm, values, base, tested, where, digits=2)]
        lines.append(row(arm, *cells))
    lines += smallest_p(tested)
    found = curves(logs)
    steps = [step for step, _ in next(iter(found.values()))[0]]
    lines += ['', '1000 x held-out loss, mean over seeds, by iteration:', '']
    lines += [row('arm', *(f'{step:,}' for step in steps)), row(*['---'] * (1 + len(steps)))]
    for arm, runs in found.items():
        means = [mean(dict(enumerate(losses))) for losses in zip(*([loss for _, loss in points] for points in runs))]
        lines.append(row(arm, *(f'{1000 * loss:.2f}' for loss in means)))
    # the lower the better: at the negative of a loss or above
    negative = {arm: [[(step, -loss) for step, loss in points] for points in runs] for arm, runs in found.items()}
    pairs = [pair for arm in found if arm != base and base in found for pair in ((arm, base), (base, arm))]
    sentences = [speed(negative[a], negative[b], (a, b), 'iterations', 'mean loss') for a, b in pairs]
    lines += ['', ' '.join(sentences)] if sentences else []
    lines += rates_tried('1000 x loss on held-out training images', logs.rates, 'held_out', 'loss', 1000, 2)
    what = f'Held-out loss by iteration, and samples of seed {part.seeds[0]}'
    return '\n'.join(lines + ending(name, what, logs.runs, logs.seconds))


def draw(name: str, path: Path) -> None:
    """Held-out loss over iterations, from the lowest to the highest seed shaded, and samples of each arm beside."""
    import matplotlib.image

    found = curves(collect(name))
    if not found:
        return
    figure, axes = panels(1 + len(found), (5 + 4 * len(found), 3.6))
    for arm, runs in found.items():
        curve(axes[0], [[(step, 1000 * loss) for step, loss in points] for points in runs], arm)
    lowest = min(loss for runs in found.values() for points in runs for _, loss in points)
    # where arms differ: the first checkpoints are ten times as high, and in the table
    axes[0].set(title='held-out loss, cut off at twice the lowest', ylim=(950 * lowest, 2000 * lowest))
    axes[0].set(xlabel='iterations', ylabel='1000 x held-out loss')
    for axis, arm in zip(axes[1:], found):
        picture = path.parent / name / f'{arm}.png'
        if picture.exists():
            axis.imshow(matplotlib.image.imread(picture))
        axis.set(title=f'samples of {arm}, a column for each class')
        axis.axis('off')
    save(figure, axes[:1], path)
