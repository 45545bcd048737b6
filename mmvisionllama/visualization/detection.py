"""Objects painted into images: boxes, masks and classes."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np


class Objects(NamedTuple):
    """Objects of one image.

    Attributes:
        boxes (ndarray): Left, top, right, bottom in pixels, ``(N, 4)``.
        masks (ndarray): ``(N, H, W)``, bool.
        labels (Sequence): Index of the class of each.
        scores (Sequence, optional): Score of each.
    """

    boxes: np.ndarray
    masks: np.ndarray
    labels: Sequence[int]
    scores: Optional[Sequence[float]] = None


#: told apart at a glance, 0 ... 255; those of the digits in the segmentation quickstart
DISTINCT = (
    (214, 30, 50), (0, 150, 80), (255, 220, 40), (0, 100, 220), (255, 140, 0),
    (150, 50, 200), (110, 225, 255), (255, 130, 200), (140, 85, 40), (255, 255, 255),
)  # fmt: skip


def colours(count: int) -> np.ndarray:
    """Distinct colours, ``(count, 3)`` in 0 ... 1: a table of ten, or for more classes hues around the circle."""
    from matplotlib.colors import hsv_to_rgb

    if count <= len(DISTINCT):
        return np.array(DISTINCT[:count]) / 255
    return hsv_to_rgb([(i / count, 0.9, 1.0) for i in range(count)])


def plot_detections(
    rows: Sequence[Tuple[np.ndarray, Objects, Objects]], classes: Sequence[str], path: str, title: str = ''
) -> None:
    """Draws images without anything, with the true and with the predicted objects, a column for each image.

    Args:
        rows: Image ``(H, W, 3)`` uint8, true objects, predicted objects.
        classes: Names of the classes.
        path: Picture to write.
        title: Title of the picture.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, len(rows), figsize=(2.6 * len(rows), 8), squeeze=False, layout='constrained')
    palette = colours(len(classes))
    for column, (image, truth, found) in zip(axes.T, rows):
        for ax, objects in zip(column, (None, truth, found)):
            ax.imshow(image)
            ax.set(xticks=[], yticks=[])
            if objects is not None:
                paint(ax, image.shape[:2], objects, classes, palette)
    for ax, name in zip(axes[:, 0], ('image', 'truth', 'predicted')):
        ax.set_ylabel(name, fontsize=12)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def paint(ax, size: Sequence[int], objects: Objects, classes: Sequence[str], palette: np.ndarray) -> List[str]:
    """Paints objects into axes that show an image of ``size`` (H, W); returns their captions."""
    overlay = np.zeros((*size, 4))
    captions = []
    for i, (box, mask, label) in enumerate(zip(objects.boxes, objects.masks, objects.labels)):
        colour = palette[label]
        overlay[mask] = (*colour, 0.55)
        left, top, right, bottom = box
        ax.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, linewidth=1.2)
        captions.append(classes[label] if objects.scores is None else f'{classes[label]} {objects.scores[i]:.2f}')
        ink = 'black' if np.dot(colour, (0.3, 0.6, 0.1)) > 0.45 else 'white'
        frame = dict(facecolor=colour, pad=0.8, linewidth=0)
        ax.text(left, top, captions[-1], fontsize=7, color=ink, va='bottom', bbox=frame)
    ax.imshow(overlay)
    return captions
