#!/usr/bin/env python
"""Gives the weights of a generator or a masked autoencoder a score that can be measured again: the held-out loss.

python tools/model_zoo/held_out.py NAME --data-root FOLDER [--per-class 8]

FOLDER holds a folder of test pictures for each class. The loss is that of training, of four times and noises or four
masks for each picture that depend on a seed alone; for an autoencoder without the crops and turns of training. A
generator draws eight pictures of each class as well, weights/NAME/samples.png. Card and index say what was found, the
card also what tools/generation/evaluate.py has written to weights/NAME/evaluation.json.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Dict, List, Optional

import torch
import yaml
from make_index import ROOT, WEIGHTS
from torch.utils.data import DataLoader, Subset

from mmvisionllama import zoo
from mmvisionllama.errors import LaunchError
from mmvisionllama.generation import ImageGenerator, LabelledImages, held_out_loss
from mmvisionllama.generation.pictures import image_grid, save_picture
from mmvisionllama.launch import run_cli

DRAWS = 4
ROWS = 8
BATCH = 100


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Measure the loss of weights on test pictures')
    parser.add_argument('name', help='name of the model')
    parser.add_argument('--data-root', type=Path, required=True, help='folder with a folder of pictures for each class')
    parser.add_argument('--per-class', type=int, help='how many pictures of each class (default: all)')
    parser.add_argument('--root', type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


@torch.no_grad()
def masked_loss(model: torch.nn.Module, batches: DataLoader, seed: int = 0) -> float:
    """Mean loss of the hidden patches of an autoencoder, of ``DRAWS`` masks for each picture."""
    normalise, total, count = model.data_preprocessor, 0.0, 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in batches:
            images = (((batch['inputs'] + 1) * 127.5).round() - normalise.mean) / normalise.std
            for _ in range(DRAWS):
                total += len(images) * model.loss(images, [])['loss'].item()
                count += len(images)
    return total / count


def first_of_each(images: LabelledImages, number: Optional[int]) -> Subset:
    """The first pictures of each class, all without ``number``."""
    by_class: Dict[int, List[int]] = {}
    for index, (_, label) in enumerate(images.samples):
        by_class.setdefault(label, []).append(index)
    if number and min(map(len, by_class.values())) < number:
        raise LaunchError(f'{images.data_root} has classes with fewer than {number} pictures')
    return Subset(images, [index for indices in by_class.values() for index in indices[:number]])


def evaluated(file: Path) -> str:
    """What the card says of the samples' distance, nothing without a file of ``evaluate.py``."""
    if not file.exists():
        return ''
    found = json.loads(file.read_text())
    return (
        f'\n\nFréchet distance **{found["FID"]:.2f}**, precision {found["precision"]:.2f}, recall '
        f'{found["recall"]:.2f}: {found["count"]:,} samples and all test pictures in the features of '
        f'`{found["features"]}` ([{file.name}]({file.name})); '
        'to compare models measured in them, and no FID of a publication.'
    )


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    model = zoo.get_model(args.name, pretrained=True)
    data = zoo.config_of(args.name).train_dataloader.dataset
    folder = args.root / 'weights' / args.name
    card = ''
    if isinstance(model, ImageGenerator):
        images = LabelledImages(args.data_root, size=data.size, grayscale=data.get('grayscale', False))
        pictures = first_of_each(images, args.per_class)
        loss = held_out_loss(model, DataLoader(pictures, BATCH), DRAWS)
        classes = model.network.num_classes
        drawn = model.sample(torch.arange(ROWS * classes) % classes, seed=0)
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(str(folder / 'samples.png'), image_grid(drawn, classes))
        card = (
            f'\n\n![Samples](samples.png)\n\nThe first {ROWS} samples of each class, seed 0, drawn as its config says.'
        ) + evaluated(folder / 'evaluation.json')
    else:
        images = LabelledImages(args.data_root, size=model.backbone.img_size[0])
        pictures = first_of_each(images, args.per_class)
        loss = masked_loss(model, DataLoader(pictures, BATCH))
    loss = round(loss, 5)
    index = yaml.safe_load((args.root / WEIGHTS).read_text())
    (entry,) = (found for found in index['Models'] if found['Name'] == args.name)
    entry['Held-out'] = {'Pictures': len(pictures), 'Loss': loss}
    (args.root / WEIGHTS).write_text(yaml.safe_dump(index, sort_keys=False, width=1000))
    file = folder / 'README.md'
    if file.exists():
        text = file.read_text().split('\nHeld-out loss ')[0].rstrip()
        draws = f'{DRAWS} times and noises' if card else f'{DRAWS} masks, no crops'
        text += f'\n\nHeld-out loss **{loss}**: {len(pictures)} test pictures, {draws}, the same in every measurement.'
        file.write_text(f'{text}{card}\n')
    print(f'{args.name}: loss {loss} on {len(pictures)} pictures')


if __name__ == '__main__':
    sys.exit(run_cli(main))
