#!/usr/bin/env python
"""Trains any config: mmpretrain, mmsegmentation, mmdetection or plain mmengine.

    python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--cfg-options key=value ...]

Several GPUs or processes: tools/dist_train.sh; on a cluster: tools/slurm_train.sh.
"""

import argparse
import os

from mmvisionllama import launch
from mmvisionllama.checkpoints import allow_unsafe


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/ and the config name)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from this checkpoint; without a path, from the newest one of the work directory if there is one',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: bfloat16, or float16 with loss scaling on GPUs without it and with '
        '--cfg-options optim_wrapper.dtype=float16',
    )
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by (processes x batch size) / the config's auto_scale_lr.base_batch_size, "
        'which counts one iteration, without accumulated ones',
    )
    parser.add_argument(
        '--partial',
        action='store_true',
        help='of the checkpoint in load_from take what fits, instead of all or nothing',
    )
    parser.add_argument(
        '--stop-after',
        metavar='DURATION',
        help='stop by then (90s, 45m, 11h30m, 2d) as at SIGTERM and SIGUSR1: with a checkpoint and exit status 75; the '
        'same command with --resume goes on',
    )
    parser.add_argument('--unsafe', action='store_true', help='read checkpoints that can run code; for trusted files')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=launch.CfgOptions,
        metavar='KEY=VALUE',
        help='override settings, e.g. train_dataloader.batch_size=32 or model.backbone.out_indices="[3,5,7,11]"',
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
    launch.prepare_train(
        cfg,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        validate=not args.no_validate,
        partial=args.partial,
        stop_after=args.stop_after,
        launcher=args.launcher,
    )
    launch.train(cfg)


if __name__ == '__main__':
    launch.run_cli(main)
