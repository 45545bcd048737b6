#!/usr/bin/env python
"""Original, masked image and reconstruction of a masked autoencoder, one row per image, as one picture.

python tools/visualization/mae_reconstruction.py CONFIG CHECKPOINT IMAGE [IMAGE ...] [--out FILE] [--seed N]
"""

import argparse
from pathlib import Path
from typing import List

import torch

from mmvisionllama.checkpoints import find_state_dict, load_strictly, read_checkpoint
from mmvisionllama.datasets.pictures import read
from mmvisionllama.engine.hooks.reconstruction import reconstruction_picture
from mmvisionllama.generation.pictures import PICTURES
from mmvisionllama.launch import DefaultsFormatter, LaunchError, check_device, check_target, load_config, run_cli
from mmvisionllama.layers.options import type_name
from mmvisionllama.pretraining.reconstruction import check_reconstructs

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Pictures of a masked autoencoder', formatter_class=DefaultsFormatter)
    parser.add_argument('config', help='pre-training config')
    parser.add_argument('checkpoint', help='checkpoint of that pre-training')
    parser.add_argument('images', nargs='+', help='image files, or folders of images')
    parser.add_argument('--out', default='mae_reconstruction.png', help='picture to write')
    parser.add_argument('--seed', type=int, default=0, help='seed of the masks')
    parser.add_argument('--mask-ratio', type=float, help="part of the patches that is hidden (default: the config's)")
    parser.add_argument('--max-images', type=int, default=16, help='rows of the picture')
    parser.add_argument('--device', help='cpu or cuda (default: cuda if there is one)')
    return parser.parse_args()


def find_images(paths: List[str]) -> List[Path]:
    """Files as given; of folders every image below them, in order of their names."""
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise LaunchError(f'image {str(path)!r} does not exist: check the path')
    if not found:
        raise LaunchError(f'no images ({", ".join(SUFFIXES)}) in {", ".join(paths)}')
    return found


def build_model(config: str, checkpoint: str, device: str) -> torch.nn.Module:
    """The MAE of a config with the weights of a checkpoint."""
    from mmengine.registry import MODELS, init_default_scope

    cfg = load_config(config)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    kind = type_name((cfg.get('model') or {}).get('type'))
    if kind != 'MAE':
        raise LaunchError(f'{config!r} builds a {kind}: give the config of an MAE pre-training')
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    model = MODELS.build(cfg.model)
    try:
        check_reconstructs(model.backbone)
    except ValueError as error:
        raise LaunchError(f'{config!r}: {error}') from error
    load_strictly(model, find_state_dict(read_checkpoint(checkpoint)), checkpoint)
    return model.eval().to(device)


def read_images(model: torch.nn.Module, paths: List[Path]) -> torch.Tensor:
    """Centre crops of the size that the decoder knows, preprocessed: ``(B, 3, H, W)``."""
    from mmcv.transforms import Compose
    from mmengine.registry import TRANSFORMS

    side = round(model.neck.num_patches**0.5) * model.head.patch_size
    pipeline = Compose(
        [
            TRANSFORMS.build(step)
            for step in (
                dict(type='LoadImageFromFile'),
                dict(type='ResizeEdge', scale=side, edge='short', backend='pillow', interpolation='bicubic'),
                dict(type='CenterCrop', crop_size=side),
                dict(type='PackInputs'),
            )
        ]
    )
    samples = [pipeline(dict(img_path=str(path))) for path in paths]
    batch = dict(
        inputs=torch.stack([sample['inputs'] for sample in samples]),
        data_samples=[sample['data_samples'] for sample in samples],
    )
    inputs = model.data_preprocessor(batch, False)['inputs']
    return inputs[0] if isinstance(inputs, (list, tuple)) else inputs


def main() -> None:
    args = parse_args()
    from PIL import Image

    if args.mask_ratio is not None and not 0 <= args.mask_ratio < 1:
        raise LaunchError(f'--mask-ratio must be in [0, 1), got {args.mask_ratio:g}')
    if args.max_images < 1:
        raise LaunchError('--max-images must be at least 1')
    paths = find_images(args.images)[: args.max_images]
    check_target(args.out, suffixes=PICTURES)
    for path in paths:
        read(str(path), 'picture')  # a broken one is named, before the model is built
    model = build_model(args.config, args.checkpoint, check_device(args.device))
    if args.mask_ratio is not None:
        model.backbone.mask_ratio = args.mask_ratio
    try:
        picture = reconstruction_picture(model, read_images(model, paths), args.seed)
    except ValueError as error:  # a ratio that hides all patches
        raise LaunchError(str(error)) from error
    Image.fromarray(picture).save(args.out)
    print(f'{args.out}: {len(paths)} images')


if __name__ == '__main__':
    run_cli(main)
