#!/usr/bin/env python
"""Prints parameters, MACs and FLOPs of any config's model.

python tools/analysis_tools/get_flops.py CONFIG [--shape HEIGHT [WIDTH]]
"""

import argparse

from mmvisionllama import launch
from mmvisionllama.analysis import flops


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Count parameters, MACs and FLOPs')
    parser.add_argument('config', help='config file')
    parser.add_argument('--shape', type=int, nargs='+', help='input height [and width], pixels (default: the config)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.shape and len(args.shape) > 2:
        raise launch.LaunchError('--shape takes a height, or a height and a width')
    if args.shape and min(args.shape) < 1:
        raise launch.LaunchError('--shape must be at least 1 pixel')
    cfg = launch.load_config(args.config, args.cfg_options)
    launch.check_model(cfg)
    shape = (args.shape[0], args.shape[-1]) if args.shape else None
    print(flops.count_config(cfg, shape))


if __name__ == '__main__':
    launch.run_cli(main)
