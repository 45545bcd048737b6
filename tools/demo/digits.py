#!/usr/bin/env python
"""The demo: trains on real digits, evaluates, and shows the paper's point about resolution (Table 12) in small.

    python tools/demo/digits.py [--work-dir DIR]

It only calls what a user would call: tools/train.py, tools/test.py and tools/analysis_tools/resolution_transfer.py on
configs/mmpretrain/quickstart/.
"""

import csv
import pickle
import sys
import time
from pathlib import Path

from common import CONFIGS, last_checkpoint, make_digits, parse_work_dir, run, say

from mmvisionllama.visualization.prediction_grid import plot_predictions
from mmvisionllama.visualization.training import curves, plot_learning_curves, read_scalars

SIZES = (32, 48, 64)
#: name -> (config, rotary variants evaluated with its weights)
MODELS = {
    'plain': ('vision_llama_digits.py', ('as2d', '2d', 'ntk:2')),
    'plain, 1D RoPE': ('vision_llama_digits_1d.py', ('1d',)),
    'pyramid': ('pyramid_vision_llama_digits.py', ('as2d', '2d', 'ntk:2')),
}
GOAL = 97.0


def main() -> None:
    root, start = parse_work_dir(__doc__, 'work_dirs/demo'), time.time()

    counts = make_digits()

    folders = {name: root / Path(config).stem for name, (config, _) in MODELS.items()}
    for name, (config, _) in MODELS.items():
        say(f'Training: {name} (about a minute)')
        command = ['tools/train.py', CONFIGS / config, '--work-dir', folders[name]]
        run(command, folders[name] / 'train.log', r'Epoch\((val|train)\) +\[\d+\]\[(\d+)/\2\]|Epoch\(train\).*\[20/')

    say('Evaluation: plain, on the held-out digits')
    out = root / 'predictions.pkl'
    config = CONFIGS / MODELS['plain'][0]
    command = ['tools/test.py', config, last_checkpoint(folders['plain']), '--work-dir', root / 'test', '--out', out]
    run(command, root / 'test.log', r'Epoch\(test\).*accuracy')
    with open(out, 'rb') as file:
        results = pickle.load(file)  # written by the line above
    wrong = plot_predictions(results, root / 'predictions.png')
    top1 = 100 * (1 - wrong / len(results))

    table = []
    for name, (config, variants) in MODELS.items():
        say(f'Resolution: {name}, trained at {SIZES[0]}, evaluated without retraining at {SIZES}')
        csv_file = folders[name] / 'resolution_transfer.csv'
        command = ['tools/analysis_tools/resolution_transfer.py', CONFIGS / config, last_checkpoint(folders[name])]
        command += ['--sizes', *SIZES, '--variants', *variants, '--out', csv_file]
        run(command, folders[name] / 'resolution_transfer.log', r'^ERROR')
        with open(csv_file) as file:
            for row in csv.DictReader(file):
                table.append((name, row['variant'], int(row['size']), float(row['top1'])))

    plot_learning_curves(folders, 'accuracy/top1', root / 'learning_curve.png', 'Digits: held-out accuracy')
    plot_table(table, root / 'resolution_transfer.png')
    with open(root / 'resolution_transfer.csv', 'w', newline='') as file:
        csv.writer(file).writerows([('model', 'variant', 'size', 'top1'), *table])

    say(f'Results after {time.time() - start:.0f} s')
    for name, folder in folders.items():
        value = curves(read_scalars(folder), 'accuracy/top1')[1][1][-1]
        print(f'    {name:<16} top-1 on {counts[1]} held-out digits: {value:.1f} %')
    print(f'\n    top-1 (%) by evaluation size, all trained at {SIZES[0]}')
    print('    ' + f'{"model":<16}{"positions":<10}' + ''.join(f'{size:>8}' for size in SIZES))
    for name, (_, variants) in MODELS.items():
        for variant in variants:
            row = {size: value for model, v, size, value in table if (model, v) == (name, variant)}
            print('    ' + f'{name:<16}{variant:<10}' + ''.join(f'{row[size]:>8.1f}' for size in SIZES))
    print('\n    pictures:')
    for picture in ('learning_curve.png', 'resolution_transfer.png', 'predictions.png'):
        print(f'      {root / picture}')
    if top1 < GOAL:
        sys.exit(f'ERROR: {top1:.1f} % of the held-out digits are right, at least {GOAL} % were expected')


def plot_table(table: list, path: Path) -> None:
    """One line per model and variant over the evaluation size."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    styles = {'as2d': ('AS2DRoPE', '-'), '2d': ('2D RoPE', '-'), 'ntk:2': ('NTK-aware', '--'), '1d': ('1D RoPE', ':')}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout='constrained')
    for ax, family in zip(axes, ('plain', 'pyramid')):
        lines = dict.fromkeys((name, variant) for name, variant, _, _ in table if name.startswith(family))
        for name, variant in lines:
            points = [(size, value) for model, v, size, value in table if (model, v) == (name, variant)]
            label, style = styles[variant]  # NTK lies on 2D, hence its dashes
            ax.plot(*zip(*points), marker='o', label=label, linestyle=style)
        ax.set(title=family, xlabel='evaluation size (pixels)', xticks=SIZES, ylim=(0, 102))
        ax.grid(alpha=0.3)
        ax.legend()
    axes[0].set_ylabel('top-1 on held-out digits (%)')
    figure.suptitle(f'Trained at {SIZES[0]} pixels, evaluated at other sizes without retraining')
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == '__main__':
    main()
