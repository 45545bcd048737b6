"""Pictures of what the analyses compute."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import torch

from ..analysis.attention_rank import LayerRank
from ..analysis.confidence_calibration import Reliability
from ..analysis.resolution_transfer import main_metric

#: endings of pictures that matplotlib writes
FIGURES = ('.png', '.pdf', '.svg', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.eps', '.ps')


def draw_reliability(result: Reliability, path: str, title: str = '') -> None:
    """Writes a reliability diagram: accuracy over confidence, and how often each confidence occurs."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    width = (result.edges[1:] - result.edges[:-1]).numpy()
    centers = result.edges[:-1].numpy() + width / 2
    filled = result.count.numpy() > 0
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(5, 6), sharex=True, height_ratios=(3, 1), layout='constrained')
    top.bar(centers[filled], result.accuracy.numpy()[filled], width[filled], edgecolor='white', label='accuracy')
    top.plot(result.confidence.numpy()[filled], result.accuracy.numpy()[filled], 'o', color='black', markersize=3)
    top.plot([0, 1], [0, 1], '--', color='grey', label='perfect calibration')
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel='accuracy', title=f'{title}\nECE {result.expected_error:.4f}'.strip())
    top.legend(loc='best')
    bottom.bar(centers, result.count.numpy() / result.count.sum().item(), width, edgecolor='white', color='grey')
    bottom.set(xlabel='confidence', ylabel='part of images')
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_ranks(layers: List[LayerRank], path: str, title: str = '') -> None:
    """Writes the cumulative singular values of every layer into one picture."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
    colors = plt.get_cmap('viridis')
    for layer in layers:
        k = torch.arange(1, len(layer.cumulative) + 1) / len(layer.cumulative)
        label = f'layer {layer.layer}: effective rank {layer.effective_rank:.1f}'
        axes.plot(k, layer.cumulative, color=colors(layer.layer / max(len(layers) - 1, 1)), label=label)
    axes.set(xlabel='largest singular values, part of all', ylabel='part of their sum', title=title, ylim=(0, 1.02))
    axes.legend(fontsize='x-small')
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_transfer(
    rows: Sequence[Dict[str, Any]],
    path: Union[str, Path],
    metric: Optional[str] = None,
    anchor: Optional[float] = None,
    title: str = '',
) -> None:
    """Draws a metric over the side of square inputs, one line per variant, and marks the ``anchor`` (training) size."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    metric = metric or main_metric(rows)
    rows = [row for row in rows if isinstance(row['size'], int)]
    figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
    for variant, marker in zip(dict.fromkeys(row['variant'] for row in rows), 'osD^vP*X' * len(rows)):
        points = sorted((row['size'], row[metric]) for row in rows if row['variant'] == variant)
        axes.plot(*zip(*points), marker=marker, label=variant)
    if anchor:
        axes.axvline(anchor, color='grey', linestyle=':', label=f'trained at {anchor:g}')
    axes.set(xlabel='input size (pixels)', ylabel=metric, title=title, xticks=sorted({row['size'] for row in rows}))
    axes.grid(alpha=0.3)
    axes.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
