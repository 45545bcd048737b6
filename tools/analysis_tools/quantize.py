#!/usr/bin/env python
"""8-bit weights and activations for any classification config: accuracy before and after, size on disk.

    python tools/analysis_tools/quantize.py CONFIG CHECKPOINT [--training-aware] [--out int8.pth]

Without --training-aware the checkpoint is quantised as it is. With it the config's training is run first, from the
checkpoint, with simulated 8-bit arithmetic, in a folder training_aware/ of the work directory; shorten it with
--cfg-options, e.g. train_cfg.max_epochs=3. Stopped, the same command with --resume goes on.
"""

import argparse
import copy
import csv
from pathlib import Path

from mmengine.config import Config

from mmvisionllama import launch, quantization
from mmvisionllama.analysis import classification
from mmvisionllama.launch import classifier
from mmvisionllama.layers.options import type_name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='8-bit quantisation of a classifier')
    parser.add_argument('config', help='config file of a classifier')
    parser.add_argument('checkpoint', help='checkpoint trained with it')
    parser.add_argument('--training-aware', action='store_true', help='train with simulated 8-bit arithmetic first')
    parser.add_argument('--resume', action='store_true', help='go on with a training that was stopped')
    parser.add_argument(
        '--out', type=Path, help='8-bit model to write, a .pth; the table lies beside it (default: in work_dirs/)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def train_aware(cfg: Config, checkpoint: str, resume: bool):
    """Runs the config's training from the checkpoint with simulated 8-bit arithmetic and returns the model."""
    cfg = copy.deepcopy(cfg)
    cfg.load_from = checkpoint
    # the work directory itself may hold the checkpoints of the training in fp32
    cfg.work_dir = str(Path(cfg.work_dir) / 'training_aware')
    # the checkpoint is causal already: no second soft mask
    replaced = ('SoftMaskHook', 'QuantizationAwareTrainingHook')
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if type_name(hook['type']) not in replaced]
    cfg.custom_hooks = [*hooks, dict(type='QuantizationAwareTrainingHook')]
    cfg.model.backbone.pop('init_cfg', None)  # the checkpoint has everything
    return launch.train(launch.prepare_train(cfg, resume='auto' if resume else None))


def main() -> None:
    args = parse_args()
    try:
        quantization.check_available()
    except ImportError as error:
        raise launch.LaunchError(str(error)) from error
    cfg = classifier.load_config(args.config, args.cfg_options)
    out = args.out or Path(cfg.work_dir) / 'int8.pth'
    launch.check_target(out, suffixes=('.pth', '.pt'))
    if args.resume and not args.training_aware:
        raise launch.LaunchError('--resume goes on with a training: give --training-aware as well')
    mode = 'training-aware' if args.training_aware else 'post-training'
    model, dataloader = classifier.open_classifier(copy.deepcopy(cfg), args.checkpoint)
    rows = [('fp32', classification.predict(model, dataloader).accuracy, quantization.size_on_disk(model))]
    if args.training_aware:
        model = train_aware(cfg, args.checkpoint, args.resume)
    try:
        layers = quantization.quantised_layers(model)
        quantization.quantise(model)
    except ValueError as error:
        raise launch.LaunchError(str(error)) from error
    quantization.save_quantised(model, str(out))
    rows.append((f'int8 {mode}', classification.predict(model, dataloader).accuracy, out.stat().st_size))

    with open(out.with_suffix('.csv'), 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('model', 'top1', 'bytes', 'config', 'checkpoint'))
        writer.writerows((n, f'{acc:.3f}', size, args.config, args.checkpoint) for n, acc, size in rows)
    print(f'{len(layers)} linear layers with 8-bit weights and activations')
    for name, top1, size in rows:
        print(f'{name:<20} top-1 {top1:6.2f} %   {size / 2**20:8.2f} MiB on disk')
    print(f'8-bit model in {out}, table in {out.with_suffix(".csv")}')


if __name__ == '__main__':
    launch.run_cli(main)
