#!/usr/bin/env python
"""Gives a classifier's weights a sheet of test pictures, so that they can be re-evaluated where the data set is not.

    python tools/model_zoo/thumbnails.py NAME [--per-class 2] [--data-root FOLDER]

Writes weights/NAME/thumbnails.png: a column for each class, in it the first test pictures of the class as the test
pipeline prepares them. The card and the index say how many of them the model, loaded from the package, gets right.
"""

import argparse
import sys
from pathlib import Path
from typing import List, Optional

import numpy as np
import yaml
from make_index import ROOT, WEIGHTS
from PIL import Image

from mmvisionllama import zoo
from mmvisionllama.deploy import Predictor
from mmvisionllama.errors import LaunchError
from mmvisionllama.launch import run_cli


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Add a sheet of test pictures to weights')
    parser.add_argument('name', help='name of the model')
    parser.add_argument('--per-class', type=int, default=2, help='pictures of each class')
    parser.add_argument('--data-root', type=Path, help="the data set's folder (default: the config's)")
    parser.add_argument('--root', type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    predictor = Predictor(args.name)
    dataset = zoo.config_and_weights(args.name)[0].test_dataloader.dataset
    folder = (args.data_root or Path(dataset.data_root)) / dataset.data_prefix
    columns = []
    if not predictor.classes:
        raise LaunchError(f'the config of {args.name} has no metainfo.classes, which name the folders of test pictures')
    for name in predictor.classes:
        files = sorted((folder / name).glob('*'))[: args.per_class]
        if len(files) < args.per_class:
            raise LaunchError(f'{folder / name} has fewer than {args.per_class} pictures')
        columns.append([predictor.prepare(str(file))['inputs'].permute(1, 2, 0).numpy()[..., ::-1] for file in files])
    sheet = np.concatenate([np.concatenate(column) for column in columns], axis=1)
    file = args.root / 'weights' / args.name / 'thumbnails.png'
    Image.fromarray(sheet).save(file, optimize=True)

    tiles = [np.ascontiguousarray(tile[..., ::-1]) for column in columns for tile in column]
    labels = [label for label, column in enumerate(columns) for _ in column]
    correct = sum(int(s.pred_label) == label for s, label in zip(predictor(tiles, batch_size=64), labels))
    index = yaml.safe_load((args.root / WEIGHTS).read_text())
    (entry,) = (model for model in index['Models'] if model['Name'] == args.name)
    entry['Thumbnails'] = {'File': f'weights/{args.name}/{file.name}', 'Pictures': len(tiles), 'Correct': correct}
    (args.root / WEIGHTS).write_text(yaml.safe_dump(index, sort_keys=False, width=1000))
    card = file.with_name('README.md')
    if card.exists():
        text = card.read_text().split('\n![Thumbnails]')[0].rstrip()
        text += f'\n\n![Thumbnails](thumbnails.png)\n\nThe first {args.per_class} test pictures of each class: '
        card.write_text(f'{text}{correct} of {len(tiles)} are classified correctly.\n')
    print(f'{file}: {correct} of {len(tiles)} correct')


if __name__ == '__main__':
    sys.exit(run_cli(main))
