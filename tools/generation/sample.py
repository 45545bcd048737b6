#!/usr/bin/env python
"""Samples images from a trained generator: a picture to look at, or the .npz file that evaluation suites read.

    python tools/generation/sample.py CONFIG CHECKPOINT --classes 207 360 387 --cfg-scale 4 --grid samples.png
    torchrun --nproc-per-node 8 tools/generation/sample.py CONFIG CHECKPOINT --num 50000 --npz samples.npz

The result depends on the seed, not on the number of processes. Run the same command again after an interruption: it
goes on with the samples that --npz has.
"""

import argparse
import hashlib
import os
import time
from datetime import timedelta

import numpy as np
import torch

from mmvisionllama import launch
from mmvisionllama.generation import load_generator, sample_set
from mmvisionllama.generation.dit_llama import CFG_CHANNELS, CFG_CHANNELS_ALIASES
from mmvisionllama.generation.labelled_images import ClassLabels
from mmvisionllama.generation.pictures import PICTURES, SampleFile, image_grid, save_picture
from mmvisionllama.generation.samplers import ADAPTIVE, SAMPLERS, build_sampler
from mmvisionllama.layers.options import type_name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Sample images', formatter_class=launch.DefaultsFormatter)
    parser.add_argument('config', help='config of the training')
    parser.add_argument('checkpoint', help='checkpoint of the training, or a converted one')
    parser.add_argument('--classes', type=int, nargs='+', help='classes to go round (default: drawn at random)')
    parser.add_argument('--num', type=int, help='number of samples (default: 8 per class, or 64)')
    parser.add_argument(
        '--size', type=int, nargs='+', metavar='PIXELS', help="side, or height and width (default: model's)"
    )
    parser.add_argument('--cfg-scale', type=float, help="guidance, 1 for none (default: the config's)")
    parser.add_argument(
        '--cfg-channels',
        choices=(*CFG_CHANNELS, *CFG_CHANNELS_ALIASES),
        help="guided latent channels (default: the config's)",
    )
    parser.add_argument('--sampler', choices=sorted(SAMPLERS), help="sampler (default: the config's)")
    parser.add_argument('--steps', type=int, help="steps of the sampler (default: the sampler's)")
    parser.add_argument('--seed', type=int, help="seed of the whole set (default: the config's)")
    parser.add_argument('--batch-size', type=int, default=64, help='samples made at once by one process')
    parser.add_argument('--grid', help='picture to write')
    parser.add_argument('--columns', type=int, help='columns of the picture (default: one per class, or 8)')
    parser.add_argument('--npz', help='file to write: arr_0, (N, height, width, 3), uint8')
    parser.add_argument('--vae', help="VAE, a folder or a hub name (default: the config's)")
    parser.add_argument('--device', help='cpu or cuda (default: cuda if there is one)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def processes(device: str):
    """Rank, number of processes and device of this one; torchrun says so in the environment."""
    rank, world_size = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    device = launch.check_device(device)
    if device == 'cuda':
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
        torch.cuda.set_device(device)
    if world_size > 1:
        # only to wait for each other, at the end, when the fastest may have been done for hours
        torch.distributed.init_process_group('gloo', timeout=timedelta(days=1))
    return rank, world_size, device


def barrier(world_size: int) -> None:
    if world_size > 1:
        torch.distributed.barrier()


def sampler_of(args, cfg) -> dict:
    """Config of the sampler that the arguments ask for, or of the config's own."""
    own = cfg.model.sampler
    own = dict(SAMPLERS[own] if isinstance(own, str) else own)
    sampler = dict(SAMPLERS[args.sampler]) if args.sampler else own
    kind = type_name(sampler['type'])
    if kind in ('DDPMSampler', 'DDIMSampler') and 'clip' in own:
        sampler['clip'] = own['clip']  # a property of the data
    if args.steps is not None:
        method = sampler.get('method', 'dopri5')
        if kind == 'ODESampler' and method in ADAPTIVE:
            raise launch.LaunchError(f'{method} chooses its own steps: leave --steps out, or take --sampler ode-heun')
        sampler['num_steps'] = args.steps
    return sampler


def description(args, model, cfg, labels, seed: int) -> dict:
    """What the samples depend on, for a run that was stopped to be told from another one."""
    weights = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    run = dict(
        weights=weights.hexdigest(),
        model=str(cfg.model),
        sampler=str(sampler_of(args, cfg)),
        labels=hashlib.sha256(str(list(map(int, labels))).encode()).hexdigest(),
        cfg_scale=model.cfg_scale,
        cfg_channels=args.cfg_channels,
        seed=seed,
    )
    if getattr(model.sampler, 'method', None) in ADAPTIVE:
        run['batch_size'] = args.batch_size  # its steps are a batch's own
    return run


def main() -> None:
    args = parse_args()
    if not args.grid and not args.npz:
        raise launch.LaunchError('nothing to write: give --grid FILE.png, --npz FILE.npz or both')
    if args.size is not None and len(args.size) > 2:
        raise launch.LaunchError('--size takes one side, or height and width')
    for name, least in (('batch_size', 1), ('num', 1), ('columns', 1), ('steps', 1), ('seed', 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise launch.LaunchError(f'--{name.replace("_", "-")} must be at least {least}')
    for option, path, suffixes in (('--grid', args.grid, PICTURES), ('--npz', args.npz, ('.npz',))):
        if path:
            launch.check_target(path, option, suffixes)
    cfg = launch.load_config(args.config, args.cfg_options)
    kind = type_name(launch.check_model(cfg)['type'])
    if kind != 'ImageGenerator':
        raise launch.LaunchError(f'{args.config!r} builds a {kind}: sampling takes configs of an ImageGenerator')
    if args.vae:
        cfg.model.codec = dict(cfg.model.get('codec') or dict(type='PixelCodec'), pretrained=args.vae)
    launch.set_matmul_precision(cfg)
    rank, world_size, device = processes(args.device)
    try:
        model = load_generator(cfg, args.checkpoint, device)
        model.codec.load()
        model.sampler = build_sampler(sampler_of(args, cfg), model.objective)
        if args.cfg_scale is not None:
            model.cfg_scale = args.cfg_scale
        seed = model.seed if args.seed is None else args.seed
        num = args.num or (8 * len(args.classes) if args.classes else 64)
        labels = ClassLabels(num, model.network.num_classes, args.classes, seed).labels
        size = model.image_size if args.size is None else (args.size[0], args.size[-1])
        model.check_sampling(size, model.cfg_scale)
        target = None
        if args.npz and rank == 0:
            target = SampleFile(args.npz, (num, *size, 3), description(args, model, cfg, labels, seed))
            if target.made.any():
                print(f'goes on: {target.made.sum()} of {num} samples are there', flush=True)
    except ValueError as error:
        raise launch.LaunchError(str(error)) from error
    barrier(world_size)
    if args.npz and rank > 0:
        target = SampleFile(args.npz)
    shown, start = {}, time.time()

    def write(indices, images):
        if target:
            target.write(indices, images)
        elif args.grid:
            shown.update(zip(indices, images.cpu().numpy()))  # a tensor's row would be sent with its whole batch
        if rank == 0:
            done = min(num, indices[-1] + 1 + (world_size - 1) * args.batch_size)
            print(f'{done} of {num} samples, {time.time() - start:.0f} s', flush=True)

    options = dict(cfg_channels=args.cfg_channels, seed=seed, image_size=size)
    options['made'] = (lambda indices: target.made[list(indices)].all()) if target else None
    sample_set(model, labels, write, batch_size=args.batch_size, rank=rank, world_size=world_size, **options)

    if target:
        target.flush()
        barrier(world_size)
        if args.grid and rank == 0:
            shown = dict(enumerate(target.array.transpose(0, 3, 1, 2).copy()))
        if rank == 0:
            target.finish()
            print(f'samples written to {args.npz}')
    elif args.grid and world_size > 1:
        parts = [None] * world_size
        torch.distributed.all_gather_object(parts, shown)
        shown = {index: image for part in parts for index, image in part.items()}
    if args.grid and rank == 0:
        columns = args.columns or (len(args.classes) if args.classes else 8)
        grid = image_grid(torch.from_numpy(np.stack([shown[index] for index in range(num)])), columns)
        save_picture(args.grid, grid, min_side=1024)
        print(f'picture written to {args.grid}')
    if world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == '__main__':
    launch.run_cli(main)
