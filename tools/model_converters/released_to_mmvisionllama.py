#!/usr/bin/env python
"""Converts a published checkpoint of VisionLLaMA, DiT-LLaMA, SiT-LLaMA or iLLaMA.

python tools/model_converters/released_to_mmvisionllama.py SRC DST [--unsafe] [--num-heads N] [--set key=value ...]

The family and the architecture are told from the weights. DST is read by tools/test.py, tools/train.py (load_from) and
init_cfg; its meta holds the family and the model's config.
"""

import argparse
import os
import sys
from typing import List, Optional

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmvisionllama import launch
from mmvisionllama.checkpoints import (
    CheckpointError,
    ConvertedCheckpoint,
    convert_released,
    find_state_dict,
    read_checkpoint,
)
from mmvisionllama.checkpoints.writing import PART

#: averaged weights as DiT, DeiT (which the pyramid's trainer is) and timm call them, then plain ones
ENTRIES = ('ema', 'model_ema', 'state_dict_ema', 'model', 'state_dict')

RISK = """\
--unsafe: unpickling SRC. A pickle can run any code its author put in, with your rights: go on only if you trust where
the file came from. DST will hold nothing but weights and needs no such trust."""


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Convert a published checkpoint')
    parser.add_argument('src', help='published checkpoint: a file or an http(s) address')
    parser.add_argument('dst', help='file to write, .pth')
    parser.add_argument(
        '--unsafe',
        action='store_true',
        help='allow arbitrary pickles, which can run any code, if SRC holds more than weights and its arguments',
    )
    parser.add_argument('--family', help='needed where several families share their keys (dit, sit)')
    parser.add_argument('--weights', help='entry of SRC to convert (default: averaged weights, if any)')
    parser.add_argument('--num-heads', type=int, help='number of heads, where the head dim is not the published one')
    parser.add_argument('--img-size', type=int, help='side in pixels of the images that the model is for')
    parser.add_argument(
        '--set',
        nargs='+',
        action=launch.CfgOptions,
        default={},
        metavar='KEY=VALUE',
        help='what else shapes cannot tell, e.g. auto_scale=True; an unknown key lists those that the family takes',
    )
    return parser.parse_args(argv)


def select_weights(checkpoint: dict, entry: Optional[str]) -> dict:
    """The state dict under ``entry``, or the averaged weights if there are any, else the plain ones."""
    if entry is None:
        for name in ENTRIES:
            if isinstance(checkpoint.get(name), dict):
                print(f'takes the entry {name!r} of {", ".join(map(repr, checkpoint))}')
                break
        return find_state_dict(checkpoint, ENTRIES)
    if not isinstance(checkpoint.get(entry), dict):
        raise CheckpointError(f'SRC has no weights under {entry!r}: its entries are {", ".join(checkpoint)}')
    return find_state_dict(checkpoint[entry], ())


def check_it_loads(converted: ConvertedCheckpoint) -> None:
    """Builds the model and loads the weights strictly.

    Raises:
        CheckpointError: If a weight is missing, left over or of another shape.
    """
    try:
        from mmpretrain.registry import MODELS as models  # where the classifiers are
    except ModuleNotFoundError:
        models = MODELS
    with DefaultScope.overwrite_default_scope('mmpretrain' if models is not MODELS else None):
        model = models.build(converted.model)
    try:
        model.load_state_dict(converted.state_dict, strict=True)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())
        raise CheckpointError(f'SRC is not complete or of an unknown variant: {reason}') from error


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    launch.check_target(args.dst, 'DST')
    if os.path.exists(args.src) and os.path.exists(args.dst) and os.path.samefile(args.src, args.dst):
        raise launch.LaunchError('DST is SRC, which would be lost: give another name')
    if args.unsafe:
        print(RISK, file=sys.stderr)
    overrides = {'num_heads': args.num_heads, 'img_size': args.img_size}
    overrides = {**{k: v for k, v in overrides.items() if v is not None}, **args.set}
    state_dict = select_weights(read_checkpoint(args.src, unsafe=args.unsafe), args.weights)
    converted = convert_released(state_dict, family=args.family, **overrides)
    check_it_loads(converted)
    meta = dict(family=converted.family, model=converted.model, source=os.path.basename(args.src))
    part = args.dst + PART
    torch.save(dict(state_dict=converted.state_dict, meta=meta), part)
    os.replace(part, args.dst)

    params = sum(value.numel() for value in converted.state_dict.values())
    print(f'family {converted.family}, {params:,} parameters, loads strictly: {args.dst}')
    print("\nFor a config (with custom_imports = dict(imports=['mmvisionllama'])):\n")
    print(Config(dict(model=converted.model)).pretty_text)
    print(f'Evaluate:          python tools/test.py CONFIG {args.dst}')
    print('                   CONFIG has this model: the one that ends in _released, if there is one')
    if 'backbone' in converted.model:
        print(
            f'The backbone alone: backbone=dict(..., init_cfg=dict(type="Pretrained", checkpoint={args.dst!r}, '
            f'prefix="backbone."))'
        )


if __name__ == '__main__':
    launch.run_cli(main)
