"""Sampling and distances shared by two processes over gloo: the results are those of one."""

import copy
from datetime import timedelta
from unittest import mock

import numpy as np
import torch
from mmengine.registry import HOOKS, METRICS, MODELS, TASK_UTILS

from mmvisionllama.generation import neighbours
from mmvisionllama.generation.neighbours import full_precision, precision_recall

CFG = dict(
    type='ImageGenerator',
    network=dict(
        type='DiTLLaMA',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2),
        in_channels=1,
        num_classes=3,
        anchor=4,
        return_sigma=False,
    ),
    objective=dict(type='LinearInterpolant'),
    sampler=dict(type='SDESampler', num_steps=3),
)


@TASK_UTILS.register_module()
class Corners:
    """Features of one's own."""

    def __call__(self, images):
        return dict(pool=images[:, 0, ::3, ::3].flatten(1).float())


def processes(function, *args):
    """What ``function(*args)`` returns in each of two processes."""
    context = torch.multiprocessing.get_context('fork')
    results = context.Queue()
    store = torch.distributed.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)

    def work(rank):
        torch.set_num_threads(1)
        client = torch.distributed.TCPStore('127.0.0.1', store.port, is_master=False)
        torch.distributed.init_process_group(
            'gloo', store=client, rank=rank, world_size=2, timeout=timedelta(seconds=20)
        )
        results.put((rank, function(*args)))
        torch.distributed.destroy_process_group()

    workers = [context.Process(target=work, args=(rank,), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=20) for _ in workers)
    for worker in workers:
        worker.join(20)
    return [found[rank] for rank in range(2)]


def features(count, seed):
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


def counted_precision_recall(samples, reference):
    """The result, and the number of rows whose distances this process computed."""
    rows = []

    def counted(one, two):
        rows.append(len(one))
        return original(one, two)

    original = neighbours._squared_distances
    with mock.patch.object(neighbours, '_squared_distances', counted):
        return precision_recall(samples, reference, chunk=16, shared=True), sum(rows)


def test_distances_are_shared():
    """Bitwise the result of one process, each with about half of the work; chunks do not divide the sets."""
    samples, reference = features(150, 0) + 0.3, features(117, 1)
    one, work = counted_precision_recall(samples, reference)
    assert 0 < one['precision'] < 1 and work == 2 * (150 + 117)
    (first, first_work), (second, second_work) = processes(counted_precision_recall, samples, reference)
    assert first == second == one
    assert first_work + second_work == work and abs(first_work - second_work) <= 4 * 16


def test_features_far_from_the_origin():
    """fp32 would lose the distances of features of 1e4, and TF32 those of any: neither may."""
    samples, reference = features(60, 0).astype(float), features(50, 1).astype(float)
    before = torch.get_float32_matmul_precision()
    expected = precision_recall(samples, reference)
    assert precision_recall(samples + 1e4, reference + 1e4) == expected
    with full_precision():
        assert torch.get_float32_matmul_precision() == 'highest' and not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == before and torch.backends.cudnn.allow_tf32


def evaluate(path, images):
    """What the Runner's loop does: every process has samples of its own, the last one is padding."""
    metric = METRICS.build(dict(type='GenerationMetric', reference=path, extractor=dict(type='Corners')))
    rank, world_size = torch.distributed.get_rank(), 2
    order = [*range(len(images)), 0][rank::world_size]
    metric.process({}, [dict(image=images[i], label=0, index=i) for i in order])
    with mock.patch.object(metric, 'compute_metrics', wraps=metric.compute_metrics) as alone:
        return metric.evaluate(len(images)), alone.call_count


def test_metric(tmp_path, monkeypatch):
    monkeypatch.setattr('mmvisionllama.generation.metrics.get_device', lambda: 'cpu')
    reference = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / 'reference.npz', arr_0=reference)
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (9, 1, 4, 4), dtype=np.uint8))
    cfg = dict(type='GenerationMetric', reference=str(tmp_path / 'reference.npz'), extractor=dict(type='Corners'))
    metric = METRICS.build(cfg)
    metric.process({}, [dict(image=image, label=0, index=i) for i, image in enumerate(images)])
    one = metric.evaluate(9)
    assert set(one) == {'generation/FID', 'generation/precision', 'generation/recall'}
    (first, calls), (second, other_calls) = processes(evaluate, cfg['reference'], images)
    assert first == second == one
    assert (calls, other_calls) == (1, 0)


class Run:
    """As much of a Runner as the hook sees."""

    def __init__(self, model, work_dir):
        self.model, self.work_dir, self.hooks, self.iter = model, str(work_dir), [], 0
        self.logger = mock.Mock()


def pictures(model, work_dir, classes=(0, 2), per_class=3):
    """Runs the hook; returns the sizes of the batches that this process sampled, and the pictures it wrote."""
    hook = HOOKS.build(dict(type='SampleHook', interval=1, classes=classes, per_class=per_class, min_side=1))
    run, sizes, original = Run(model, work_dir), [], model.sample
    with mock.patch.object(model, 'sample', lambda labels, **kw: sizes.append(len(labels)) or original(labels, **kw)):
        hook.before_train(run)
        hook.after_train_iter(run, 0)
    return sizes, run.logger.info.call_count


def test_pictures_are_shared(tmp_path):
    """Each process samples a half; the first writes the picture that one process would."""
    from PIL import Image

    model = MODELS.build(copy.deepcopy(CFG))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert pictures(model, tmp_path / 'one') == ([6], 1)
    assert processes(pictures, model, tmp_path / 'two') == [([3], 1), ([3], 0)]
    one, two = (np.asarray(Image.open(tmp_path / n / 'samples/iter_0000001.png')).astype(int) for n in ('one', 'two'))
    # the same up to the rounding of matrix products of another shape
    assert one.std() > 10 and np.abs(one - two).max() <= 1


def test_fewer_pictures_than_processes(tmp_path):
    model = MODELS.build(copy.deepcopy(CFG))
    assert processes(pictures, model, tmp_path, (1,), 1) == [([1], 1), ([], 0)]
