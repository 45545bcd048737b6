"""Label maps as pictures, and painted over pictures."""

from typing import Sequence, Tuple

import numpy as np


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]], opacity: float = 0.6
) -> np.ndarray:
    """Paints every class in its colour.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        labels: Class of each pixel, ``(H, W)``; pixels of classes that the palette lacks stay as they are.
        palette: RGB colour of each class.
        opacity: Of the colours, 0 ... 1.

    Returns:
        ndarray: ``(H, W, 3)`` uint8, RGB.

    Raises:
        ValueError: If picture and labels have different sizes.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f'the picture is {image.shape[:2]} and the label map {labels.shape}: they must be of one size')
    colours = np.asarray(palette, dtype=float)
    known = (labels >= 0) & (labels < len(colours))
    painted = image.astype(float)
    painted[known] += opacity * (colours[labels[known]] - painted[known])
    return painted.round().astype('uint8')


def plot_segmentations(
    rows: Sequence[Tuple[np.ndarray, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    path: str,
    title: str = '',
) -> None:
    """Draws pictures, their labels and what was predicted, side by side, over a legend.

    Label maps are painted flat, so that each class has the one colour of the legend; unlabelled pixels are white.

    Args:
        rows: Picture ``(H, W, 3)`` uint8, labels ``(H, W)`` and predicted labels ``(H, W)`` of each row.
        classes: Names of the classes.
        palette: Their RGB colours.
        path: File to write.
        title: Title of the whole.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    figure, axes = plt.subplots(len(rows), 3, figsize=(9, 2.9 * len(rows)), squeeze=False, layout='constrained')
    for line, (image, truth, prediction) in zip(axes, rows):
        blank = np.full_like(image, 255)
        shown = image, *(overlay(blank, labels, palette, opacity=1.0) for labels in (truth, prediction))
        right = 100 * (truth == prediction).mean()
        height, width = truth.shape
        titles = f'{width} x {height}', 'labels', f'prediction: {right:.1f} % of the pixels right'
        for ax, pixels, text in zip(line, shown, titles):
            ax.imshow(pixels, interpolation='nearest')
            ax.set_title(text, fontsize=10)
            ax.axis('off')
    patches = [
        Patch(facecolor=np.asarray(colour) / 255, edgecolor='black', linewidth=0.5, label=name)
        for name, colour in zip(classes, palette)
    ]
    figure.legend(
        handles=patches,
        loc='outside lower center',
        ncols=min(len(patches), 11),
        fontsize=11,
        handlelength=1.2,
        handleheight=1.2,
        handletextpad=0.4,
        columnspacing=1.1,
    )
    figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=90)
    plt.close(figure)
