#!/usr/bin/env python
"""One training of the study, and its tests: what tools/study/run.py starts, with one thread.

python tools/study/job.py PART ARM --seed 0 --data-root data --work-dir work_dirs/study [--rate 1e-3]

Goes on from its last checkpoint. The log, JSON lines, appears in docs/results/study when all is done.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

import torch
from plan import CONFIGS, HELD_OUT, PARTS, ROOT, Job

from mmvisionllama import launch
from mmvisionllama.analysis import resolution_transfer
from mmvisionllama.analysis.classification import predict
from mmvisionllama.analysis.confidence_calibration import reliability
from mmvisionllama.checkpoints import find_state_dict, read_checkpoint
from mmvisionllama.checkpoints.writing import write_atomically
from mmvisionllama.visualization.training import read_scalars


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='One training of the study')
    parser.add_argument('part', choices=PARTS)
    parser.add_argument('arm')
    parser.add_argument('--seed', type=int, required=True)
    parser.add_argument('--rate', type=float, help='learning rate to try on held-out training images')
    parser.add_argument('--data-root', type=Path, default=Path('data'), help='folder with the data sets')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/study'))
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.CfgOptions, default={}, help='for tests: smaller runs'
    )
    return parser.parse_args(argv)


def best_rate(part: str, arm: str) -> float:
    """The learning rate with the best accuracy on held-out training images, the smaller one of equals."""
    found = {}
    for rate in PARTS[part].rates:
        job = Job(part, arm, 0, rate)
        if not job.log.exists():
            raise launch.LaunchError(f'{job.name} comes first: it helps to choose the learning rate')
        found[rate] = last(read(job.log), 'val')['top1']
    return max(sorted(found), key=found.get)


def read(log: Path) -> List[dict]:
    """The records of a log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def last(records: List[dict], kind: str) -> dict:
    """The last record of a kind."""
    return [record for record in records if record['kind'] == kind][-1]


def config_of(job: Job, rate: float, data_root: Path, options: Dict[str, object]) -> 'launch.config.Config':
    """The config as it is trained."""
    plan = PARTS[job.part]
    merged = {**plan.options, **(plan.tuning if job.rate is not None else {}), 'optim_wrapper.optimizer.lr': rate}
    merged.update({'randomness.seed': job.seed, 'randomness.deterministic': True, **options})
    cfg = launch.load_config(str(CONFIGS / plan.arms[job.arm].config), merged)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(data_root / Path(dataset.data_root).name)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    used = list(range(0, len(folder_images(train)), plan.train_every))
    if job.rate is not None:
        held_out = used[::HELD_OUT]
        val.update(data_prefix=train.data_prefix, indices=held_out)
        train.indices = sorted(set(used) - set(held_out))
    else:
        val.indices = list(range(0, len(folder_images(val)), plan.test_every))
        if plan.train_every > 1:
            train.indices = used
    return cfg


def folder_images(dataset: dict) -> List[Path]:
    """The images of a class-folder data set."""
    return [path for path in (Path(dataset.data_root) / dataset.data_prefix).glob('*/*') if path.is_file()]


def tests(job: Job, cfg: 'launch.config.Config', checkpoint: str) -> List[dict]:
    """Accuracy at every size on some of the test images, and at the training size on all of them."""
    plan, records = PARTS[job.part], []
    variants = plan.arms[job.arm].variants
    model = resolution_transfer.build_variants(cfg, checkpoint, variants[:1], torch.device('cpu'))[variants[0]]
    loader = resolution_transfer.build_test_data(cfg, cfg.image_size)
    found = predict(model, loader)
    right = (found.scores.argmax(1) == found.labels).double()
    recalls = [right[found.labels == label].mean().item() for label in found.labels.unique()]
    records.append(
        dict(
            kind='final',
            images=len(right),
            top1=round(found.accuracy, 4),
            recall=round(100 * sum(recalls) / len(recalls), 4),
            ece=round(100 * reliability(found.scores, found.labels).expected_error, 4),
            nll=round(-found.scores.gather(1, found.labels[:, None]).clamp(min=1e-12).log().mean().item(), 5),
        )
    )
    cfg.test_dataloader.dataset.indices = cfg.val_dataloader.dataset.indices
    cfg.test_evaluator = dict(type='Accuracy', topk=(1,))
    rows = resolution_transfer.evaluate(cfg, checkpoint, plan.sizes, variants, device='cpu', batch_size=32)
    return records + [dict(kind='test', **row) for row in rows]


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    job = Job(args.part, args.arm, args.seed, args.rate)
    torch.set_num_threads(1)
    rate = args.rate or best_rate(args.part, args.arm)
    work_dir, start = args.work_dir / job.name, time.time()
    cfg = config_of(job, rate, args.data_root, args.cfg_options)
    cfg.work_dir = str(work_dir)
    text = cfg.pretty_text
    launch.train(launch.prepare_train(cfg, resume='auto'))
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()

    records = [
        dict(
            kind='run',
            part=job.part,
            arm=job.arm,
            seed=job.seed,
            rate=rate,
            config=PARTS[job.part].arms[job.arm].config,
            command=' '.join(['python', 'tools/study/job.py', job.part, job.arm, f'--seed {job.seed}'])
            + (f' --rate {args.rate:g}' if args.rate else ''),
            parameters=sum(value.numel() for value in find_state_dict(read_checkpoint(checkpoint)).values()),
            epochs=cfg.train_cfg.max_epochs,
            batch=cfg.train_dataloader.batch_size,
            images=len(cfg.train_dataloader.dataset.get('indices', []))
            or len(folder_images(cfg.train_dataloader.dataset)),
            torch=torch.__version__,
            python=platform.python_version(),
            processor=processor(),
            threads=torch.get_num_threads(),
            commit=commit(),
        )
    ]
    for record in read_scalars(work_dir):
        if 'accuracy/top1' in record:
            records.append(dict(kind='val', epoch=record['step'], top1=record['accuracy/top1']))
        elif 'loss' in record:
            records.append({'kind': 'train', **{key: record[key] for key in ('epoch', 'iter', 'lr', 'loss')}})
    if job.rate is None:
        records += tests(job, cfg, checkpoint)
    records.append(dict(kind='end', seconds=round(time.time() - start)))
    (work_dir / 'config.py').write_text(text)
    shutil.copy(checkpoint, work_dir / 'final.pth')
    write_atomically(''.join(json.dumps(record) + '\n' for record in records).encode(), job.log)


def processor() -> str:
    """The processor's name, where the system says it."""
    info = Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')]
    return names[0] if names else platform.processor()


def commit() -> str:
    """The commit of the code, if it is a checkout."""
    found = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip()


if __name__ == '__main__':
    sys.exit(launch.run_cli(main))
