#!/usr/bin/env python
"""Evaluates a checkpoint with any config: mmpretrain, mmsegmentation, mmdetection or plain mmengine.

python tools/test.py CONFIG CHECKPOINT [--out FILE] [--show-dir DIR] [--tta] [--cfg-options key=value ...]
"""

import argparse
import os

from mmvisionllama import launch
from mmvisionllama.checkpoints import allow_unsafe


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a model')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for the log (default: work_dirs/ and the config name)')
    parser.add_argument(
        '--out',
        help='write predictions (.pkl), metrics (.json), or, for segmentation, label maps (a folder)',
    )
    parser.add_argument('--show-dir', help='paint the predictions into images in this folder')
    parser.add_argument('--show', action='store_true', help='show the painted images in windows')
    parser.add_argument('--interval', type=int, default=1, help='paint every n-th image')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--amp', action='store_true', help='half precision')
    parser.add_argument(
        '--partial',
        action='store_true',
        help='evaluate a checkpoint that lacks weights of the model, or has others, all the same',
    )
    parser.add_argument('--unsafe', action='store_true', help='read checkpoints that can run code; for trusted files')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=launch.CfgOptions,
        metavar='KEY=VALUE',
        help='override settings, e.g. test_dataloader.batch_size=32',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help='set by the launcher')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = launch.load_config(args.config, args.cfg_options)
    cfg.work_dir = launch.default_work_dir(cfg, args.config, args.work_dir)
    if args.unsafe:
        allow_unsafe()
    launch.prepare_test(
        cfg,
        args.checkpoint,
        show_dir=args.show_dir,
        show=args.show,
        interval=args.interval,
        tta=args.tta,
        amp=args.amp,
        partial=args.partial,
        launcher=args.launcher,
    )
    launch.test(cfg, out=args.out)


if __name__ == '__main__':
    launch.run_cli(main)
