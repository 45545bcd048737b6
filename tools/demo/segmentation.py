#!/usr/bin/env python
"""The segmentation demo: trains on scenes made of real digits, tests on larger ones, and shows overlays.

    python tools/demo/segmentation.py [--work-dir DIR]

A classifier of single digits comes first, as ImageNet comes before ADE20K; its backbone starts the segmentor. Only what
a user would call is called: tools/train.py, tools/test.py and tools/visualization/segment.py on the quickstart configs.
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

from mmvisionllama import launch
from mmvisionllama.datasets.digit_scenes import CLASSES
from mmvisionllama.visualization.segmentation import plot_segmentations
from mmvisionllama.visualization.training import plot_learning_curves

CONFIG = Path('configs/mmseg/quickstart/pyramid_vision_llama_digit_scenes.py')
#: name -> options of tools/test.py
TESTS: Dict[str, List[str]] = {
    'whole scenes': [],
    'whole scenes, 2D RoPE (unscaled)': ['model.backbone.rope_cfg.scale=none'],
    'sliding windows of the crop': ['model.test_cfg.mode=slide'],
}
GOAL = 60.0


def read(path: Path) -> np.ndarray:
    """Pixels of a picture or of a label map."""
    return np.asarray(Image.open(path))


def main() -> None:
    root, start = parse_work_dir(__doc__, 'work_dirs/demo-seg'), time.time()

    counts = make_scenes()

    init = pretrain(root)
    say('Training: UperNet with the pyramid, crops of 128 x 128 (six minutes on two cores)')
    folder = root / CONFIG.stem
    command = ['tools/train.py', CONFIG, '--work-dir', folder, '--cfg-options', *init]
    run(command, folder / 'train.log', r'Iter\(val\).*mIoU|Iter\(train\).*(00|50)/')
    checkpoint = last_checkpoint(folder)

    table = []
    for number, (name, options) in enumerate(TESTS.items()):
        say(f'Evaluation: {name}')
        out = root / f'test_{number}.json'
        command = ['tools/test.py', CONFIG, checkpoint, '--work-dir', root / 'test', '--out', out]
        run([*command, *(['--cfg-options', *options] if options else [])], out.with_suffix('.log'), r'^ERROR')
        metrics = json.loads(out.read_text())
        table.append((name, metrics['mIoU'], metrics['aAcc']))
        print(f'    mIoU {metrics["mIoU"]:.1f} %')

    say('Overlays')
    scenes = sorted((SCENES / 'images' / 'validation').glob('*.jpg'))[:6]
    command = ['tools/visualization/segment.py', CONFIG, checkpoint, *scenes, '--out', root / 'overlays']
    run(command, root / 'overlays.log', r'_overlay.png')
    palette = launch.load_config(str(CONFIG)).palette
    rows = []
    for scene in scenes:
        truth = read(SCENES / 'annotations' / 'validation' / f'{scene.stem}.png') - 1  # 0 is unlabelled there
        rows.append((read(scene), truth, read(root / 'overlays' / f'{scene.stem}_labels.png')))
    plot_segmentations(rows, CLASSES, palette, root / 'overlays.png', 'Held-out scenes, larger than the training crops')
    plot_learning_curves({'pyramid': folder}, 'mIoU', root / 'learning_curve.png', 'Digit scenes: held-out mIoU')
    with open(root / 'results.csv', 'w', newline='') as file:
        csv.writer(file).writerows([('test', 'mIoU', 'pixel accuracy'), *table])

    say(f'Results after {time.time() - start:.0f} s')
    print(f'    {counts[1]} held-out scenes of 176 ... 272 pixels a side; trained at 128')
    print('    ' + f'{"test":<36}{"mIoU (%)":>10}{"pixels right (%)":>18}')
    for name, miou, accuracy in table:
        print('    ' + f'{name:<36}{miou:>10.1f}{accuracy:>18.1f}')
    print('\n    pictures:')
    for picture in ('overlays.png', 'learning_curve.png', 'overlays'):
        print(f'      {root / picture}')
    if table[0][1] < GOAL:
        sys.exit(f'ERROR: mIoU {table[0][1]:.1f} % on the held-out scenes, at least {GOAL} % was expected')


if __name__ == '__main__':
    main()
