#!/usr/bin/env python
"""Exports a trained model as one file for every batch and image size.

    python tools/deployment/export.py CONFIG CHECKPOINT --to onnx [--out FILE] [--opset 20]

Targets: onnx, openvino (FILE.xml and FILE.bin), torch (torch.export) and aoti (compiled ahead of time, needs a C++
compiler). The file is then run at several sizes; one that does not compute what PyTorch computes is an error, and what
was there before stays.
"""

import argparse
from pathlib import Path

from mmvisionllama import deploy, launch
from mmvisionllama.deploy.models import file_info, load_model

SIZES = [(160, 352), (100, 130), (33, 47)]
#: of a DiT or SiT, whose latents are smaller: multiples of every patch
LATENT_SIZES = [(32, 48), (16, 24), (8, 8)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Export a model for every batch and image size')
    parser.add_argument('config', help='config of a classifier, segmentor, two-stage detector, DiT or SiT')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('--to', default='onnx', metavar='TARGET', help=f'one of {", ".join(deploy.TARGETS)}')
    parser.add_argument('--out', type=Path, help='file to write (default: work_dirs/ and the config name)')
    parser.add_argument('--opset', type=int, default=20, help='of ONNX')
    parser.add_argument('--tolerance', type=float, default=1e-4, help='allowed relative difference to PyTorch')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    deploy.check_target(args.to)
    cfg = launch.load_config(args.config, args.cfg_options)
    model = load_model(cfg, args.checkpoint)
    network = deploy.export_network(model)
    out = args.out or Path(launch.default_work_dir(cfg, args.config, None)) / 'model'
    path = deploy.target_path(out, args.to)
    sizes = LATENT_SIZES if network.task == 'generation' else SIZES
    with deploy.written_aside(path) as aside:
        written = deploy.export(network, aside, args.to, opset=args.opset, info=file_info(cfg, model))
        difference = deploy.largest_difference(network, deploy.load_exported(aside), sizes, batches=(1, 3))
        names = ', '.join(f'{height} x {width}' for height, width in sizes)
        print(f'largest relative difference to PyTorch {difference:.1e} at {names} in batches of 1 and 3')
        if not difference <= args.tolerance:
            raise launch.LaunchError(f'{path} is not written: it differs from PyTorch by more than {args.tolerance:g}')
    files = [path, *([path.with_suffix('.bin')] if args.to == 'openvino' else [])]
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f'{path}: {network.task}, {size:.1f} MiB, exported in {written.seconds:.0f} s')


if __name__ == '__main__':
    launch.run_cli(main)
