#!/usr/bin/env python
"""Predicts on pictures with an exported file or a checkpoint, and paints the predictions.

    python tools/deployment/predict.py model.onnx IMAGE_OR_FOLDER... --out FOLDER
    python tools/deployment/predict.py CONFIG IMAGE_OR_FOLDER... --checkpoint CHECKPOINT --out FOLDER

Prints the class of each picture (classification) or the share of each class (segmentation), and writes
FOLDER/NAME_predicted.png.
"""

import argparse
from pathlib import Path

import numpy as np

from mmvisionllama import deploy, launch
from mmvisionllama.deploy.predictor import list_pictures


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Predict on pictures')
    parser.add_argument('model', help='exported file (.onnx, .xml, .pt2) or config')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='pictures or folders of pictures')
    parser.add_argument('--checkpoint', help='weights, for a config')
    parser.add_argument('--out', type=Path, required=True, help='folder for the painted pictures')
    parser.add_argument('--precision', choices=['f32', 'bf16', 'f16'], default='f32', help='of OpenVINO')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    predictor = deploy.Predictor(args.model, args.checkpoint, precision=args.precision)
    images = list_pictures(args.images)
    launch.check_names(images)
    from PIL import Image, ImageDraw, ImageOps

    from mmvisionllama.visualization.segmentation import overlay

    args.out.mkdir(parents=True, exist_ok=True)
    for image in images:
        (sample,) = predictor(image)
        picture = ImageOps.exif_transpose(Image.open(image)).convert('RGB')
        name = predictor.classes.__getitem__ if predictor.classes else str
        if 'pred_sem_seg' in sample:
            labels = sample.pred_sem_seg.data[0].cpu().numpy()
            palette = predictor.model.dataset_meta.get('palette')
            if palette is None:  # any colours that differ
                palette = np.random.default_rng(0).integers(0, 256, (labels.max() + 1, 3))
            picture = Image.fromarray(overlay(np.asarray(picture), labels, palette))
            values, counts = np.unique(labels, return_counts=True)
            text = ', '.join(f'{name(int(v))} {100 * c / labels.size:.0f} %' for v, c in zip(values, counts))
        elif 'pred_score' in sample:
            best = int(sample.pred_score.argmax())
            text = f'{name(best)} {float(sample.pred_score[best]):.3f}'
            ImageDraw.Draw(picture).text((2, 2), text, fill='red', stroke_width=1, stroke_fill='white')
        else:
            raise launch.LaunchError('objects are painted by tools/visualization/detect.py: use that')
        picture.save(args.out / f'{Path(image).stem}_predicted.png')
        print(f'{image}: {text}')


if __name__ == '__main__':
    launch.run_cli(main)
