#!/usr/bin/env python
"""Photographs at several resolutions, and what one classifier says of each: a row for a photograph.

    python tools/visualization/resolutions.py MODEL PICTURE... --sizes 80 160 320 --out FILE.png

MODEL is an exported file, a config with --checkpoint, or the name of a model whose weights come with the package.
"""

import argparse
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np

from mmvisionllama import deploy, launch
from mmvisionllama.deploy.predictor import list_pictures
from mmvisionllama.visualization.analyses import FIGURES


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Classify photographs at several resolutions')
    parser.add_argument('model', help='exported file, config, or name of a model with weights')
    parser.add_argument('images', nargs='+', metavar='PICTURE', help='pictures or folders of pictures')
    parser.add_argument('--sizes', nargs='+', type=int, required=True, help='sides of the prepared picture, pixels')
    parser.add_argument('--out', type=Path, required=True, help='picture to write')
    parser.add_argument('--checkpoint', help='weights, for a config')
    return parser.parse_args(argv)


def seen_and_said(predictor: deploy.Predictor, image: str) -> Tuple[np.ndarray, str]:
    """The prepared picture ``(H, W, 3)``, BGR, and the best class with its score."""
    (sample,) = predictor(image)
    if 'pred_score' not in sample:
        raise launch.LaunchError('the model is no classifier')
    best = int(sample.pred_score.argmax())
    name = predictor.classes[best] if predictor.classes else f'class {best}'
    seen = predictor.prepare(image)['inputs'].permute(1, 2, 0).numpy()
    return seen, f'{name} {100 * float(sample.pred_score[best]):.0f} %'


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    launch.check_target(args.out, suffixes=FIGURES)
    predictors = {size: deploy.Predictor(args.model, args.checkpoint, size=size) for size in args.sizes}
    images = list_pictures(args.images)

    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    shape = (len(images), len(predictors))
    figure, axes = plt.subplots(*shape, figsize=(2.6 * shape[1], 2.9 * shape[0]), squeeze=False)
    for row, image in zip(axes, images):
        for axis, (size, predictor) in zip(row, predictors.items()):
            seen, said = seen_and_said(predictor, image)
            print(f'{image} at {size}: {said}')
            axis.imshow(seen[..., ::-1], interpolation='nearest')
            axis.set_title(f'{seen.shape[0]} x {seen.shape[1]}: {said}', fontsize=9)
            axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(args.out, dpi=110)


if __name__ == '__main__':
    launch.run_cli(main)
