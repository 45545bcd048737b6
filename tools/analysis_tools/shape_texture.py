#!/usr/bin/env python
"""Shape or texture: decisions of any classification config on images with conflicting cues.

    python tools/analysis_tools/shape_texture.py CONFIG CHECKPOINT STIMULI [--categories FILE.json]

STIMULI holds STIMULI/<shape>/<shape><number>-<texture><number>.png, as the stimuli of Geirhos et al. (arXiv 1811.12231)
do. Models of the 1000 ImageNet classes are judged by that work's 16 categories; for others --categories names a JSON
file {"category": [class, ...], ...}.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Dict, List, Optional

from mmengine.config import Config

from mmvisionllama import launch
from mmvisionllama.analysis import classification, shape_texture
from mmvisionllama.launch import classifier
from mmvisionllama.layers.options import type_name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Shape-texture bias of a classifier')
    parser.add_argument('config', help='config file of a classifier')
    parser.add_argument('checkpoint', help='checkpoint trained with it')
    parser.add_argument('stimuli', help='folder of cue-conflict images')
    parser.add_argument('--categories', type=Path, help='JSON file: category to classes (default: the 16 of ImageNet)')
    parser.add_argument('--out', type=Path, help='CSV to write (default: work_dirs/ and the config name)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def read_categories(path: Optional[Path]) -> Dict[str, List[int]]:
    """Categories of a JSON file, by default the 16 of ImageNet."""
    if path is None:
        return shape_texture.imagenet_categories()
    try:
        categories = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise launch.LaunchError(f'--categories {str(path)!r} cannot be read ({error})') from error
    lists = categories.values() if isinstance(categories, dict) else [None]
    if not all(isinstance(item, list) and all(type(index) is int for index in item) for item in lists):
        raise launch.LaunchError(f'--categories {str(path)!r}: expected {{"category": [class, ...], ...}}')
    return categories


def use_stimuli(cfg: Config, stimuli: str) -> None:
    """Reads the stimuli through the config's own test pipeline."""
    if not Path(stimuli).is_dir():
        raise launch.LaunchError(f'the folder of stimuli {stimuli!r} does not exist: check the path')
    pipeline = list(cfg.test_dataloader.dataset.pipeline)
    if not type_name(pipeline[0].type).startswith('LoadImage'):
        pipeline.insert(0, dict(type='LoadImageFromFile'))
        cfg.data_preprocessor.to_rgb = True  # CIFAR's own images are RGB, those of files are BGR
    cfg.test_dataloader.dataset = dict(type='CustomDataset', data_root=stimuli, data_prefix='', pipeline=pipeline)


def main() -> None:
    args = parse_args()
    cfg = classifier.load_config(args.config, args.cfg_options)
    out = args.out or Path(cfg.work_dir) / 'shape_texture.csv'
    launch.check_target(out)
    categories = read_categories(args.categories)
    use_stimuli(cfg, args.stimuli)
    result = classification.predict(*classifier.open_classifier(cfg, args.checkpoint))
    try:
        bias = shape_texture.shape_bias(result.scores, list(map(shape_texture.cues_of, result.paths)), categories)
    except ValueError as error:
        raise launch.LaunchError(str(error)) from error
    if not bias.images:
        raise launch.LaunchError(f'no image in {args.stimuli!r} has conflicting cues: there is nothing to judge')

    with open(out, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('category', 'shape_decisions', 'texture_decisions'))
        writer.writerows((name, bias.shape[name], bias.texture[name]) for name in categories)
    print(f'{bias.images} images with conflicting cues, {100 * bias.cue_accuracy:.2f} % decided for one of them')
    print(f'shape bias {100 * bias.bias:.2f} % (shape decisions among these)')
    print(f'counts in {out}')


if __name__ == '__main__':
    launch.run_cli(main)
