#!/usr/bin/env python
"""The generation demo: DiT-LLaMA and SiT-LLaMA learn to draw digits on the CPU, and a classifier reads them.

    python tools/demo/generation.py [--work-dir DIR]

It only calls what a user would call, tools/train.py and tools/generation/sample.py on configs/generation/quickstart/.
The classifier knows real digits only; it says how many samples look like the class they were asked for.
"""

import csv
import re
import sys
import time
from pathlib import Path

import numpy as np
from common import last_checkpoint, make_digits, parse_work_dir, run, say

from mmvisionllama.datasets.digits import split_digits

CONFIGS = Path('configs/generation/quickstart')
PER_CLASS = 20
#: what is sampled: (name, config, arguments of sample.py)
SAMPLINGS = (
    ('DiT-LLaMA, DDPM 250 steps, unguided', 'dit_llama_digits.py', ['--cfg-scale', 1]),
    ('DiT-LLaMA, DDPM 250 steps', 'dit_llama_digits.py', []),
    ('DiT-LLaMA, DDIM 50 steps', 'dit_llama_digits.py', ['--sampler', 'ddim']),
    ('SiT-LLaMA, ODE dopri5', 'sit_llama_digits.py', []),
)
GOAL = 80.0


def fit_classifier():
    """A support vector machine on the real training digits, and its accuracy on the held-out ones in percent."""
    from sklearn.svm import SVC

    images, labels, train, test = split_digits()
    flat = images.reshape(len(images), -1) / 255
    classifier = SVC(C=10).fit(flat[train], labels[train])
    return classifier, 100 * classifier.score(flat[test], labels[test])


def main() -> None:
    root, start = parse_work_dir(__doc__, 'work_dirs/demo_gen'), time.time()

    make_digits()
    classifier, accuracy = fit_classifier()
    print(f'    a classifier trained on them reads {accuracy:.1f} % of the held-out ones')

    for name in dict.fromkeys(config for _, config, _ in SAMPLINGS):
        say(f'Training: {name} (two to four minutes)')
        folder = root / Path(name).stem
        command = ['tools/train.py', CONFIGS / name, '--work-dir', folder]
        run(command, folder / 'train.log', r'Iter\(train\) +\[ *(\d+00|\d+)/\1\]|Iter\(train\) +\[ *\d*[05]00/')

    rows = []
    for name, config, options in SAMPLINGS:
        say(f'Sampling: {name}')
        folder = root / Path(config).stem
        stem = root / re.sub(r'[^a-z0-9]+', '_', name.lower())
        command = ['tools/generation/sample.py', CONFIGS / config, last_checkpoint(folder), *options]
        command += ['--classes', *range(10), '--num', 10 * PER_CLASS, '--batch-size', 10 * PER_CLASS]
        command += ['--grid', stem.with_suffix('.png'), '--npz', stem.with_suffix('.npz')]
        began = time.time()
        run(command, stem.with_suffix('.log'), r'^(error|ERROR)')
        with np.load(stem.with_suffix('.npz')) as archive:
            samples = archive['arr_0'][..., 0]
        read = classifier.predict(samples.reshape(len(samples), -1) / 255)
        recognised = 100 * float(np.mean(read == np.arange(len(samples)) % 10))
        rows.append(
            (name, len(samples), f'{recognised:.1f}', f'{time.time() - began:.0f}', stem.with_suffix('.png').name)
        )
        print(f'    {recognised:.1f} % of {len(samples)} samples are read as their class')

    with open(root / 'results.csv', 'w', newline='') as file:
        csv.writer(file).writerows([('sampling', 'samples', 'recognised_percent', 'seconds', 'picture'), *rows])
    say(f'Results after {time.time() - start:.0f} s (all with guidance 2 unless the name says otherwise)')
    print(f'    {"real, held out":<40}{accuracy:>8.1f} % recognised')
    for name, _, recognised, _, picture in rows:
        print(f'    {name:<40}{recognised:>8} % recognised   {root / picture}')
    low = [name for name, _, recognised, *_ in rows if 'unguided' not in name and float(recognised) < GOAL]
    if low:
        sys.exit(f'ERROR: fewer than {GOAL:.0f} % of the samples are recognised: {", ".join(low)}')


if __name__ == '__main__':
    main()
