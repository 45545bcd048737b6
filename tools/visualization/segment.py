#!/usr/bin/env python
"""Segments pictures of one's own: an overlay and a label map for each.

    python tools/visualization/segment.py CONFIG CHECKPOINT IMAGE... --out FOLDER [--mode slide]

Writes FOLDER/NAME_overlay.png (the picture with its classes painted over) and FOLDER/NAME_labels.png (the class of each
pixel, 0 is the first class). Pictures may have any size: the config's test pipeline scales them.
"""

import argparse
import tempfile
from pathlib import Path

from mmvisionllama import launch
from mmvisionllama.checkpoints import find_state_dict, load_strictly, read_checkpoint
from mmvisionllama.checkpoints.loading import check_switches
from mmvisionllama.datasets.pictures import standing


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Segment pictures')
    parser.add_argument('config', help='config of a segmentation model')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='pictures')
    parser.add_argument('--out', type=Path, required=True, help='folder for the overlays and the label maps')
    parser.add_argument('--mode', choices=['whole', 'slide'], help="inference (default: the config's)")
    parser.add_argument('--opacity', type=float, default=0.6, help='of the painted classes, 0 ... 1')
    parser.add_argument('--device', help="'cpu' or 'cuda:0' (default: a GPU if there is one)")
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, metavar='KEY=VALUE', help='override settings'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = launch.load_config(args.config, args.cfg_options)
    if cfg.get('default_scope') != 'mmseg':
        raise launch.LaunchError(f'{args.config} is no config of a segmentation model')
    if args.mode:
        cfg.model.test_cfg.mode = args.mode
    checkpoint = read_checkpoint(args.checkpoint)
    weights = find_state_dict(checkpoint)
    launch.check_names(args.images)
    copies = tempfile.TemporaryDirectory()
    sources = [standing(image, copies.name) for image in args.images]
    launch.check_folder(args.out, f'the folder {str(args.out)!r}')
    args.device = launch.check_device(args.device)
    from mmseg.apis import MMSegInferencer
    from PIL import Image

    inferencer = MMSegInferencer(cfg, args.checkpoint, device=args.device)
    # the inferencer only warns about weights that do not fit
    load_strictly(inferencer.model, weights, args.checkpoint)
    check_switches(inferencer.model, checkpoint, args.checkpoint)
    inferencer.model.dataset_meta.update(launch.missing_classes(cfg, checkpoint))
    inferencer.show_progress = False  # mmsegmentation 1.2 has no argument for it
    for image, source in zip(args.images, sources):
        result = inferencer(source, return_vis=True, opacity=args.opacity)
        target = args.out / Path(image).stem
        Image.fromarray(result['visualization']).save(f'{target}_overlay.png')
        labels = result['predictions']
        Image.fromarray(labels.astype('uint8' if labels.max() < 256 else 'uint16')).save(f'{target}_labels.png')
        print(f'{target}_overlay.png')
    copies.cleanup()


if __name__ == '__main__':
    launch.run_cli(main)
