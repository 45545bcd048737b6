#!/usr/bin/env python
"""The deployment demo: two models of the package as files of every runtime, at six sizes, in 8 bits too.

    python tools/demo/deploy.py [--work-dir DIR]

Takes the trained digits' classifier and the segmentor of digit scenes that come with the package. Only what a user
would call is called: tools/deployment/export.py, quantize.py and predict.py, and mmvisionllama.deploy.
"""

import copy
import csv
import itertools
import statistics
import time
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np
import torch
import torch.nn.functional as F
from common import SCENES, make_digits, make_scenes, parse_work_dir, run, say
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmvisionllama import deploy, launch
from mmvisionllama.deploy.models import load_model

CLASSIFIER = 'configs/mmpretrain/quickstart/vision_llama_digits.py'
SEGMENTOR = 'configs/mmseg/quickstart/pyramid_vision_llama_digit_scenes.py'
WEIGHTS = {
    CLASSIFIER: 'weights/vision_llama_digits/model.safetensors',
    SEGMENTOR: 'weights/pyramid_vision_llama_digit_scenes_mmseg/model.safetensors',
}
TARGETS = ('torch', 'onnx', 'openvino')
SIZES = [(32, 32), (48, 48), (64, 64), (33, 47), (100, 130), (160, 352)]
ACCURACY_SIZES = (24, 32, 40, 48, 56, 64)
BATCHES = (1, 3)
BATCH, ROUNDS = 8, 7


def export(config: str, root: Path) -> Dict[str, Path]:
    """Runtime -> file."""
    files = {}
    for target in TARGETS:
        say(f'{Path(config).stem} to {target}')
        command = ['tools/deployment/export.py', config, WEIGHTS[config], '--to', target, '--out', root / target]
        run(command, root / f'{target}.log', r'exported in|largest relative')
        files[target] = (root / target).with_suffix(deploy.TARGETS[target][0])
    return files


def classify(model: torch.nn.Module, cfg: Config, forward: Callable, size: int) -> float:
    """Top-1 on the held-out digits at a size, in per cent."""
    loader = copy.deepcopy(cfg.test_dataloader)
    loader.update(num_workers=0, persistent_workers=False)
    for step in loader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = size
    right = count = 0
    for data in Runner.build_dataloader(loader):
        data = model.data_preprocessor(data)
        (scores,) = forward(data['inputs'])
        labels = torch.cat([sample.gt_label for sample in data['data_samples']])
        right, count = right + int((scores.argmax(1) == labels).sum()), count + len(labels)
    return 100 * right / count


def time_all(runners: Dict[str, Callable], images: torch.Tensor) -> Dict[str, float]:
    """Milliseconds of a batch, medians of rounds in alternation."""
    times: Dict[str, List[float]] = {name: [] for name in runners}
    for round_ in range(ROUNDS + 2):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner(images)
            if round_ > 1:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def size_of(path: Path) -> float:
    """MiB of a file, or of an OpenVINO pair."""
    files = [path, *([path.with_suffix('.bin')] if path.suffix == '.xml' else [])]
    return sum(file.stat().st_size for file in files) / 2**20


def measure(config: str, files: Dict[str, Path], accuracy: bool) -> tuple:
    """Rows of the table, and accuracy by size for each runtime."""
    cfg = launch.load_config(config)
    model = load_model(cfg, WEIGHTS[config])
    network = deploy.export_network(model)
    sessions = {name: deploy.load_exported(path) for name, path in files.items()}

    def eager(images: torch.Tensor) -> List[torch.Tensor]:
        with torch.no_grad():
            out = network(images)
        return [out] if isinstance(out, torch.Tensor) else list(out)

    loader = copy.deepcopy(cfg.test_dataloader)
    loader.update(batch_size=1, num_workers=0, persistent_workers=False)
    first = itertools.islice(Runner.build_dataloader(loader), max(BATCHES))
    pictures = torch.cat([F.interpolate(model.data_preprocessor(data)['inputs'], SIZES[-1]) for data in first])
    times = time_all({'PyTorch': eager, **sessions}, network.example((BATCH, 64, 64))[0])
    curves, rows = {}, []
    for name, forward in {'PyTorch': eager, **sessions}.items():
        if accuracy:
            curves[name] = [classify(model, cfg, forward, size) for size in ACCURACY_SIZES]
        rows.append(
            dict(
                model=Path(config).stem,
                runtime=name,
                difference=f'{deploy.largest_difference(network, forward, SIZES, BATCHES, pictures):.1e}',
                top1=f'{curves[name][ACCURACY_SIZES.index(32)]:.2f}' if accuracy else '',
                mib=f'{size_of(files[name]):.2f}' if name in files else '',
                ms=f'{times[name]:.1f}',
            )
        )
    return rows, curves


def draw(curves: Dict[str, List[float]], predicted: List[Path], path: Path) -> None:
    """Accuracy by size, and what the exported segmentor finds."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    widths = [2] + [1] * len(predicted)
    figure, axes = plt.subplots(1, len(widths), figsize=(13, 3.6), layout='constrained', width_ratios=widths)
    for (name, values), marker in zip(curves.items(), 'o^sdx'):
        axes[0].plot(ACCURACY_SIZES, values, marker=marker, label=name, alpha=0.7)
    axes[0].set(xlabel='size (pixels); trained at 32', ylabel='top-1 on held-out digits (%)', xticks=ACCURACY_SIZES)
    axes[0].set_title('One file per runtime, every size')
    axes[0].grid(alpha=0.3)
    axes[0].legend()
    for ax, file in zip(axes[1:], predicted):
        ax.imshow(np.asarray(Image.open(file)))
        ax.set_title(f'ONNX, {" x ".join(map(str, Image.open(file).size[::-1]))}')
        ax.axis('off')
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    root, start = parse_work_dir(__doc__, 'work_dirs/demo-deploy'), time.time()
    make_digits()
    make_scenes()

    files = export(CLASSIFIER, root / 'classifier')
    say('vision_llama_digits to 8 bits')
    command = ['tools/deployment/quantize.py', CLASSIFIER, WEIGHTS[CLASSIFIER], '--out', root / 'classifier' / 'int8']
    run(command, root / 'classifier' / 'int8.log', r'top-1|points lost')
    files['onnx int8'] = root / 'classifier' / 'int8.onnx'
    say('Measuring the classifier')
    rows, curves = measure(CLASSIFIER, files, accuracy=True)

    files = export(SEGMENTOR, root / 'segmentor')
    say('Measuring the segmentor')
    rows += measure(SEGMENTOR, files, accuracy=False)[0]
    scenes = sorted((SCENES / 'images' / 'validation').glob('*.jpg'))[:3]
    command = ['tools/deployment/predict.py', files['onnx'], *scenes, '--out', root / 'predicted']
    run(command, root / 'predicted.log', r'\.jpg')
    predicted = [root / 'predicted' / f'{scene.stem}_predicted.png' for scene in scenes]
    draw(curves, predicted, root / 'deployment.png')
    with open(root / 'results.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    say(f'Results after {time.time() - start:.0f} s')
    sizes = ', '.join(f'{height} x {width}' for height, width in SIZES)
    print(f'    largest relative difference to PyTorch, of pictures resized to {sizes}, batches of 1 and 3;')
    print(f'    milliseconds of a batch of {BATCH} at 64 x 64')
    titles = ('model', 'runtime', 'difference', 'top-1 (%)', 'MiB', 'ms')
    print('    ' + f'{titles[0]:<36}{titles[1]:<12}' + ''.join(f'{title:>12}' for title in titles[2:]))
    for row in rows:
        name, runtime, *rest = row.values()
        print('    ' + f'{name:<36}{runtime:<12}' + ''.join(f'{value:>12}' for value in rest))
    print(f'\n    picture: {root / "deployment.png"}')


if __name__ == '__main__':
    main()
