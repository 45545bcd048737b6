#!/usr/bin/env python
"""Builds TensorRT engines for an exported ONNX file and compares them with the file on the CPU.

    python tools/deployment/check_tensorrt.py model.onnx --min 1x160x160 --opt 8x224x224 --max 16x512x512 \\
        [--precision fp32|bf16|fp16] [--cache FOLDER]

Needs a GPU, TensorRT and onnxruntime-gpu, whose TensorRT provider does the work. The three shapes, batch x height x
width, are the bounds of the engine and what it is tuned for; each of them is compared. Models with one image input.
"""

import argparse
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np

from mmvisionllama import launch
from mmvisionllama.deploy.extras import extra

#: allowed difference, relative to the largest value of an output
TOLERANCES = {'fp32': 1e-3, 'bf16': 5e-2, 'fp16': 1e-2}
Shape = Tuple[int, int, int]


def shape(text: str) -> Shape:
    """``'8x224x224'`` as numbers."""
    parts = text.split('x')
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f'expected BATCHxHEIGHTxWIDTH, got {text!r}')
    return tuple(map(int, parts))


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Check an ONNX file in TensorRT')
    parser.add_argument('model', help='ONNX file of tools/deployment/export.py')
    for name in ('min', 'opt', 'max'):
        parser.add_argument(f'--{name}', type=shape, required=True, metavar='BxHxW', help=f'{name} shape of the engine')
    parser.add_argument('--precision', choices=TOLERANCES, default='fp32')
    parser.add_argument('--cache', type=Path, help='folder that keeps the engines, for the next start')
    parser.add_argument('--tolerance', type=float, help='allowed relative difference (default: 1e-3, 5e-2, 1e-2)')
    return parser.parse_args(argv)


def providers(args: argparse.Namespace, name: str) -> list:
    """ONNX Runtime's providers with their options; what TensorRT lacks runs as CUDA."""
    options = {
        f'trt_profile_{bound}_shapes': f'{name}:{batch}x3x{height}x{width}'
        for bound, (batch, height, width) in (('min', args.min), ('opt', args.opt), ('max', args.max))
    }
    if args.precision != 'fp32':
        options[f'trt_{args.precision}_enable'] = True
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)
        options.update(trt_engine_cache_enable=True, trt_engine_cache_path=str(args.cache))
    return [('TensorrtExecutionProvider', options), 'CUDAExecutionProvider']


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest value; infinite for NaN, which a maximum over outputs would lose."""
    found = float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12))
    return float('inf') if np.isnan(found) else found


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    ort = extra('onnxruntime')
    if not Path(args.model).is_file():
        raise launch.LaunchError(f'{args.model!r} does not exist')
    for axis, bounds in enumerate(zip(args.min, args.opt, args.max)):
        if list(bounds) != sorted(bounds):
            raise launch.LaunchError(f'--min, --opt and --max must ascend, got {bounds} for axis {axis}')
    if 'TensorrtExecutionProvider' not in ort.get_available_providers():
        raise launch.LaunchError('this onnxruntime has no TensorRT: install onnxruntime-gpu and tensorrt')
    reference = ort.InferenceSession(args.model, providers=['CPUExecutionProvider'])
    inputs = reference.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise launch.LaunchError(f'{args.model} takes {", ".join(i.name for i in inputs)}: one image input is expected')
    engine = ort.InferenceSession(args.model, providers=providers(args, inputs[0].name))
    if 'TensorrtExecutionProvider' not in engine.get_providers():
        raise launch.LaunchError('TensorRT did not start, see the messages above: its libraries may be missing')

    tolerance, worst = TOLERANCES[args.precision] if args.tolerance is None else args.tolerance, 0.0
    generator = np.random.default_rng(0)
    for batch, height, width in (args.min, args.opt, args.max):
        feed = {inputs[0].name: generator.standard_normal((batch, 3, height, width), dtype=np.float32)}
        pairs = zip(engine.run(None, feed), reference.run(None, feed))
        difference = max(relative_difference(ours, theirs) for ours, theirs in pairs)
        print(f'{batch} x {height} x {width}: largest relative difference {difference:.1e}')
        worst = max(worst, difference)
    if worst > tolerance:
        raise launch.LaunchError(f'TensorRT in {args.precision} differs by {worst:.1e}, more than {tolerance:g}')


if __name__ == '__main__':
    launch.run_cli(main)
