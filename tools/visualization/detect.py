#!/usr/bin/env python
"""Detects objects in pictures of one's own: the picture with boxes and masks, and the objects as JSON.

    python tools/visualization/detect.py CONFIG CHECKPOINT IMAGE... --out FOLDER [--score 0.5]

Writes FOLDER/NAME_objects.png and FOLDER/NAME_objects.json (a list of objects: class, score, bbox as left, top, right,
bottom in pixels, mask as COCO's compressed RLE). Pictures may have any size: the config's test pipeline scales them.
"""

import argparse
import json
import tempfile
from pathlib import Path

from mmvisionllama import launch
from mmvisionllama.checkpoints import find_state_dict, load_strictly, read_checkpoint
from mmvisionllama.checkpoints.loading import check_switches
from mmvisionllama.datasets.pictures import standing


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Detect objects in pictures')
    parser.add_argument('config', help='config of a detection model')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='pictures')
    parser.add_argument('--out', type=Path, required=True, help='folder for the pictures and the lists of objects')
    parser.add_argument('--score', type=float, default=0.5, help='least score of an object that is shown and listed')
    parser.add_argument('--device', help="'cpu' or 'cuda:0' (default: a GPU if there is one)")
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def objects_of(prediction: dict, classes: list, score: float) -> list:
    """What an inferencer found, best first, as dicts that JSON can hold."""
    rows = zip(*(prediction.get(key, []) for key in ('labels', 'scores', 'bboxes')))
    masks = prediction.get('masks') or [None] * len(prediction['labels'])
    found = [
        {'class': classes[label], 'score': round(value, 4), 'bbox': [round(side, 1) for side in box], 'mask': mask}
        for (label, value, box), mask in zip(rows, masks)
        if value >= score
    ]
    return sorted(found, key=lambda item: -item['score'])


def main() -> None:
    args = parse_args()
    cfg = launch.load_config(args.config, args.cfg_options)
    if cfg.get('default_scope') != 'mmdet':
        raise launch.LaunchError(f'{args.config} is no config of a detection model')
    checkpoint = read_checkpoint(args.checkpoint)
    weights = find_state_dict(checkpoint)
    launch.check_names(args.images)
    copies = tempfile.TemporaryDirectory()
    sources = [standing(image, copies.name) for image in args.images]
    launch.check_folder(args.out, f'the folder {str(args.out)!r}')
    args.device = launch.check_device(args.device)
    from mmdet.apis import DetInferencer
    from PIL import Image

    inferencer = DetInferencer(cfg, args.checkpoint, device=args.device, show_progress=False)
    # the inferencer only warns about weights that do not fit
    load_strictly(inferencer.model, weights, args.checkpoint)
    check_switches(inferencer.model, checkpoint, args.checkpoint)
    inferencer.model.dataset_meta.update(launch.missing_classes(cfg, checkpoint))
    classes = inferencer.model.dataset_meta['classes']
    for image, source in zip(args.images, sources):
        result = inferencer(source, return_vis=True, pred_score_thr=args.score)
        target = args.out / f'{Path(image).stem}_objects'
        found = objects_of(result['predictions'][0], classes, args.score)
        Image.fromarray(result['visualization'][0]).save(f'{target}.png')
        Path(f'{target}.json').write_text(json.dumps(found) + '\n')
        print(f'{target}.png: {len(found)} objects')
    copies.cleanup()


if __name__ == '__main__':
    launch.run_cli(main)
