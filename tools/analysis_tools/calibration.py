#!/usr/bin/env python
"""Expected calibration error and reliability diagram of any classification config.

    python tools/analysis_tools/calibration.py CONFIG CHECKPOINT [--bins 15]

Writes a CSV with the bins and a picture.
"""

import argparse
import csv
from pathlib import Path

from mmvisionllama import launch
from mmvisionllama.analysis import classification, confidence_calibration
from mmvisionllama.launch import classifier
from mmvisionllama.visualization import analyses


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Calibration of a classifier')
    parser.add_argument('config', help='config file of a classifier')
    parser.add_argument('checkpoint', help='checkpoint trained with it')
    parser.add_argument('--bins', type=int, default=15, help='confidence bins (default: 15)')
    parser.add_argument('--out', type=Path, help='CSV to write (default: work_dirs/ and the config name)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.bins < 1:
        raise launch.LaunchError('--bins must be at least 1')
    cfg = classifier.load_config(args.config, args.cfg_options)
    out = args.out or Path(cfg.work_dir) / 'calibration.csv'
    launch.check_target(out, suffixes=('.csv',))  # a picture of its name lies beside it
    result = classification.predict(*classifier.open_classifier(cfg, args.checkpoint))
    try:
        bins = confidence_calibration.reliability(result.scores, result.labels, args.bins)
    except ValueError as error:
        raise launch.LaunchError(str(error)) from error

    with open(out, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('lower', 'upper', 'count', 'confidence', 'accuracy'))
        rows = zip(bins.edges, bins.edges[1:], bins.count, bins.confidence, bins.accuracy)
        writer.writerows([f'{float(value):.6g}' for value in row] for row in rows)
    picture = out.with_suffix('.png')
    analyses.draw_reliability(bins, str(picture), Path(args.config).stem)

    print(f'top-1 {result.accuracy:.2f} % of {len(result.labels)} images')
    print(f'expected calibration error {bins.expected_error:.4f} ({args.bins} bins), maximum {bins.maximum_error:.4f}')
    print(f'bins in {out}, picture in {picture}')


if __name__ == '__main__':
    launch.run_cli(main)
