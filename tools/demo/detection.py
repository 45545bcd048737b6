#!/usr/bin/env python
"""The detection demo: trains Mask R-CNN on scenes made of real digits, tests on larger ones, and paints what it finds.

    python tools/demo/detection.py [--work-dir DIR]

A classifier of single digits comes first, as ImageNet comes before COCO; its backbone starts the detector. Only what a
user would call is called: tools/train.py, tools/test.py and tools/visualization/detect.py on the quickstart configs.
"""

import csv
import json
import sys
import time
from pathlib import Path
from typing import Dict, List

import numpy as np
from common import SCENES, last_checkpoint, make_scenes, parse_work_dir, pretrain, run, say
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmvisionllama.visualization.detection import Objects, plot_detections
from mmvisionllama.visualization.training import plot_learning_curves

CONFIG = Path('configs/mmdet/quickstart/pyramid_vision_llama_digit_scenes.py')
CLASSES = tuple(map(str, range(10)))
#: name -> options of tools/test.py
TESTS: Dict[str, List[str]] = {
    'AS2DRoPE': [],
    '2D RoPE (unscaled)': ['model.backbone.rope_cfg.scale=none'],
}
METRICS = ('segm_mAP', 'segm_mAP_50', 'segm_mAP_75', 'bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75')
GOAL = 45.0


def true_objects(coco: COCO, image: int) -> Objects:
    """The annotations of an image; category 1 is the digit 0."""
    annotations = coco.loadAnns(coco.getAnnIds(image))
    boxes = np.array([item['bbox'] for item in annotations])  # left, top, width, height
    boxes[:, 2:] += boxes[:, :2]
    masks = np.array([coco.annToMask(item) for item in annotations], dtype=bool)
    return Objects(boxes, masks, [item['category_id'] - 1 for item in annotations])


def found_objects(path: Path, size: tuple) -> Objects:
    """What tools/visualization/detect.py wrote about an image of ``size`` (H, W)."""
    found = json.loads(path.read_text())
    masks = [coco_mask.decode(item['mask']).astype(bool) for item in found]
    return Objects(
        np.array([item['bbox'] for item in found]).reshape(-1, 4),
        np.array(masks, dtype=bool).reshape(-1, *size),
        [CLASSES.index(item['class']) for item in found],
        [item['score'] for item in found],
    )


def main() -> None:
    root, start = parse_work_dir(__doc__, 'work_dirs/demo-det'), time.time()

    counts = make_scenes()

    init = pretrain(root)
    say('Training: Mask R-CNN with the pyramid (nine minutes on two cores)')
    folder = root / CONFIG.stem
    keep = r'Epoch\(val\).*segm_mAP:|Epoch\(train\).*\[(25|50|75)/75\]'
    command = ['tools/train.py', CONFIG, '--work-dir', folder, '--cfg-options', *init]
    run(command, folder / 'train.log', keep)
    checkpoint = last_checkpoint(folder)

    table = []
    for number, (name, options) in enumerate(TESTS.items()):
        say(f'Evaluation: {name}')
        out = root / f'test_{number}.json'
        command = ['tools/test.py', CONFIG, checkpoint, '--work-dir', root / 'test', '--out', out]
        run([*command, *(['--cfg-options', *options] if options else [])], out.with_suffix('.log'), r'^ERROR')
        metrics = json.loads(out.read_text())
        table.append((name, *(100 * metrics[f'coco/{key}'] for key in METRICS)))
        print(f'    mask AP50 {100 * metrics["coco/segm_mAP_50"]:.1f} %')

    say('Pictures')
    scenes = sorted((SCENES / 'images' / 'validation').glob('*.jpg'))[:6]
    command = ['tools/visualization/detect.py', CONFIG, checkpoint, *scenes, '--out', root / 'pictures']
    run(command, root / 'pictures.log', r'objects$')
    coco = COCO(str(SCENES / 'annotations' / 'instances_val.json'))
    rows = []
    for scene in scenes:
        image = np.asarray(Image.open(scene))
        found = found_objects(root / 'pictures' / f'{scene.stem}_objects.json', image.shape[:2])
        rows.append((image, true_objects(coco, int(scene.stem)), found))
    plot_detections(rows, CLASSES, root / 'objects.png', 'Held-out scenes, larger than those trained on')
    title = 'Digit scenes: held-out mask AP50'
    plot_learning_curves({'pyramid': folder}, 'coco/segm_mAP_50', root / 'learning_curve.png', title, factor=100)
    with open(root / 'results.csv', 'w', newline='') as file:
        rows = [(name, *(f'{value:.1f}' for value in values)) for name, *values in table]
        csv.writer(file).writerows([('positions', *METRICS), *rows])

    say(f'Results after {time.time() - start:.0f} s')
    print(f'    {counts[1]} held-out scenes of 176 ... 272 pixels a side; trained on scenes of 128 ... 192')
    print('    ' + f'{"":<20}{"mask AP":>10}{"AP50":>8}{"AP75":>8}{"box AP":>10}{"AP50":>8}{"AP75":>8}')
    for name, *values in table:
        widths = (10, 8, 8, 10, 8, 8)
        print('    ' + f'{name:<20}' + ''.join(f'{value:>{width}.1f}' for value, width in zip(values, widths)))
    print('\n    pictures:')
    for picture in ('objects.png', 'learning_curve.png', 'pictures'):
        print(f'      {root / picture}')
    if table[0][2] < GOAL:
        sys.exit(f'ERROR: mask AP50 {table[0][2]:.1f} % on the held-out scenes, at least {GOAL} % was expected')


if __name__ == '__main__':
    main()
