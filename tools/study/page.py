#!/usr/bin/env python
"""Writes the tables and pictures of docs/study.md from the logs in docs/results/study.

python tools/study/page.py            # writes them
python tools/study/page.py --check    # says whether the page is stale, exit status 1
"""

import argparse
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import detection_page
import generation_page
import labels_page
import pretraining_page
from comparison import Values, ending, lines_of, mean, of_all, paired, reached, read, row, size_tables
from plan import LOGS, PARTS, ROOT, Job, Part

PAGE = ROOT / 'docs' / 'study.md'
BEGIN, END = '<!-- results of {}: written by tools/study/page.py -->', '<!-- end of results -->'
#: kinds of parts that have tables and pictures of their own
OTHERS = dict(detection=detection_page, generation=generation_page, pretraining=pretraining_page)
#: points of a curve from which it says something of speed
MANY = 6


class Results(NamedTuple):
    """What the logs of a part say."""

    rates: Dict[str, Dict[float, float]]  # arm -> rate -> top-1 on held-out training images
    chosen: Dict[str, float]
    parameters: Dict[str, int]
    final: Dict[str, Dict[str, Dict[int, float]]]  # metric -> arm -> seed -> value
    sizes: Dict[str, Values]
    curves: Dict[str, List[List[Tuple[int, float]]]]  # arm -> runs -> (epoch, top-1)
    seconds: int


def collect(name: str) -> Results:
    """Reads the logs of a part."""
    part = PARTS[name]
    results = Results({}, {}, {}, {}, {}, {}, 0)
    seconds = 0
    for arm in part.arms:
        for rate in part.rates:
            records = read(Job(name, arm, 0, rate))
            if records:
                value = [record['top1'] for record in records if record['kind'] == 'val'][-1]
                results.rates.setdefault(arm, {})[rate] = value
                seconds += records[-1]['seconds']
        for seed in part.seeds:
            records = read(Job(name, arm, seed))
            if not records:
                continue
            run, seconds = records[0], seconds + records[-1]['seconds']
            results.chosen[arm], results.parameters[arm] = run['rate'], run['parameters']
            for record in records:
                if record['kind'] == 'final':
                    for metric in ('top1', 'recall', 'ece', 'nll'):
                        results.final.setdefault(metric, {}).setdefault(arm, {})[seed] = record[metric]
                elif record['kind'] == 'test':
                    values = results.sizes.setdefault(str(record['size']), {})
                    values.setdefault((arm, record['variant']), {})[seed] = record['top1']
            points = [(record['epoch'], record['top1']) for record in records if record['kind'] == 'val']
            results.curves.setdefault(arm, []).append(points)
    return results._replace(seconds=seconds)


def convergence(part: Part, results: Results) -> List[str]:
    """Sentences on the epochs that arms need for each other's final accuracy, where it was measured often enough."""
    lines = []
    for arm, runs in results.curves.items():
        other = results.curves.get(part.reference)
        if arm == part.reference or not other or min(map(len, [*runs, *other])) < MANY:
            continue
        for first, second in ((arm, part.reference), (part.reference, arm)):
            ends = [points[-1][1] for points in results.curves[second]]
            epoch = reached(results.curves[first], sum(ends) / len(ends))
            last = runs[0][-1][0]
            when = f'after epoch {epoch} of {last}' if epoch else f'in none of {last} epochs'
            lines.append(f'{first} is at the final mean of {second} {when}.')
    return lines


def tables(name: str) -> str:
    """The text between a part's marks."""
    if PARTS[name].kind in OTHERS:
        return OTHERS[PARTS[name].kind].tables(name)
    part, results = PARTS[name], collect(name)
    if not results.final:
        return 'No run is finished.'
    reference = part.reference
    lines = [
        row('arm', 'parameters', 'rate', 'runs', 'top-1', 'against ' + reference, 'mean recall', 'ECE', 'NLL'),
        row(*['---'] * 9),
    ]
    tested: List[Tuple[float, str]] = []
    for arm in part.arms:
        values = results.final['top1'].get(arm)
        if not values:
            continue
        against = paired(values, results.final['top1'].get(reference, {})) if arm != reference else None
        tested += of_all(arm, against)
        others = [mean(results.final[metric][arm]) for metric in ('recall', 'ece', 'nll')]
        lines.append(
            row(
                arm,
                f'{results.parameters[arm]:,}',
                f'{results.chosen[arm]:g}',
                len(values),
                f'{mean(values):.1f} ({min(values.values()):.1f} to {max(values.values()):.1f})',
                against or '',
                f'{others[0]:.1f}',
                f'{others[1]:.1f}',
                f'{others[2]:.2f}',
            )
        )
    lines += size_tables(
        part, results.sizes, 'Top-1, mean over seeds, by input size (height x width where it is no square)', tested
    )
    if convergence(part, results):
        lines += ['', ' '.join(convergence(part, results))]
    rates = '; '.join(
        f'{arm} ' + ', '.join(f'{value:.1f} at {rate:g}' for rate, value in found.items())
        for arm, found in results.rates.items()
    )
    lines += [
        '',
        f'Rates tried (top-1 on held-out training images): {rates}.',
        '',
        *ending(name, 'Top-1 over the input size', results.final['top1'], results.seconds),
    ]
    return '\n'.join(lines)


def draw(name: str, path: Path) -> None:
    """Top-1 over the side of squares, a line for each arm and variant, from the lowest to the highest seed shaded."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    part, results = PARTS[name], collect(name)
    sizes = sorted(int(size) for size in results.sizes if size.isdecimal())
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    trained = [line for line in lines_of(part, results.sizes) if line[1] == part.arms[line[0]].variants[0]]
    varied = max(part.arms, key=lambda arm: len(part.arms[arm].variants))
    same = [line for line in lines_of(part, results.sizes) if line[0] == varied]
    for axis, shown, title in zip(axes, (trained, same), ('trained with', f'{varied}: tested with')):
        for (arm, variant, label), marker in zip(shown, 'osD^vP*X'):
            seeds = [list(results.sizes[str(size)][arm, variant].values()) for size in sizes]
            means = [sum(values) / len(values) for values in seeds]
            text = label if axis is axes[0] else variant
            (line,) = axis.plot(sizes, means, marker=marker, label=text.split(',')[0] if axis is axes[0] else text)
            axis.fill_between(sizes, list(map(min, seeds)), list(map(max, seeds)), color=line.get_color(), alpha=0.15)
        axis.set(title=title, xlabel='input size (pixels)', ylabel='top-1 (%)', xscale='log')
        axis.set_xticks(sizes, list(map(str, sizes)))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def page(text: str) -> str:
    """The page with every part's results between its marks."""
    for name in [*PARTS, 'labels']:
        begin = BEGIN.format(name)
        if begin not in text:
            raise ValueError(f'{PAGE.name} has no {begin}')
        before, _, rest = text.partition(begin)
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f'{PAGE.name} has no {END} behind {begin}')
        found = labels_page.tables() if name == 'labels' else tables(name)
        text = f'{before}{begin}\n\n{found}\n\n{END}{after}'
    return text


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description='Write the tables of the study')
    parser.add_argument('--check', action='store_true', help='write nothing, exit with 1 if the page is stale')
    args = parser.parse_args(argv)
    old = PAGE.read_text()
    new = page(old)
    if args.check:
        if new != old:
            print(f'{PAGE} is stale: run python tools/study/page.py', file=sys.stderr)
        return int(new != old)
    PAGE.write_text(new)
    for name, part in PARTS.items():
        if part.kind in OTHERS:
            OTHERS[part.kind].draw(name, LOGS / f'{name}.png')
        elif collect(name).sizes:
            draw(name, LOGS / f'{name}.png')
    labels_page.draw(LOGS / 'labels.png')
    return 0


if __name__ == '__main__':
    sys.exit(main())
