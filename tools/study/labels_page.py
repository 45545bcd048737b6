"""Table and picture of top-1 over the number of labels, for page.py."""

from pathlib import Path
from typing import Dict, List

from cells import Tested, note, row, smallest_p, spread
from comparison import Logs, collect, diverged, paired, values_of
from drawing import line, panels, save, ticks
from plan import LABELS, PARTS

#: VisionLLaMA, and the ViT that it is compared with at every number
OURS, THEIRS = 'visionllama', 'vit_deit_init'


def shares() -> List[Logs]:
    """The logs of the parts in which both arms have all of their runs."""
    found = []
    for name in LABELS:
        logs, seeds = collect(name), set(PARTS[name].seeds) - set(diverged(name))
        if all(seeds == set(logs.runs.get(arm, ())) for arm in (OURS, THEIRS)) and seeds:
            found.append(logs)
    return found


def top1(logs: Logs, arm: str) -> Dict[int, float]:
    """Top-1 on all test images, by seed."""
    return values_of(logs.runs[arm], 'final', 'top1')


def tables(name: str) -> str:
    """The text between the marks."""
    if not shares():
        return 'No number of labels has all of its runs.'
    lines = [row('labels', 'epochs', 'seeds', OURS, THEIRS, 'difference'), row(*['---'] * 6)]
    tested: Tested = []
    for logs in shares():
        run, ours, theirs = logs.first(OURS), top1(logs, OURS), top1(logs, THEIRS)
        difference = paired(ours, theirs)
        note(difference, f'with {run["images"]:,} labels', tested)
        lines.append(row(f'{run["images"]:,}', run['epochs'], len(ours), spread(ours), spread(theirs), difference))
    lines += smallest_p(tested)
    if len(shares()) > 1:
        lines += ['', f'![Top-1 over the number of labels](results/study/{name}.png)']
    return '\n'.join(lines)


def draw(name: str, path: Path) -> None:
    """Top-1 over the number of labels, from the lowest to the highest seed shaded; nothing of one number alone."""
    found = shares()
    if len(found) < 2:
        return
    images = [logs.first(OURS)['images'] for logs in found]
    figure, (axis,) = panels(1, (5.5, 4.2))
    for arm, marker in ((OURS, 'o'), (THEIRS, 's')):
        line(axis, images, [list(top1(logs, arm).values()) for logs in found], arm, marker=marker)
    axis.set(xlabel='labelled training images', ylabel='top-1 (%)', xscale='log')
    ticks(axis, images, [f'{number:,}' for number in images])
    save(figure, [axis], path)
