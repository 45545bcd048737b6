"""Learning curves from the logs that mmengine writes."""

import json
from pathlib import Path
from typing import Dict, List, Tuple

Curve = Tuple[List[int], List[float]]


def read_scalars(work_dir: str) -> List[dict]:
    """All records of a work directory's ``*/vis_data/scalars.json``, oldest run first.

    Raises:
        FileNotFoundError: If the folder holds no such log.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'no training log (*/vis_data/scalars.json) in {work_dir}: was a model trained there?')
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]


def curves(records: List[dict], metric: str) -> Tuple[Curve, Curve]:
    """Training loss per iteration, and ``metric`` per evaluation.

    A later run in the same folder takes the place of what earlier ones logged from its first step on: a resumed
    training continues the curve, a repeated one starts it anew.

    Returns:
        tuple: ``(iterations, losses)`` and ``(epochs or iterations, values)``.
    """
    losses = [(r['step'], r['loss']) for r in records if 'loss' in r and 'lr' in r]
    values = [(r['step'], r[metric]) for r in records if metric in r]
    return tuple(_newest(points) for points in (losses, values))


def evaluation_unit(records: List[dict]) -> str:
    """What the evaluations are counted in, ``'epoch'`` or ``'iteration'``: only trainings by epoch log their epoch."""
    return 'epoch' if any('epoch' in record for record in records) else 'iteration'


def _newest(points: List[Tuple[int, float]]) -> Curve:
    steps: List[int] = []
    values: List[float] = []
    for step, value in points:
        while steps and steps[-1] >= step:
            steps.pop()
            values.pop()
        steps.append(step)
        values.append(value)
    return steps, values


def plot_learning_curves(
    work_dirs: Dict[str, str], metric: str, path: str, title: str = '', factor: float = 1.0
) -> None:
    """Draws loss and metric of several trainings side by side.

    Args:
        work_dirs: Label to work directory.
        metric: Name of the metric in the log, e.g. ``'accuracy/top1'``.
        path: Picture to write.
        title: Title of the picture.
        factor: Of the metric's values, 100 for those logged as fractions.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    for label, work_dir in work_dirs.items():
        records = read_scalars(work_dir)
        loss, (steps, values) = curves(records, metric)
        values = [factor * value for value in values]
        left.plot(*loss, label=label)
        right.plot(steps, values, marker='o', label=f'{label}: {values[-1]:.1f}' if values else label)
    left.set(xlabel='iteration', ylabel='training loss')
    right.set(xlabel=evaluation_unit(records), ylabel=metric)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
