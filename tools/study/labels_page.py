"""Table and picture of top-1 over the number of labels, for page.py."""

from pathlib import Path
from typing import Dict, List, NamedTuple

from comparison import mean, paired, read, row
from plan import LABELS, PARTS, Job

#: VisionLLaMA, and the ViT that it is compared with at every number
OURS, THEIRS = 'visionllama', 'vit_deit_init'


class Share(NamedTuple):
    """What the logs of one of the parts say."""

    images: int
    epochs: int
    top1: Dict[str, Dict[int, float]]  # arm -> seed -> top-1 on all test images


def collect() -> List[Share]:
    """The parts in which both arms have runs."""
    found = []
    for name in LABELS:
        first, top1 = {}, {}
        for arm in (OURS, THEIRS):
            for seed in PARTS[name].seeds:
                records = read(Job(name, arm, seed))
                if records:
                    first = records[0]
                    final = next(record for record in records if record['kind'] == 'final')
                    top1.setdefault(arm, {})[seed] = final['top1']
        if len(top1) == 2:
            found.append(Share(first['images'], first['epochs'], top1))
    return found


def tables() -> str:
    """The text between the marks."""
    shares = collect()
    if not shares:
        return 'No run is finished.'
    lines = [row('labels', 'epochs', OURS, THEIRS, 'difference'), row(*['---'] * 5)]
    for share in shares:
        cells = [
            f'{mean(values):.1f} ({min(values.values()):.1f} to {max(values.values()):.1f})'
            for values in (share.top1[OURS], share.top1[THEIRS])
        ]
        difference = paired(share.top1[OURS], share.top1[THEIRS])
        lines.append(row(f'{share.images:,}', share.epochs, *cells, difference or ''))
    return '\n'.join([*lines, '', '![Top-1 over the number of labels](results/study/labels.png)'])


def draw(path: Path) -> None:
    """Top-1 over the number of labels, from the lowest to the highest seed shaded."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    shares = collect()
    if not shares:
        return
    figure, axis = plt.subplots(figsize=(5.5, 4.2), layout='constrained')
    images = [share.images for share in shares]
    for arm, marker in ((OURS, 'o'), (THEIRS, 's')):
        seeds = [list(share.top1[arm].values()) for share in shares]
        (line,) = axis.plot(images, [sum(values) / len(values) for values in seeds], marker=marker, label=arm)
        axis.fill_between(images, list(map(min, seeds)), list(map(max, seeds)), color=line.get_color(), alpha=0.15)
    axis.set(xlabel='labelled training images', ylabel='top-1 (%)', xscale='log')
    axis.set_xticks(images, [f'{number:,}' for number in images])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
