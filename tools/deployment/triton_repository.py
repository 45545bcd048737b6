#!/usr/bin/env python
"""Makes a model repository for NVIDIA's Triton Inference Server from an exported ONNX file.

    python tools/deployment/triton_repository.py model.onnx REPOSITORY [--name NAME] [--max-batch 16] [--delay 2000]

Writes REPOSITORY/NAME/config.pbtxt, NAME/1/model.onnx and, where classes are known, NAME/labels.txt. Height and width
stay dynamic: requests of one size are batched together by the server. Clients normalise as NAME/README.txt says.
"""

import argparse
import re
import shutil
from pathlib import Path
from typing import Any, List

from mmvisionllama import deploy, launch
from mmvisionllama.errors import OptionError

MODEL = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {max_batch}
input [
{inputs}
]
output [
{outputs}
]
dynamic_batching {{
  max_queue_delay_microseconds: {delay}
}}
"""
TENSOR = '  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {dims} ]{more} }}'
README = """\
Input images: (batch, 3, height, width) of float32, mean {mean} subtracted and divided by {std}, channels as in the
config (RGB in those of mmvisionllama), any height and width.
Output: {outputs}.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Make a Triton model repository')
    parser.add_argument('file', type=Path, help='ONNX file of tools/deployment/export.py or quantize.py')
    parser.add_argument('repository', type=Path, help='folder to write the model into')
    parser.add_argument('--name', help='of the model (default: that of the file)')
    parser.add_argument('--max-batch', type=int, default=16, help='images that the server may put into one batch')
    parser.add_argument('--delay', type=int, default=2000, help='microseconds that a request may wait for others')
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Raises an OptionError for what Triton would not take."""
    if args.max_batch < 1:
        raise OptionError(f'--max-batch {args.max_batch}: give 1 or more images')
    if args.delay < 0:
        raise OptionError(f'--delay {args.delay}: give 0 or more microseconds')
    if not re.fullmatch(r'\w[\w.-]*', args.name):
        raise OptionError(f'the name {args.name!r} is no name of a folder: give --name of letters, digits, _, - and .')


def tensors(values: List[Any], labels: bool) -> str:
    """Entries of the config; the batch is the server's own axis."""
    entries = []
    for value in values:
        sides = value.type.tensor_type.shape.dim[1:]
        dims = ', '.join(str(side.dim_value or -1) for side in sides)
        more = ' label_filename: "labels.txt"' if labels else ''
        entries.append(TENSOR.format(name=value.name, dims=dims, more=more))
    return ',\n'.join(entries)


def main() -> None:
    args = parse_args()
    args.name = args.name or args.file.stem
    check(args)
    metadata = deploy.load_exported(args.file).metadata
    if args.file.suffix.lower() != '.onnx' or metadata['inputs'] != ['images']:
        raise OptionError(f'{args.file} is no ONNX file that takes images alone: export a classifier or a segmentor')
    import onnx

    graph = onnx.load(str(args.file), load_external_data=False).graph
    folder = args.repository / args.name
    if folder.exists():
        raise OptionError(f'{folder} exists: remove it, or give another --name')
    (folder / '1').mkdir(parents=True)
    labels = metadata['task'] == 'classification' and bool(metadata.get('classes'))
    if labels:
        (folder / 'labels.txt').write_text('\n'.join(metadata['classes']) + '\n')
    config = MODEL.format(
        name=args.name,
        max_batch=args.max_batch,
        inputs=tensors(graph.input, False),
        outputs=tensors(graph.output, labels),
        delay=args.delay,
    )
    (folder / 'config.pbtxt').write_text(config)
    values = dict(mean=metadata.get('mean'), std=metadata.get('std'), outputs=', '.join(metadata['outputs']))
    (folder / 'README.txt').write_text(README.format(**values))
    shutil.copy(args.file, folder / '1' / 'model.onnx')
    print(f'{folder}: {metadata["task"]}, batches of up to {args.max_batch}')
    print(f'tritonserver --model-repository {args.repository}')


if __name__ == '__main__':
    launch.run_cli(main)
