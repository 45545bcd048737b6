#!/usr/bin/env python
"""Encodes an image folder with the VAE once, into shards that training reads.

    python tools/generation/encode_latents.py data/imagenet/train data/imagenet_latents_256 --size 256
    torchrun --nproc-per-node 8 tools/generation/encode_latents.py ...     (each process takes some of the shards)

Run the same command again after an interruption: it goes on where it stopped.
"""

import argparse
import os

from mmvisionllama import launch
from mmvisionllama.errors import MMVisionLLaMAError
from mmvisionllama.generation import LabelledImages, VAECodec
from mmvisionllama.generation.codecs import check_image_size
from mmvisionllama.generation.labelled_images import ON_ERROR
from mmvisionllama.generation.latents import describe, encode_dataset


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Encode images once', formatter_class=launch.DefaultsFormatter)
    parser.add_argument('images', help='folder with one folder of images per class')
    parser.add_argument('out', help='folder to write')
    parser.add_argument('--size', type=int, default=256, help='side of the images in pixels')
    parser.add_argument('--vae', default='stabilityai/sd-vae-ft-ema', help='VAE, a folder or a hub name')
    parser.add_argument('--downsample', type=int, default=8, help='pixels per latent pixel of the VAE')
    parser.add_argument('--no-flip', action='store_true', help='leave out the mirrored images')
    parser.add_argument('--dtype', choices=['float16', 'float32'], default='float16', help='of the stored moments')
    parser.add_argument('--shard-size', type=int, default=4096, help='images per file')
    parser.add_argument('--batch-size', type=int, default=32, help='images encoded at once')
    parser.add_argument(
        '--on-error',
        choices=ON_ERROR,
        default='raise',
        help='a picture that cannot be read ends the run, or the next one takes its place and it is counted',
    )
    parser.add_argument('--workers', type=int, default=4, help='loader processes')
    parser.add_argument('--device', help='cpu or cuda (default: cuda if there is one)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    device = launch.check_device(args.device)
    for name, least in (('size', 1), ('shard_size', 1), ('batch_size', 1), ('workers', 0)):
        if getattr(args, name) < least:
            raise launch.LaunchError(f'--{name.replace("_", "-")} must be at least {least}')
    launch.check_folder(args.out, f'the folder {args.out!r}')
    if device == 'cuda':
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
    rank = int(os.environ.get('RANK', 0))
    try:
        check_image_size((args.size, args.size), args.downsample)
        codec = VAECodec(args.vae, downsample=args.downsample)
        codec.load()
        dataset = LabelledImages(args.images, args.size, on_error=args.on_error)
        encode_dataset(
            codec,
            dataset,
            args.out,
            description=describe(dataset),
            shard_size=args.shard_size,
            batch_size=args.batch_size,
            flip=not args.no_flip,
            dtype=args.dtype,
            num_workers=args.workers,
            device=device,
            rank=rank,
            world_size=int(os.environ.get('WORLD_SIZE', 1)),
            report=lambda line: print(line, flush=True),
        )
        if dataset.skipped:
            print(f'{dataset.skipped} pictures cannot be read: the next ones took their places')
    except MMVisionLLaMAError:
        raise
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise launch.LaunchError(str(error)) from error


if __name__ == '__main__':
    launch.run_cli(main)
