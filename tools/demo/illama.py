#!/usr/bin/env python
"""The iLLaMA demo: on real digits, causal attention with a soft mask, without one, and with the class token first.

    python tools/demo/illama.py [--work-dir DIR]

Trains three configs of configs/mmpretrain/quickstart/ with tools/train.py, draws their accuracy into one picture, and
runs the analyses of tools/analysis_tools/ on the first.
"""

import csv
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from common import CONFIGS, last_checkpoint, make_digits, parse_work_dir, run, say

from mmvisionllama.visualization.training import curves, plot_learning_curves, read_scalars

#: name of the curve -> config
MODELS = {
    'causal, soft mask over 5 epochs': 'illama_digits.py',
    'causal, no soft mask': 'illama_digits_no_soft_mask.py',
    'causal, class token first': 'illama_digits_cls_first_no_soft_mask.py',
}
#: analysis -> tool, lines of its output to show, flags, settings of the config
ANALYSES = {
    'quantize': ('quantize.py', r'top-1', [], []),
    # a trained model needs a fraction of the rate it was trained with
    'quantize_training_aware': (
        'quantize.py',
        r'top-1',
        ['--training-aware'],
        ['train_cfg.max_epochs=2', 'optim_wrapper.optimizer.lr=2e-4'],
    ),
    'calibration': ('calibration.py', r'calibration error', [], []),
    'attention_rank': ('attention_rank.py', r'^ +\d', [], []),
}
GOAL = 95.0
#: points of accuracy that 8 bits may cost
QUANTISATION_GOAL = 2.0


def main() -> None:
    root, start = parse_work_dir(__doc__, 'work_dirs/demo-illama'), time.time()

    counts = make_digits()

    folders = {name: root / Path(config).stem for name, config in MODELS.items()}
    for name, config in MODELS.items():
        say(f'Training: {name} (about a minute)')
        command = ['tools/train.py', CONFIGS / config, '--work-dir', folders[name]]
        run(command, folders[name] / 'train.log', r'Epoch\(val\) +\[\d*5\]\[(\d+)/\1\]')
    plot_learning_curves(folders, 'accuracy/top1', root / 'learning_curve.png', 'Digits: held-out accuracy of iLLaMA')

    name, config = next(iter(MODELS.items()))
    checkpoint = last_checkpoint(folders[name])
    analyses = dict(ANALYSES)
    if find_spec('torchao') is None:  # as with LINE=openmmlab, whose torch is too old for it
        print("\n==> 8-bit models are left out, they need torchao (pip install 'mmvisionllama[quantization]')")
        analyses = {name: analysis for name, analysis in analyses.items() if analysis[0] != 'quantize.py'}
    for analysis, (tool, keep, flags, settings) in analyses.items():
        say(' '.join(['Analysis:', tool, *flags]))
        out = root / f'{analysis}{".pth" if tool == "quantize.py" else ".csv"}'
        command = [f'tools/analysis_tools/{tool}', CONFIGS / config, checkpoint, '--out', out, *flags]
        run([*command, '--cfg-options', f'work_dir={root / analysis}', *settings], root / f'{analysis}.log', keep)

    # epoch -> accuracy
    final = {name: dict(zip(*curves(read_scalars(folder), 'accuracy/top1')[1])) for name, folder in folders.items()}
    with open(root / 'learning_curve.csv', 'w', newline='') as file:
        rows = [(epoch, *(f'{values[epoch]:.2f}' for values in final.values())) for epoch in next(iter(final.values()))]
        csv.writer(file).writerows([('epoch', *final), *rows])
    say(f'Results after {time.time() - start:.0f} s')
    for name, values in final.items():
        print(f'    {name:<34} top-1 on {counts[1]} held-out digits: {values[max(values)]:.1f} %')
    quantised = [list(csv.DictReader((root / f'{name}.csv').open())) for name in analyses if 'quantize' in name]
    print('\n    8 bits:' if quantised else '')
    for row in [fp32 for fp32, _ in quantised[:1]] + [int8 for _, int8 in quantised]:
        print(f'    {row["model"]:<34} top-1 {float(row["top1"]):.1f} %, {int(row["bytes"]) / 2**20:.2f} MiB on disk')
    print('\n    pictures:')
    for picture in ('learning_curve.png', 'calibration.png', 'attention_rank.png'):
        print(f'      {root / picture}')
    values = next(iter(final.values()))
    top1 = values[max(values)]
    if top1 < GOAL:
        sys.exit(f'ERROR: {top1:.1f} % of the held-out digits are right, at least {GOAL} % were expected')
    for fp32, int8 in quantised:
        if float(fp32['top1']) - float(int8['top1']) > QUANTISATION_GOAL:
            sys.exit(f'ERROR: {int8["model"]} is more than {QUANTISATION_GOAL} points below fp32: {int8["top1"]} %')


if __name__ == '__main__':
    main()
