#!/usr/bin/env python
"""Turns a checkpoint in parts, as FullyShardedModel(checkpoint='parts') writes it, into one file.

python tools/model_converters/gather_checkpoint.py WORK_DIR/epoch_12.pth epoch_12_whole.pth [--weights-only]

The file resumes and loads as any other. This library reads folders of parts without it; others do not.
"""

import argparse
import io
import sys
from pathlib import Path
from typing import List, Optional

import torch

from mmvisionllama import launch
from mmvisionllama.checkpoints import read_checkpoint
from mmvisionllama.checkpoints.sharded import is_sharded
from mmvisionllama.checkpoints.writing import write_atomically


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Turn a checkpoint in parts into one file')
    parser.add_argument('folder', type=Path, help='the checkpoint, a folder')
    parser.add_argument('out', type=Path, help='file to write')
    parser.add_argument('--weights-only', action='store_true', help='leave out what only resuming needs')
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    if not is_sharded(args.folder):
        raise launch.LaunchError(f'{str(args.folder)!r} is no checkpoint in parts: it needs state.pth and .metadata')
    launch.check_target(args.out, 'OUT')
    checkpoint = read_checkpoint(str(args.folder))
    if args.weights_only:
        checkpoint = {key: checkpoint[key] for key in ('meta', 'state_dict', 'ema_state_dict') if key in checkpoint}
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_atomically(buffer.getvalue(), args.out)
    print(f'{args.out}: {len(buffer.getvalue()) / 1e6:.1f} MB')


if __name__ == '__main__':
    sys.exit(launch.run_cli(main))
