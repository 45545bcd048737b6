"""A grid of classified images, wrong ones first."""

from typing import Optional, Sequence


def plot_predictions(
    results: Sequence[dict], path: str, classes: Optional[Sequence[str]] = None, count: int = 40
) -> int:
    """Draws images with their predicted class and its score; wrong predictions come first, in red.

    Args:
        results: Data samples as ``tools/test.py --out`` stores them: dicts with ``img_path``, ``pred_label``,
            ``gt_label`` and ``pred_score``.
        path: Picture to write.
        classes: Names of the classes.
        count: Images in the grid.

    Returns:
        int: Number of wrong predictions among all results.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    rows = []
    for result in results:
        truth, guess = int(result['gt_label']), int(result['pred_label'])
        rows.append((truth == guess, float(result['pred_score'].max()), truth, guess, result['img_path']))
    rows.sort(key=lambda row: row[:2])  # wrong first, then the least certain
    wrong = sum(not row[0] for row in rows)
    # the least certain half of the grid, and certain ones spread over the rest
    shown = rows[: count // 2]
    rest = rows[count // 2 :]
    shown += rest[:: max(len(rest) // max(count - len(shown), 1), 1)][: count - len(shown)]
    columns = 10
    figure, axes = plt.subplots(-(-len(shown) // columns), columns, figsize=(columns * 1.1, len(shown) / columns * 1.5))
    for ax in axes.flat:
        ax.axis('off')
    name = (lambda i: classes[i]) if classes else str
    for ax, (right, score, truth, guess, image) in zip(axes.flat, shown):
        ax.imshow(plt.imread(image), cmap='gray')
        text = f'{name(guess)} ({score:.2f})' + ('' if right else f'\nis {name(truth)}')
        ax.set_title(text, fontsize=8, color='black' if right else 'red')
    figure.suptitle(f'{len(rows) - wrong} of {len(rows)} right; least certain first', fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return wrong
