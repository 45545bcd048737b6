"""What the demos share: running the tools, and the two data sets drawn from scikit-learn's digits."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

from mmvisionllama.datasets.digit_scenes import write_crops, write_scenes
from mmvisionllama.datasets.digits import write_digits

#: configs of the classifiers
CONFIGS = Path('configs/mmpretrain/quickstart')
DIGITS = Path('data/digits')
SCENES = Path('data/digit_scenes')
CROPS = Path('data/digit_crops')
#: the classifier whose backbone starts the dense models
PRETRAINING = CONFIGS / 'pyramid_vision_llama_digit_crops.py'


def parse_work_dir(description: str, default: str) -> Path:
    """The one option of every demo; ``description`` is its docstring, whose first line is shown as help."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument('--work-dir', type=Path, default=Path(default), help='where everything is written')
    return parser.parse_args().work_dir


def say(text: str) -> None:
    """A heading."""
    print(f'\n==> {text}', flush=True)


def run(command: list, log: Path, keep: str) -> None:
    """Runs a command; its whole output goes to ``log``, lines matching ``keep`` to the terminal."""
    print('    ' + ' '.join(str(part) for part in command), flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'w') as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            file.write(line)
            if re.search(keep, line):
                print('    ' + line.rstrip().split(' - INFO - ')[-1], flush=True)
    if process.wait():
        end = '\n'.join(log.read_text().splitlines()[-15:])
        sys.exit(f'ERROR: {command[0]} failed; the end of its output (all of it in {log}):\n{end}')


def last_checkpoint(folder: Path) -> Path:
    """The newest weights of a training in ``folder``."""
    return Path(os.path.relpath((folder / 'last_checkpoint').read_text().strip()))


def make_digits() -> Tuple[int, int]:
    """Writes the single digits; returns the number of training and of test scans."""
    say('Data: the handwritten digits that scikit-learn ships')
    counts = write_digits(str(DIGITS))
    print(f'    {DIGITS}: {counts[0]} training and {counts[1]} test scans')
    return counts


def make_scenes() -> Tuple[int, int]:
    """Writes the scenes of several digits; returns the number of training and of validation scenes."""
    say('Data: scenes of the handwritten digits that scikit-learn ships')
    counts = write_scenes(str(SCENES))
    print(f'    {SCENES}: {counts[0]} training scenes and {counts[1]} larger ones, of other scans, to validate')
    return counts


def pretrain(root: Path) -> List[str]:
    """Trains the classifier of single digits; returns the settings that start a dense model from its backbone."""
    say('Pre-training: the backbone as a classifier of single digits (two minutes on two cores)')
    counts = write_crops(str(CROPS))
    print(f'    {CROPS}: {counts[0]} training and {counts[1]} validation crops of 64 x 64')
    folder = root / PRETRAINING.stem
    run(
        ['tools/train.py', PRETRAINING, '--work-dir', folder],
        folder / 'train.log',
        r'Epoch\((val|train)\).*\[(\d+)/\2\]',
    )
    init = dict(type='Pretrained', checkpoint=last_checkpoint(folder), prefix='backbone.')
    return [f'model.backbone.init_cfg.{key}={value}' for key, value in init.items()]
