#!/usr/bin/env python
"""Exports a trained classifier as an 8-bit ONNX file, and refuses one that lost too much.

    python tools/deployment/quantize.py CONFIG CHECKPOINT [--out FILE] [--allowed 0.5] [--images 128]

Ranges are read from training images as the test pipeline prepares them. Accuracy before and after is that of the
config's test set. While more than --allowed points are lost, the layers whose 8-bit form moves the logits most stay in
fp32, an eighth of all more each time, half at most. ONNX Runtime and OpenVINO run the file, Predictor takes it.
"""

import argparse
import copy
from pathlib import Path
from typing import List

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from mmvisionllama import deploy, launch
from mmvisionllama.deploy.int8 import quantize_onnx, sensitivity
from mmvisionllama.deploy.models import file_info, load_model, session_model, test_dataset
from mmvisionllama.launch import classifier

METRIC = 'accuracy/top1'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Export a classifier in 8 bits')
    parser.add_argument('config', help='config of a classifier')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('--out', type=Path, help='file to write (default: work_dirs/ and the config name)')
    parser.add_argument('--allowed', type=float, default=0.5, help='points of top-1 that may be lost')
    parser.add_argument('--images', type=int, default=128, help='training images that the ranges are read from')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def unwrapped(dataset: dict) -> List[dict]:
    """The datasets that wrappers such as RepeatDataset and ConcatDataset hold, or the dataset itself."""
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    return [part for each in inner for part in unwrapped(each)] or [dataset]


def training_images(cfg: Config, model: torch.nn.Module, count: int) -> List[Tensor]:
    """Batches of training images, prepared and normalised as in a test; of packed images each is a batch."""
    loader = copy.deepcopy(cfg.train_dataloader)
    for dataset in unwrapped(loader.dataset):
        dataset['pipeline'] = test_dataset(cfg)['pipeline']
    loader.update(batch_size=16, num_workers=0, persistent_workers=False, drop_last=False)
    loader.sampler = dict(type='DefaultSampler', shuffle=True)
    loader.pop('batch_sampler', None)
    batches, found = [], 0
    for data in Runner.build_dataloader(loader, seed=0):
        images = model.data_preprocessor(data)['inputs']
        found += len(images)
        batches.extend([images.cpu()] if isinstance(images, Tensor) else [image[None].cpu() for image in images])
        if found >= count:
            break
    return batches


def accuracy(cfg: Config, file: Path) -> float:
    """Top-1 of an exported file on the config's test set, in per cent."""
    runner = Runner(
        session_model(deploy.load_exported(file)),
        work_dir=cfg.work_dir,
        test_dataloader=copy.deepcopy(cfg.test_dataloader),
        test_evaluator=copy.deepcopy(cfg.test_evaluator),
        test_cfg=dict(),
        default_scope='mmpretrain',
        experiment_name=f'{file.stem}_{file.stat().st_mtime_ns}',
        log_level='WARNING',
    )
    metrics = runner.test()
    if METRIC not in metrics:
        raise launch.LaunchError(f'the config measures {", ".join(metrics)}, and this tool compares {METRIC}')
    return metrics[METRIC]


def main() -> None:
    args = parse_args()
    deploy.check_target('onnx')
    cfg = classifier.load_config(args.config, args.cfg_options)
    model = load_model(cfg, args.checkpoint)
    network = deploy.export_network(model)
    out = deploy.target_path(args.out or Path(cfg.work_dir) / 'int8', 'onnx')
    fp32 = out.with_name(out.stem + '_fp32.onnx')
    with deploy.written_aside(fp32) as before_file, deploy.written_aside(out) as after_file:
        deploy.export(network, before_file, 'onnx', info=file_info(cfg, model))
        images = training_images(cfg, model, args.images)
        before = accuracy(cfg, before_file)
        print(f'fp32: top-1 {before:.2f} %, {before_file.stat().st_size / 2**20:.2f} MiB', flush=True)
        order, keep = list(sensitivity(network, images[0])), []
        while True:
            quantize_onnx(before_file, after_file, images, keep)
            after = accuracy(cfg, after_file)
            print(
                f'int8: top-1 {after:.2f} %, {after_file.stat().st_size / 2**20:.2f} MiB, '
                f'{len(order) - len(keep)} of {len(order)} layers in 8 bits',
                flush=True,
            )
            if before - after <= args.allowed:
                break
            keep = order[: len(keep) + max(1, len(order) // 8)]
            if len(keep) > len(order) / 2:
                raise launch.LaunchError(
                    f'more than {args.allowed:g} points are lost even with half of the layers in fp32: no file is '
                    f'written. Try more --images, or tools/analysis_tools/quantize.py --training-aware'
                )
    print(f'{out}: {before - after:+.2f} points lost, in fp32: {", ".join(keep) or "none of them"}')


if __name__ == '__main__':
    launch.run_cli(main)
