#!/usr/bin/env python
"""FID, sFID, inception score, precision and recall of a .npz file of samples.

    python tools/generation/evaluate.py samples.npz --reference VIRTUAL_imagenet256_labeled.npz --inception WEIGHTS.pth

WEIGHTS.pth are torch-fidelity's Inception weights. Features of a classifier of the zoo: --classifier NAME. Features of
your own: --extractor package.module:name, called without arguments to make the extractor (see
mmvisionllama/generation/metrics.py).
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

from mmvisionllama import launch, zoo
from mmvisionllama.generation import ClassifierFeatures
from mmvisionllama.generation.metrics import InceptionFeatures, compare, extract_npz, load_reference
from mmvisionllama.generation.pictures import npz_header


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate samples', formatter_class=launch.DefaultsFormatter)
    parser.add_argument('samples', help='.npz file: arr_0, (N, height, width, 3), uint8')
    parser.add_argument(
        '--reference', required=True, help='.npz file with images (arr_0), statistics (mu, sigma) or both'
    )
    features = parser.add_mutually_exclusive_group(required=True)
    features.add_argument('--inception', help="torch-fidelity's Inception weights")
    features.add_argument(
        '--classifier', metavar='NAME', help='features of a classifier of the zoo, for its kind of pictures'
    )
    features.add_argument('--extractor', metavar='MODULE:NAME', help='features of your own')
    parser.add_argument('--neighbour', type=int, default=3, help='k of precision and recall')
    parser.add_argument('--split-size', type=int, default=5000, help='samples per split of the inception score')
    parser.add_argument('--batch-size', type=int, default=64, help='images at once')
    parser.add_argument('--device', help='cpu or cuda (default: cuda if there is one)')
    parser.add_argument('--out', help='JSON file to write')
    return parser.parse_args()


def load_extractor(name: str):
    """Calls ``module:name``."""
    module, _, attribute = name.partition(':')
    sys.path.insert(0, '')  # a file in the current folder, as for python -m
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise launch.LaunchError(
            f'--extractor {name!r} cannot be made ({error}): expected package.module:name'
        ) from error


def zoo_features(name: str) -> ClassifierFeatures:
    """Those of a classifier of the zoo with its weights.

    Raises:
        LaunchError: If there is no such classifier, or none with weights.
    """
    try:
        model = zoo.get_model(name, pretrained=True)
    except KeyError as error:
        raise launch.LaunchError(f'--classifier: {error.args[0]}') from error
    if type(model).__name__ != 'ImageClassifier':
        raise launch.LaunchError(f'--classifier {name}: it is a {type(model).__name__} and no classifier')
    return ClassifierFeatures(model)


def main() -> None:
    args = parse_args()
    device = launch.check_device(args.device)
    for name in ('neighbour', 'split_size', 'batch_size'):
        if getattr(args, name) < 1:
            raise launch.LaunchError(f'--{name.replace("_", "-")} must be at least 1')
    if args.out:
        launch.check_target(args.out)
    if not Path(args.samples).is_file():
        raise launch.LaunchError(f'{args.samples!r} is no file: write it with tools/generation/sample.py --npz')
    try:
        npz_header(args.samples)  # a wrong file should not wait for the features of the reference
        if args.classifier:
            extractor = zoo_features(args.classifier)
        else:
            extractor = InceptionFeatures(args.inception) if args.inception else load_extractor(args.extractor)
        reference = load_reference(args.reference, extractor, args.batch_size, device)
        samples = extract_npz(args.samples, extractor, args.batch_size, device, reference)
        results = compare(samples, reference, args.neighbour, args.split_size, device)
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise launch.LaunchError(str(error)) from error
    for name, value in results.items():
        print(f'{name:<10} {value:.4f}')
    if args.out:
        features = args.classifier or args.extractor or 'Inception'
        content = dict(samples=args.samples, reference=args.reference, features=features, count=len(samples['pool']))
        content.update(results)
        Path(args.out).write_text(json.dumps(content, indent=2) + '\n')


if __name__ == '__main__':
    launch.run_cli(main)
