"""What the pictures of all kinds of parts have in common."""

from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from comparison import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(count: int, size: Tuple[float, float]) -> Tuple['Figure', List['Axes']]:
    """A figure of panels beside each other."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=size, layout='constrained', squeeze=False)
    return figure, list(axes[0])


def line(
    axis: 'Axes',
    steps: Sequence[float],
    seeds: Sequence[Sequence[float]],
    label: str,
    style: str = '-',
    marker: str = 'o',
    colour: Optional[str] = None,
) -> None:
    """The mean over seeds at every step, and their range shaded; ``seeds`` has the values of each step."""
    means = [sum(values) / len(values) for values in seeds]
    (drawn,) = axis.plot(steps, means, style, marker=marker, color=colour, label=label)
    axis.fill_between(steps, list(map(min, seeds)), list(map(max, seeds)), color=drawn.get_color(), alpha=0.15)


def curve(axis: 'Axes', runs: Sequence[Curve], label: str, style: str = '-', colour: Optional[str] = None) -> None:
    """The mean of some runs over epochs or iterations, and their range shaded."""
    values = list(zip(*([value for _, value in points] for points in runs)))
    line(axis, [step for step, _ in runs[0]], values, label, style, colour=colour)


def ticks(axis: 'Axes', places: Sequence[float], labels: Sequence[str]) -> None:
    """Marks on a logarithmic axis of x at these places alone."""
    axis.set_xticks(places, labels)
    axis.minorticks_off()


def save(figure: 'Figure', axes: Sequence['Axes'], path: Path) -> None:
    """Grid and legend for panels with lines, and the file."""
    import matplotlib.pyplot as plt

    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
