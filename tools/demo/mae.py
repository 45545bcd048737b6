#!/usr/bin/env python
"""The MAE demo: does pre-training without labels help where labels are few?

    python tools/demo/mae.py [--work-dir DIR]

Pre-trains a small encoder on handwritten digits, then trains classifiers on a tenth of the labels, once from its
weights and once from random ones: the same labels, steps and settings, three seeds. The table says what came out.
"""

import csv
import random
import statistics
import time
from pathlib import Path
from typing import Dict, List, Tuple

from common import CONFIGS, DIGITS, last_checkpoint, make_digits, parse_work_dir, run, say

from mmvisionllama.visualization.training import curves, read_scalars

STARTS = {'MAE': 'mae_digits_finetune.py', 'from scratch': 'mae_digits_scratch.py'}
FRACTION = 0.1
SEEDS = (0, 1, 2)


def write_labels(path: Path, seed: int) -> int:
    """Draws the labelled tenth, the same share of every class; returns the number of images."""
    rng = random.Random(seed)
    lines = []
    for folder in sorted((DIGITS / 'train').iterdir()):
        images = sorted(folder.glob('*.png'))
        chosen = rng.sample(images, round(len(images) * FRACTION))
        lines += [f'{folder.name}/{image.name} {folder.name}' for image in chosen]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')
    return len(lines)


def final(curve: Tuple[List[int], List[float]]) -> float:
    """The last value, with no picking of the best one."""
    return curve[1][-1]


def main() -> None:
    root, start = parse_work_dir(__doc__, 'work_dirs/demo-mae'), time.time()

    counts = make_digits()

    say('Pre-training without labels (one to two minutes)')
    folder = root / 'pretrain'
    command = ['tools/train.py', CONFIGS / 'mae_digits.py', '--work-dir', folder]
    run(command, folder / 'train.log', r'Epoch\(train\) +\[\d*0\]\[10/')
    encoder = last_checkpoint(folder)

    say('Reconstructions of digits that were never trained on')
    picture = root / 'reconstruction.png'
    images = [sorted((DIGITS / 'test' / str(digit)).glob('*.png'))[0] for digit in range(10)]
    command = ['tools/visualization/mae_reconstruction.py', CONFIGS / 'mae_digits.py', encoder, *images]
    run([*command, '--out', picture], root / 'reconstruction.log', r'images')

    results: Dict[str, List[Tuple[List[int], List[float]]]] = {name: [] for name in STARTS}
    for seed in SEEDS:
        labels = (root / f'labels_{seed}.txt').resolve()
        number = write_labels(labels, seed)
        for name, config in STARTS.items():
            say(f'Training on {number} labels, seed {seed}: {name}')
            folder = root / f'{Path(config).stem}_{seed}'
            options = [f'train_dataloader.dataset.ann_file={labels}', f'randomness.seed={seed}']
            if name == 'MAE':
                options.append(f'model.backbone.init_cfg.checkpoint={encoder}')
            command = ['tools/train.py', CONFIGS / config, '--work-dir', folder, '--cfg-options', *options]
            run(command, folder / 'train.log', r'Iter\(val\).*accuracy|loaded \d+ of|tensors not')
            results[name].append(curves(read_scalars(folder), 'accuracy/top1')[1])

    with open(root / 'results.csv', 'w', newline='') as file:
        rows = [(name, seed, f'{final(curve):.2f}') for name in STARTS for seed, curve in zip(SEEDS, results[name])]
        csv.writer(file).writerows([('start', 'seed', 'top1'), *rows])
    plot(results, root / 'results.png', number, counts[1])
    say(f'Results after {time.time() - start:.0f} s: top-1 (%) on {counts[1]} held-out digits, {number} labels')
    print(f'    {"start":<14}' + ''.join(f'seed {seed:<4}' for seed in SEEDS) + 'mean +- spread (standard deviation)')
    for name, runs in results.items():
        values = [final(curve) for curve in runs]
        spread = statistics.stdev(values)
        print(
            f'    {name:<14}' + ''.join(f'{v:<9.1f}' for v in values) + f'{statistics.mean(values):.1f} +- {spread:.1f}'
        )
    gains = [final(a) - final(b) for a, b in zip(results['MAE'], results['from scratch'])]
    print(f'    difference on the same labels: {", ".join(f"{gain:+.1f}" for gain in gains)} points')
    print(f'\n    pictures:\n      {picture}\n      {root / "results.png"}')
    print(f'      {root / "pretrain"}/*/vis_data/vis_image/ (reconstructions during pre-training)')


def plot(results: dict, path: Path, labels: int, test: int) -> None:
    """Accuracy over the steps: every seed thin, the mean thick."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 4), layout='constrained')
    for i, (name, runs) in enumerate(results.items()):
        steps = runs[0][0]
        for _, values in runs:
            ax.plot(steps, values, color=f'C{i}', alpha=0.35, linewidth=1)
        mean = [statistics.mean(at) for at in zip(*(values for _, values in runs))]
        ax.plot(steps, mean, color=f'C{i}', linewidth=2.5, label=f'{name}: {mean[-1]:.1f} %')
    ax.set(
        title=f'{labels} labels, {len(SEEDS)} seeds',
        xlabel='training steps',
        ylabel=f'top-1 on {test} held-out digits (%)',
    )
    ax.grid(alpha=0.3)
    ax.legend(loc='lower right')
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == '__main__':
    main()
