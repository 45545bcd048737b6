"""Packed images against batches padded to their largest image, in buckets of like aspect ratios.

Both sides run the same model on the same images at their native sizes. The padded side knows the images' sizes
(``valid_sizes``), so both give the same outputs; ``--ignore-padding`` lets it compute with the padding instead, which
is a plain attention without a mask and gives other outputs.

    python benchmarks/packed.py --images 64 --batch-size 8

Sizes are those of COCO's annotation file (``--annotations``) or drawn from its usual ones: a long side of 640 pixels
and a short one of 360 to 640, three quarters of them lying.
"""

import argparse
import json
import random
from functools import partial
from pathlib import Path
from typing import List, Sequence, Tuple

import torch
from harness import RESULTS, compare, write_csv

from mmvisionllama.backbones import VisionLLaMA

Size = Tuple[int, int]
MORE = ('images_per_second', 'tokens', 'padded')


def coco_sizes(path: str) -> List[Size]:
    """(height, width) of every image of an annotation file."""
    with open(path) as file:
        return [(image['height'], image['width']) for image in json.load(file)['images']]


def usual_sizes(count: int, seed: int = 0) -> List[Size]:
    """Sizes like COCO's: 640 x 480 and 640 x 427 for the most part, a quarter of them upright."""
    draw = random.Random(seed)
    sizes = []
    for _ in range(count):
        short = draw.choice([480] * 5 + [427] * 4 + [draw.randint(360, 640)])
        sizes.append((640, short) if draw.random() < 0.25 else (short, 640))
    return sizes


def scaled(sizes: Sequence[Size], factor: float) -> List[Size]:
    """The sizes times ``factor``."""
    return [tuple(max(1, round(side * factor)) for side in size) for size in sizes]


def buckets(images: Sequence[torch.Tensor], batch_size: int, kind: str) -> List[List[torch.Tensor]]:
    """Batches of images of like aspect ratios: ``'sorted'``, or ``'two'`` groups in the order of a shuffle.

    Two groups, lying and upright, are what mmdetection's ``AspectRatioBatchSampler`` makes. Sorting all images gives
    the least padding that batches can have, and the same batches in every epoch.
    """
    if kind == 'sorted':
        groups = [sorted(images, key=lambda image: (image.shape[1] / image.shape[2], image.shape[1]))]
    else:
        shuffled = random.Random(0).sample(images, len(images))
        groups = [[x for x in shuffled if (x.shape[1] < x.shape[2]) == lying] for lying in (True, False)]
    return [group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)]


def padded(images: Sequence[torch.Tensor]) -> Tuple[torch.Tensor, List[Size]]:
    """One batch, and the images' own sizes."""
    sizes = [tuple(image.shape[1:]) for image in images]
    batch = images[0].new_zeros(len(images), 3, *(max(sides) for sides in zip(*sizes)))
    for row, image, (height, width) in zip(batch, images, sizes):
        row[:, :height, :width] = image
    return batch, sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arch', default='small', help='architecture of the plain backbone (default: small)')
    parser.add_argument('--annotations', help="annotation file of COCO's format; its sizes instead of simulated ones")
    parser.add_argument('--images', type=int, default=64, help='number of images (default: 64)')
    parser.add_argument('--scale', type=float, default=0.35, help='factor of the sizes (default: 0.35)')
    parser.add_argument('--batch-size', type=int, default=8, help='images in a batch (default: 8)')
    parser.add_argument('--buckets', choices=('sorted', 'two'), default='sorted', help='how the padded side batches')
    parser.add_argument('--rounds', type=int, default=5, help='timed passes of each side in turn (default: 5)')
    parser.add_argument('--train', action='store_true', help='forward and backward pass')
    parser.add_argument('--ignore-padding', action='store_true', help='the padded side computes with its padding')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, help='CSV file (default: benchmarks/results/packed_DEVICE.csv)')
    parser.add_argument('--append', action='store_true', help='add to the file')
    args = parser.parse_args()
    device = torch.device(args.device)
    sizes = coco_sizes(args.annotations)[: args.images] if args.annotations else usual_sizes(args.images)
    images = [torch.randn(3, *size, device=device) for size in scaled(sizes, args.scale)]
    model = VisionLLaMA(args.arch).to(device).train(args.train)

    def run(call) -> None:
        half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda')
        with torch.set_grad_enabled(args.train), half:
            (out,) = call()
        if args.train:
            out.float().pow(2).mean().backward()
            model.zero_grad()

    def run_padded(batch) -> None:
        x, own = padded(batch)
        run(lambda: model(x) if args.ignore_padding else model(x, valid_sizes=own))

    batches = buckets(images, args.batch_size, args.buckets)
    shuffled = random.Random(0).sample(images, len(images))
    packs = [shuffled[start : start + args.batch_size] for start in range(0, len(images), args.batch_size)]
    sides = {
        'padded': lambda: [run_padded(batch) for batch in batches],
        'packed': lambda: [run(partial(model.forward_packed, batch)) for batch in packs],
    }
    grids = [[model.patch_embed.grid(image.shape[1:]) for image in batch] for batch in batches]
    tokens = sum(rows * cols for batch in grids for rows, cols in batch)
    with_padding = sum(len(batch) * max(r for r, _ in batch) * max(c for _, c in batch) for batch in grids)
    print(
        f'{args.arch}, {len(images)} images, batches of {args.batch_size}, {"training" if args.train else "inference"}'
    )
    print(f'tokens: {tokens} of {with_padding} with padding')
    case = f'{args.arch}, {"training" if args.train else "inference"}, batches of {args.batch_size}'
    case += ', padding not masked' if args.ignore_padding else ''
    case += ', lying and upright apart' if args.buckets == 'two' else ''
    dtype = 'bfloat16' if device.type == 'cuda' else 'float32'
    rows = compare(case, sides, rounds=args.rounds, device=device, dtype=dtype)
    for row in rows:
        row.update(images_per_second=f'{len(images) / float(row["median_s"]):.1f}', tokens=tokens, padded=with_padding)
        print(f'{row["contender"]}: {row["images_per_second"]} images/s')
    write_csv(args.out or RESULTS / f'packed_{device.type}.csv', rows, args.append, MORE)


if __name__ == '__main__':
    main()
