#!/usr/bin/env python
"""Rank of the attention maps of any classification config, layer by layer.

    python tools/analysis_tools/attention_rank.py CONFIG CHECKPOINT [--images 32]

Writes a CSV and a picture of the cumulative singular values.
"""

import argparse
import csv
from pathlib import Path

import torch

from mmvisionllama import launch
from mmvisionllama.analysis import attention_rank
from mmvisionllama.launch import classifier
from mmvisionllama.visualization import analyses


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Rank of attention maps')
    parser.add_argument('config', help='config file of a classifier')
    parser.add_argument('checkpoint', help='checkpoint trained with it')
    parser.add_argument('--images', type=int, default=32, help='images, drawn from the test set (default: 32)')
    parser.add_argument(
        '--rtol',
        type=float,
        default=1e-2,
        help='a singular value counts above this part of the largest (default: 0.01)',
    )
    parser.add_argument('--out', type=Path, help='CSV to write (default: work_dirs/ and the config name)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    args = parse_args()
    if args.images < 1:
        raise launch.LaunchError('--images must be at least 1')
    cfg = classifier.load_config(args.config, args.cfg_options)
    out = args.out or Path(cfg.work_dir) / 'attention_rank.csv'
    launch.check_target(out, suffixes=('.csv',))  # a picture of its name lies beside it
    # folders are read class by class: draw the images from all of them, the same ones every time
    cfg.test_dataloader.sampler = dict(type='DefaultSampler', shuffle=True, seed=0)
    cfg.test_dataloader.batch_size = min(args.images, cfg.test_dataloader.get('batch_size', 1))
    model, dataloader = classifier.open_classifier(cfg, args.checkpoint)
    meter, seen, sizes = attention_rank.RankMeter(args.rtol), 0, set()
    for batch in dataloader:
        sizes |= {tuple(image.shape[-2:]) for image in batch['inputs']}
        if len(sizes) > 1:  # one call of attention for each of them where images are packed
            found = ', '.join(f'{height} x {width}' for height, width in sorted(sizes)[:4])
            raise launch.LaunchError(f'pictures of several sizes ({found}): resize them to one in the test pipeline')
        with meter.record():
            model.test_step(batch)
        seen += len(batch['inputs'])
        if seen >= args.images:
            break
    layers = meter.result()
    if not layers:
        raise launch.LaunchError('no attention was seen: the model does not call scaled_dot_product_attention')

    print(f'{"layer":>5} {"queries x keys":>15} {"rank":>8} {"effective rank":>15}   mean over {seen} images')
    with open(out, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('layer', 'queries', 'keys', 'rank', 'effective_rank', 'rtol', 'images'))
        for layer in layers:
            size = f'{layer.queries} x {layer.keys}'
            print(f'{layer.layer:>5} {size:>15} {layer.rank:>8.2f} {layer.effective_rank:>15.2f}')
            ranks = (f'{layer.rank:.4f}', f'{layer.effective_rank:.4f}')
            writer.writerow((layer.layer, layer.queries, layer.keys, *ranks, args.rtol, seen))
    picture = out.with_suffix('.png')
    analyses.draw_ranks(layers, str(picture), Path(args.config).stem)
    print(f'ranks in {out}, picture in {picture}')


if __name__ == '__main__':
    launch.run_cli(main)
