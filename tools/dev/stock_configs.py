#!/usr/bin/env python
"""Tries our backbones in stock configs of the installed mmpretrain, mmdetection and mmsegmentation.

Each config is built with a backbone of ours, initialised as it says, trained two steps on random data by its own
optimizer wrapper, and predicts at two image sizes. With --processes 2 the two steps run in DistributedDataParallel over
gloo, as the config would on two GPUs. Random data: "works" means finite losses and predictions, not that it learns.

python tools/dev/stock_configs.py [--library mmdet mmseg] [--only PART ...] [--fast] [--processes N] [--out TABLE.md]
"""

import argparse
import importlib
import multiprocessing
import platform
import queue
import socket
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from stock_cases import CASES, Case
from torch import distributed as dist
from torch import nn

LIBRARIES = ('mmpretrain', 'mmdet', 'mmseg')
#: constructors that know their own library's backbones by name; ours takes their place, as the README says
OTHERS_LAYER_DECAY = ('LayerDecayOptimizerConstructor', 'LearningRateDecayOptimizerConstructor')
ODD_SIZE = (133, 201)


def config_file(case: Case) -> Path:
    library = importlib.import_module(case.library)
    return Path(library.__file__).parent / '.mim/configs' / case.path


def find(node: Any, name: str) -> Any:
    """The part of a config that a dotted name means; numbers index lists."""
    for key in name.split('.') if name else ():
        node = node[int(key)] if key.isdigit() else node[key]
    return node


def fewer_proposals(node: Any) -> None:
    """Caps the proposals and samples of detectors, most of whose time goes there."""
    if isinstance(node, (list, tuple)):
        for item in node:
            fewer_proposals(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, int) and key in ('max_per_img', 'nms_pre'):
                node[key] = min(value, 50)
            elif key == 'num' and 'Sampler' in str(node.get('type')):
                node[key] = min(value, 32)
            else:
                fewer_proposals(value)


def prepare(case: Case) -> Config:
    """The config with our backbone, fit for small random images."""
    cfg = Config.fromfile(config_file(case))
    parent, _, last = case.where.rpartition('.')
    find(cfg, parent)[last] = ConfigDict(case.backbone)
    for name, value in case.model.items():
        parent, _, last = name.rpartition('.')
        find(cfg.model, parent)[last] = value
    cfg.model.pop('pretrained', None)
    if case.library == 'mmpretrain':
        cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor', {}))
    preprocessor = cfg.model.get('data_preprocessor', {})
    if preprocessor.get('batch_augments'):
        preprocessor.batch_augments = None  # they resize and pad to the config's own size
    fewer_proposals(cfg.model)
    if case.library == 'mmseg':
        preprocessor.update(size=(case.size, case.size), test_cfg=None)
        preprocessor.pop('size_divisor', None)
    return cfg


def optim_wrapper_cfg(cfg: Config) -> Tuple[dict, str]:
    """The config's optimizer wrapper without mixed precision, whose scaler wants a GPU, and a remark."""
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None:
        return dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-6)), 'has no optimizer'
    wrapper = wrapper.to_dict()
    for key in ('loss_scale', 'dtype', 'use_fp16'):
        wrapper.pop(key, None)
    wrapper['type'] = 'OptimWrapper'
    wrapper['optimizer']['lr'] = 1e-6  # without its warm-up
    if wrapper.get('constructor') not in OTHERS_LAYER_DECAY:
        return wrapper, ''
    given = wrapper['paramwise_cfg']
    rate = given.get('decay_rate', given.get('layer_decay_rate'))
    # as a config that inherits this one has to say it
    ours = dict(
        constructor='LayerDecayOptimWrapperConstructor', paramwise_cfg=dict(_delete_=True, layer_decay_rate=rate)
    )
    return Config._merge_a_into_b(ours, wrapper), 'with our layer-decay constructor'


def pretrain_batch(case: Case, sizes: Sequence[Tuple[int, int]], training: bool) -> dict:
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label([0, 2] if case.multi_label else i) for i in range(len(sizes))]
    views = [torch.randint(0, 255, (len(sizes), 3, *sizes[0])).float() for _ in range(case.views)]
    return dict(inputs=views if case.views > 1 else views[0], data_samples=samples)


def det_batch(case: Case, sizes: Sequence[Tuple[int, int]], training: bool) -> dict:
    from mmdet.testing import demo_mm_inputs

    def batch() -> dict:
        return demo_mm_inputs(
            len(sizes),
            [[3, *size] for size in sizes],
            num_items=[3, 4][: len(sizes)],
            num_classes=2 if 'crowddet' in case.path else 10,
            with_mask='rtmdet/rtmdet_' not in case.path,  # these load no masks, and their assigner would trip over them
            with_semantic=True,
            use_box_type=True,
        )

    if 'detector' not in case.where or not training:
        return batch()
    branches = {name: batch() for name in ('sup', 'unsup_teacher', 'unsup_student')}  # semi-supervised
    for data in branches.values():
        for sample in data['data_samples']:
            sample.set_metainfo(dict(homography_matrix=torch.eye(3).numpy()))
    return {key: {name: data[key] for name, data in branches.items()} for key in ('inputs', 'data_samples')}


def seg_batch(case: Case, sizes: Sequence[Tuple[int, int]], training: bool) -> dict:
    from mmseg.structures import SegDataSample

    samples = []
    for size in sizes:
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, *size))))
        sample.set_metainfo(dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0] * 4))
        samples.append(dict(inputs=torch.randint(0, 255, (3, *size), dtype=torch.uint8), data_samples=sample))
    return pseudo_collate(samples)


BATCHES = dict(mmpretrain=pretrain_batch, mmdet=det_batch, mmseg=seg_batch)


def train(model: nn.Module, cfg: Config, case: Case) -> Tuple[List[float], str]:
    """Two training steps, in parallel where a process group is open: their losses and a remark."""
    wrapper, remark = optim_wrapper_cfg(cfg)
    optim_wrapper = build_optim_wrapper(model, wrapper)
    stepped = model.train()
    if dist.is_initialized():
        unused = cfg.get('find_unused_parameters', False)
        remark = '; '.join(filter(None, (remark, 'the config itself sets find_unused_parameters' if unused else '')))
        stepped = MMDistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=unused)
    less = (0, 0) if case.same_size else (5, 13)
    sizes = [(case.size, case.size), (case.size - less[0], case.size - less[1])]
    losses = []
    for _ in range(2):
        log = stepped.train_step(BATCHES[case.library](case, sizes, True), optim_wrapper)
        losses.append(float(log['loss']))
    if not all(torch.tensor(losses).isfinite()):
        raise RuntimeError(f'losses {losses}')
    return losses, remark


@torch.no_grad()
def predict(model: nn.Module, case: Case) -> None:
    """Predictions at the training's size and at one that no patch, window or ratio divides."""
    model.eval()
    for size in [(case.size, case.size)] + [ODD_SIZE] * case.odd_size:
        count = 1 if case.library != 'mmpretrain' else 2
        outs = model.test_step(BATCHES[case.library](case, [size] * count, False))
        if len(outs) != count:
            raise RuntimeError(f'{len(outs)} predictions for {count} images of {size}')
        if case.library == 'mmseg' and outs[0].pred_sem_seg.data.shape[-2:] != size:
            raise RuntimeError(f'a map of {tuple(outs[0].pred_sem_seg.data.shape)} for an image of {size}')


def run(case: Case, rank: int = 0, world: int = 1, port: int = 0) -> str:
    """Tries one config in this process, one of ``world``; returns a remark or raises what went wrong."""
    init_default_scope(case.library)
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD's head asks
    MessageHub.get_current_instance().update_info('max_iters', 100)  # a cosine of mmpretrain's moving averages
    cfg = prepare(case)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    try:
        model.init_weights()
        remark = ''
    except Exception as error:  # weights of a stock head behind an address
        if not cfg.model.to_dict().__repr__().count('://'):
            raise
        remark = f'init_weights: {type(error).__name__} (no network)'
    if world > 1:  # not before init_weights: ranks wait for each other where they load weights
        dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=world)
    losses, note = train(model, cfg, case)
    if case.predicts and rank == 0:
        predict(model, case)
    return '; '.join(filter(None, (f'loss {losses[0]:.4g}', remark, note)))


def work(case: Case, rank: int, world: int, port: int, results: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    try:
        results.put((rank, True, run(case, rank, world, port)))
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f'{Path(last.filename).name}:{last.lineno}'
        text = f'{type(error).__name__}: {error} ({where})'.replace('\n', ' ').replace('|', '/')
        results.put((rank, False, text[:400]))


def attempt(case: Case, processes: int, timeout: float) -> Tuple[str, str]:
    """Tries one config in processes of its own: ``'works'``, ``'fails'`` or ``'absent'``, and a remark."""
    if not config_file(case).exists():
        return 'absent', 'not in this version'
    context = multiprocessing.get_context('fork')  # the libraries are imported once
    results = context.Queue()
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    workers = [context.Process(target=work, args=(case, i, processes, port, results)) for i in range(processes)]
    for worker in workers:
        worker.start()
    answers: Dict[int, Tuple[bool, str]] = {}
    end = time.monotonic() + timeout
    try:
        while len(answers) < processes:
            rank, fine, remark = results.get(timeout=max(end - time.monotonic(), 0.01))
            answers[rank] = fine, remark
            if not fine:
                return 'fails', remark
    except queue.Empty:
        return 'fails', f'no answer within {timeout:g} s'
    finally:
        for worker in workers:
            worker.join(timeout=5 if len(answers) == processes else 0)
            worker.kill()
    return 'works', answers[0][1]


def versions(libraries: Sequence[str]) -> str:
    names = ('torch', 'mmengine', 'mmcv', *libraries)
    found = [f'{name} {importlib.import_module(name).__version__}' for name in names]
    return ', '.join([f'Python {platform.python_version()}', *found])


def table(rows: Sequence[Tuple[Case, str, str]], processes: int, libraries: Sequence[str]) -> str:
    kinds = {'works': 'work', 'fails': 'fail', 'absent': 'are not in this version'}
    counts = ', '.join(f'{sum(row[1] == kind for row in rows)} {text}' for kind, text in kinds.items())
    how = f'{processes} processes (DistributedDataParallel, gloo)' if processes > 1 else '1 process'
    lines = [f'{versions(libraries)}; {how}: {len(rows)} configs tried, {counts}.', '']
    for library in libraries:
        lines += [f'### {library}', '', '| config | backbone | result | remark |', '|---|---|---|---|']
        for case, result, remark in rows:
            if case.library == library:
                lines.append(f'| {case.path} | {case.backbone["type"]} | {result} | {remark} |')
        lines.append('')
    return '\n'.join(lines)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Try our backbones in stock configs')
    parser.add_argument('--library', nargs='+', choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument('--only', nargs='+', help='parts of the paths of the configs to try')
    parser.add_argument('--fast', action='store_true', help='only six of them')
    parser.add_argument('--processes', type=int, default=1, help='processes that train together (default: 1)')
    parser.add_argument('--timeout', type=float, default=300, help='seconds per config (default: 300)')
    parser.add_argument('--out', type=Path, help='write a table in Markdown')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    warnings.filterwarnings('ignore')
    MMLogger.get_instance('stock_configs', log_level='ERROR')
    torch.set_num_threads(1)
    for library in args.library:
        importlib.import_module(f'{library}.models')
        importlib.import_module(f'{library}.engine')
    importlib.import_module('mmvisionllama')
    cases = [
        case
        for case in CASES
        if case.library in args.library
        and (case.fast or not args.fast)
        and (not args.only or any(part in case.path for part in args.only))
    ]
    rows = []
    for case in cases:
        start = time.monotonic()
        result, remark = attempt(case, args.processes, args.timeout)
        rows.append((case, result, remark))
        print(f'{result:<6} {case.library}/{case.path} {time.monotonic() - start:.0f} s; {remark}', flush=True)
    text = table(rows, args.processes, args.library)
    print(text.splitlines()[0])
    if args.out:
        args.out.write_text(text)
    return int(not rows or any(result == 'fails' for _, result, _ in rows))


if __name__ == '__main__':
    sys.exit(main())
