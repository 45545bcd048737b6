"""Learning curves from the logs that mmengine writes."""

import json
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

Curve = Tuple[List[int], List[float]]


def read_scalars(work_dir: str) -> List[dict]:
    """All records of a work directory's ``*/vis_data/scalars.json``, oldest run first.

    Raises:
        FileNotFoundError: If the folder holds no such log.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'no training log (*/vis_data/scalars.json) in {work_dir}: was a model trained there?')
    return [record for file in files for record in _records(file)]


def _records(file: Path) -> Iterator[dict]:
    """Records of one log; a last line that a kill has cut off is passed over."""
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines):
                raise


def curves(records: List[dict], metric: str) -> Tuple[Curve, Curve]:
    """Training loss per iteration, and ``metric`` per evaluation.

    A later run in the same folder takes the place of what earlier ones logged from its first step on: a resumed
    training continues the curve, a repeated one starts it anew.

    Returns:
        tuple: ``(iterations, losses)`` and ``(epochs or iterations, values)``.
    """
    losses: List[Tuple[int, float]] = []
    values: List[Tuple[int, float, int]] = []  # and the iteration of the last loss before it
    for record in records:
        step = record.get('step')
        if 'loss' in record and 'lr' in record:
            _cut(losses, 0, step)
            _cut(values, 2, step)
            losses.append((step, record['loss']))
        if metric in record:
            _cut(values, 0, step)
            values.append((step, record[metric], losses[-1][0] if losses else 0))
    return tuple(([point[0] for point in points], [point[1] for point in points]) for points in (losses, values))


def evaluation_unit(records: List[dict]) -> str:
    """What the evaluations are counted in, ``'epoch'`` or ``'iteration'``: only trainings by epoch log their epoch."""
    return 'epoch' if any('epoch' in record for record in records) else 'iteration'


def _cut(points: List[tuple], column: int, step: int) -> None:
    """Takes away the last points that are not before a step."""
    while points and points[-1][column] >= step:
        points.pop()


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
