#!/usr/bin/env python
"""Evaluates one checkpoint at several resolutions and with several rotary variants, without retraining.

python tools/analysis_tools/resolution_transfer.py CONFIG CHECKPOINT --sizes 224 448 512 --variants as2d 2d ntk:2

For any classification config of this package (Tables 11 and 12 of the paper). Sizes scale the whole test pipeline: its
last resize or crop becomes the size given, the steps before it keep their proportion to it (ResizeEdge 256 + CenterCrop
224 evaluated at 512 is ResizeEdge 585 + CenterCrop 512). 224x448 is a height and a width. Writes a CSV and a picture.
"""

import argparse
from pathlib import Path

from mmvisionllama import launch
from mmvisionllama.analysis import resolution_transfer
from mmvisionllama.visualization.analyses import FIGURES, plot_transfer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Resolution transfer of a classifier')
    parser.add_argument('config', help='config file of a classifier')
    parser.add_argument('checkpoint', help='checkpoint trained with it')
    parser.add_argument(
        '--sizes', type=size, nargs='+', required=True, help='input sizes, pixels: 448, or height and width: 224x448'
    )
    parser.add_argument(
        '--variants',
        nargs='+',
        default=['as2d', '2d'],
        help='as2d, 2d, 1d, ntk:ALPHA, anchor:PIXELS, yarn:LOW:HIGH; +log_n or +inverse_log_n behind any of them; '
        'config: the model as it is',
    )
    parser.add_argument('--out', type=Path, help='CSV to write (default: work_dirs/ and the config name)')
    parser.add_argument('--plot', type=Path, help='picture to write (default: next to the CSV)')
    parser.add_argument('--metric', help='metric of the picture (default: the first of the evaluator)')
    parser.add_argument('--batch-size', type=int, help='batch size, for sizes at which the config has too large a one')
    parser.add_argument('--device', help='cpu or cuda (default: the GPU if there is one)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def size(text: str) -> resolution_transfer.Size:
    """``'448'`` as a number, ``'224x448'`` as a pair."""
    sides = tuple(map(int, text.split('x')))
    if len(sides) > 2:
        raise ValueError(text)
    return sides[0] if len(sides) == 1 else sides


def main() -> None:
    args = parse_args()
    cfg = launch.load_config(args.config, args.cfg_options)
    out = args.out or Path(launch.default_work_dir(cfg, args.config, None)) / 'resolution_transfer.csv'
    picture = args.plot or out.with_suffix('.png')
    launch.check_target(out, suffixes=('.csv',))  # a picture of its name lies beside it
    launch.check_target(picture, '--plot', suffixes=FIGURES)
    launch.check_data(cfg, ('test',))
    if args.batch_size is not None and args.batch_size < 1:
        raise launch.LaunchError(f'--batch-size must be at least 1, got {args.batch_size}')
    device = launch.check_device(args.device)
    rows = resolution_transfer.evaluate(
        cfg, args.checkpoint, args.sizes, args.variants, device=device, batch_size=args.batch_size
    )
    resolution_transfer.write_csv(rows, out, config=args.config, checkpoint=args.checkpoint)
    metric = args.metric or resolution_transfer.main_metric(rows)
    if metric not in rows[0]:
        known = ', '.join(list(rows[0])[3:])
        raise launch.LaunchError(f'unknown metric {metric!r}: the evaluator gives {known}; all of them are in {out}')
    print(resolution_transfer.format_table(rows, metric))
    if not any(isinstance(size, int) for size in args.sizes):
        print(f'results in {out}; no picture, which is of square sizes')
        return
    anchor = resolution_transfer.training_size(cfg.model.backbone)
    plot_transfer(rows, picture, metric, anchor, title=Path(args.config).stem)
    print(f'results in {out}, picture in {picture}')


if __name__ == '__main__':
    launch.run_cli(main)
