"""A resumed training equals an uninterrupted one: losses and weights, bit for bit."""

import contextlib
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmvisionllama.engine.hooks import reseed
from mmvisionllama.engine.hooks.reseed import ReseedHook, seed_all


class NoisyData(torch.utils.data.Dataset):
    """Samples with random numbers of Python, numpy and torch, as augmentations draw them."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return torch.full((4,), float(i)) / 12 + 0.1 * noise


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, *samples, mode='loss'):
        out = self.layers(torch.stack(samples))
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


class Record(Hook):
    """Keeps the loss of every iteration."""

    def __init__(self):
        self.losses, self.rates = {}, {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = outputs['loss'].item()
        self.rates[runner.iter] = [group['lr'] for group in runner.optim_wrapper.param_groups]


class StopHook(Hook):
    """Writes a checkpoint after some iterations and ends the process, as a stopped training does."""

    def __init__(self, iterations):
        self.iterations = iterations

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iterations:
            meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
            runner.save_checkpoint(runner.work_dir, 'stopped.pth', meta=meta, by_epoch=False)
            raise SystemExit


class Count(BaseMetric):
    """Counts samples; a validation is there for the random numbers it draws."""

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(count=sum(results))


def train(work_dir, *, by_epoch, workers, seed, hook=True, resume=False, validate=True, batch_size=4, **options):
    """Losses and weights of a run of 4 epochs of 3 iterations; a checkpoint every epoch, or every 3 iterations."""
    loader = dict(dataset=NoisyData(), batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0)
    sampler = dict(type='DefaultSampler', shuffle=True) if by_epoch else dict(type='InfiniteSampler', shuffle=True)
    record = Record()
    validation = dict(
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(),
        val_evaluator=Evaluator(Count()),
    )
    runner = Runner(
        model=Net(),
        work_dir=str(work_dir),
        train_dataloader=dict(loader, sampler=sampler),
        train_cfg=dict(by_epoch=True, max_epochs=4) if by_epoch else dict(by_epoch=False, max_iters=12, val_interval=3),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01), **options.pop('optim_wrapper', {})),
        **(validation if validate else {}),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1 if by_epoch else 3, by_epoch=by_epoch),
            **(dict(reseed=dict(type='ReseedHook')) if hook else {}),
        ),
        custom_hooks=[record, *options.pop('custom_hooks', ())],
        randomness=dict(seed=seed),
        resume=resume,
        cfg=Config(dict(train_dataloader=dict(sampler=sampler))),
        experiment_name=f'{work_dir.name}{by_epoch}{workers}{seed}{hook}{resume}',
        log_level='ERROR',
        **options,
    )
    runner.train()
    train.rates = record.rates
    return record.losses, runner.model.state_dict()


def interrupted(folder, by_epoch, **kwargs):
    """The run from scratch, and one resumed from the files that it had written in its middle."""
    whole = train(folder / 'whole', by_epoch=by_epoch, **kwargs)
    resumed = folder / 'resumed'
    resumed.mkdir()
    checkpoint = resumed / ('epoch_2.pth' if by_epoch else 'iter_6.pth')
    shutil.copy(folder / 'whole' / checkpoint.name, checkpoint)
    (resumed / 'last_checkpoint').write_text(str(checkpoint))
    return whole, train(resumed, by_epoch=by_epoch, resume=True, **kwargs)


@pytest.mark.parametrize('by_epoch', [True, False], ids=['by_epoch', 'by_iter'])
@pytest.mark.parametrize('workers, seed', [(0, 3), (1, None)])
def test_resume_is_exact(tmp_path, by_epoch, workers, seed):
    """Also without a fixed seed, with persistent workers, and with validations in between."""
    if not by_epoch and not hasattr(InfiniteSampler, 'skip'):
        pytest.skip('this mmengine cannot position its sampler')
    (losses, weights), (again, weights_again) = interrupted(tmp_path, by_epoch, workers=workers, seed=seed)
    assert sorted(again) == list(range(6, 12))
    assert again == {i: losses[i] for i in again}
    assert all(torch.equal(weights[key], weights_again[key]) for key in weights)


@pytest.mark.parametrize('stopped', ['at the end of an epoch', 'within', 'by mmengine'])
@pytest.mark.parametrize('batch_size', [2, 6])
def test_schedules_follow_another_number_of_iterations(tmp_path, batch_size, stopped):
    """As on more or fewer processes: 3 iterations in an epoch before, 6 or 2 afterwards."""
    epoch = dict(by_epoch=True, convert_to_iter_based=True)
    schedules = [
        dict(type='LinearLR', start_factor=0.1, end=1, **epoch),
        dict(type='CosineAnnealingLR', T_max=3, begin=1, end=4, **epoch),
        dict(type='MultiStepLR', milestones=[3], gamma=0.5, by_epoch=True),
    ]
    groups = dict(paramwise_cfg=dict(custom_keys={'layers.0': dict(lr_mult=0.1)}))  # one for each parameter
    options = dict(by_epoch=True, workers=0, seed=0, validate=False, param_scheduler=schedules)
    if stopped != 'by mmengine':
        options['optim_wrapper'] = groups
    train(tmp_path / 'other', batch_size=batch_size, **options)
    expected = train.rates
    within = stopped == 'within'
    hooks = dict(custom_hooks=[StopHook(4)]) if within else {}
    with contextlib.suppress(SystemExit):
        train(tmp_path / 'first', **options, **hooks)
    checkpoint = tmp_path / 'first' / ('stopped.pth' if within else 'epoch_2.pth')
    if stopped == 'by mmengine':
        content = torch.load(checkpoint, weights_only=False)
        del content['meta']['iterations_of_epoch']
        torch.save(content, checkpoint)
    (tmp_path / 'first' / 'last_checkpoint').write_text(str(checkpoint))
    losses, _ = train(tmp_path / 'first', resume=True, batch_size=batch_size, **options)
    per_epoch = 12 // batch_size
    # 4 of 12 samples are done in the second epoch
    start = per_epoch + 4 // batch_size if within else 2 * per_epoch
    assert list(losses) == list(range(start, 4 * per_epoch))
    assert len(expected[0]) == (1 if stopped == 'by mmengine' else 5)
    for i in losses:
        assert train.rates[i] == pytest.approx(expected[i], rel=1e-6)


@pytest.mark.nightly
def test_mmengine_alone_is_not_exact(tmp_path):
    """What the hook is for; if this fails, mmengine has learnt it and the hook can go."""
    (losses, _), (again, _) = interrupted(tmp_path, True, workers=0, seed=3, hook=False)
    assert again != {i: losses[i] for i in again}


def test_epochs_differ(tmp_path):
    """Workers draw new numbers in every epoch."""
    losses, _ = train(tmp_path, by_epoch=True, workers=1, seed=0, validate=False)
    assert len(set(losses.values())) == 12


def test_seed_all():
    """All three generators follow the key; neighbouring keys share nothing."""

    def draw(*key):
        seed_all(*key)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert draw(0, 0, 1) == draw(0, 0, 1)
    assert not set(draw(0, 0, 1)) & set(draw(0, 1, 0))


def test_ranks_draw_their_own_numbers(monkeypatch):
    """From one seed: mmengine's diff_rank_seed adds the rank to it, which would count twice."""
    drawn, runner = [], SimpleNamespace(seed=10, iter=4, _randomness_cfg={})
    for rank in (0, 1):
        monkeypatch.setattr(reseed, 'get_rank', lambda rank=rank: rank)
        ReseedHook().before_train_iter(runner, 0)
        drawn.append(torch.rand(()).item())
        loader = SimpleNamespace(dataset=[0.0] * 8, sampler=object(), batch_sampler=[[0, 1]])
        hook = ReseedHook()
        hook.before_train(SimpleNamespace(train_dataloader=loader, cfg={}, seed=10, _randomness_cfg={}))
        assert loader.dataset.key == (10, rank)
    assert drawn[0] != drawn[1]
    assert ReseedHook._seed(SimpleNamespace(seed=10, _randomness_cfg=dict(diff_rank_seed=True))) == 9
