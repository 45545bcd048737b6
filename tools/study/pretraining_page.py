"""Tables and pictures of the parts on pre-training, for page.py."""

from pathlib import Path
from typing import Dict, List

from cells import Tested, against, ending, note, rates_tried, row, smallest_p, speed, spread
from comparison import Curve, Logs, collect, curves_of, of_kind, paired, values_of
from drawing import curve, panels, save
from plan import PARTS, SCRATCH


def losses(records: List[dict]) -> Curve:
    """Mean loss of every epoch of the pre-training, whose records come before the probe's."""
    found: Dict[int, List[float]] = {}
    for record in records[: records.index(of_kind(records, 'probe')[0])]:
        if record['kind'] == 'train':
            found.setdefault(record['epoch'], []).append(record['loss'])
    return [(epoch, sum(values) / len(values)) for epoch, values in sorted(found.items())]


def from_scratch(name: str, logs: Logs) -> Dict[str, Dict[int, List[dict]]]:
    """Logs of the same networks and seeds from scratch, for arms that have such."""
    found: Dict[str, Dict[int, List[dict]]] = {}
    scratch = collect(SCRATCH).runs
    for arm, runs in logs.runs.items():
        for seed, records in runs.items():
            other = scratch.get(PARTS[name].arms[arm].fine_tuned, {}).get(seed)
            if other and of_kind(records, 'probe')[0]['as_scratch']:
                found.setdefault(arm, {})[seed] = other
    return found


def tables(name: str) -> str:
    """The text between a part's marks."""
    part, logs = PARTS[name], collect(name)
    if not logs.runs:
        return 'No run is finished.'
    base, scratch = part.reference, from_scratch(name, logs)
    head = ['arm', 'encoder', 'rate', 'runs', 'probe', f'against {base}']
    head += ['fine-tuned', f'against {base}', 'against from scratch']
    lines = [row(*head), row(*['---'] * len(head))]
    tested: Tested = []
    probed, tuned = (
        {arm: values_of(runs, kind, 'top1') for arm, runs in logs.runs.items()} for kind in ('probe', 'final')
    )
    for arm, runs in logs.runs.items():
        encoder = next(iter(values_of(runs, 'probe', 'encoder').values()))
        cells = [f'{encoder:,}', f'{logs.first(arm)["rate"]:g}', len(runs)]
        for values, where in ((probed, 'in the probe'), (tuned, 'fine-tuned')):
            cells += [spread(values[arm]), against(arm, values, base, tested, where)]
        gain = paired(tuned[arm], values_of(scratch.get(arm, {}), 'final', 'top1'))
        note(gain, f'{arm} against from scratch', tested)
        lines.append(row(arm, *cells, gain or ''))
    lines += smallest_p(tested)
    sentences = [
        'Fine-tuned, '
        + speed(
            curves_of(logs.runs[arm], 'val', 'epoch', 'top1'),
            curves_of(runs, 'val', 'epoch', 'top1'),
            (arm, f'{PARTS[name].arms[arm].fine_tuned} from scratch'),
            'epochs',
        )
        for arm, runs in scratch.items()
    ]
    lines += ['', ' '.join(sentences)] if sentences else []
    lines += rates_tried('top-1 of the probe on held-out training images', logs.rates, 'val', 'top1')
    return '\n'.join(lines + ending(name, 'Loss of pre-training, and top-1 while fine-tuning', logs.runs, logs.seconds))


def draw(name: str, path: Path) -> None:
    """Loss of pre-training, and top-1 while fine-tuning beside that from scratch; the range of the seeds shaded."""
    logs = collect(name)
    if not logs.runs:
        return
    scratch = from_scratch(name, logs)
    figure, axes = panels(2, (11, 4.2))
    for number, (arm, runs) in enumerate(logs.runs.items()):
        curve(axes[0], [losses(records) for records in runs.values()], arm, colour=f'C{number}')
        tuned = curves_of(runs, 'val', 'epoch', 'top1')
        curve(axes[1], tuned, f'{arm}, fine-tuned', colour=f'C{number}')
        if arm in scratch:
            other = curves_of(scratch[arm], 'val', 'epoch', 'top1')
            curve(axes[1], other, f'{arm}, from scratch', ':', colour=f'C{number}')
    axes[0].set(title='pre-training', xlabel='epoch', ylabel='loss on hidden patches')
    axes[1].set(title='5,000 labels', xlabel='epoch', ylabel='top-1 (%)')
    save(figure, axes, path)
