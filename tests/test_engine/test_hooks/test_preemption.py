"""A training stops at a signal with a checkpoint, and goes on from it as if nothing had happened."""

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

from mmvisionllama import launch
from mmvisionllama.checkpoints import writing
from mmvisionllama.engine.hooks import PreemptionHook
from mmvisionllama.engine.hooks.preemption import STOPPED_STATUS, PatientWorkers, SignalNote, seconds
from mmvisionllama.engine.hooks.safe_checkpoint import SafeCheckpointHook
from mmvisionllama.errors import CheckpointError, OptionError


@DATASETS.register_module(force=True)
class TwelveNoisy(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        return torch.full((4,), float(i)) / 12 + torch.rand(()).item()


@MODELS.register_module(force=True)
class DropoutNet(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, *samples, mode='loss'):
        out = self.layers(torch.stack(samples))
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


@METRICS.register_module(force=True)
class CountSamples(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(count=sum(results))


class Signal(Hook):
    """Signals its own process in an iteration, and keeps losses and validations."""

    def __init__(self, at=None, number=None):
        self.at, self.number = at, number
        self.losses, self.validations = {}, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            os.kill(os.getpid(), self.number)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = outputs['loss'].item()

    def after_val(self, runner):
        self.validations.append(runner.iter)


def make(work_dir, by_epoch=True, accumulate=1, hooks=(), keep=None, **rest):
    """4 epochs of 3 iterations, validated after each; checkpoints at the end, or the last few."""
    loader = dict(dataset=dict(type='TwelveNoisy'), batch_size=4, num_workers=0)
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    cfg = Config(
        dict(
            default_scope='mmengine',
            model=dict(type='DropoutNet'),
            work_dir=str(work_dir),
            train_dataloader=dict(loader, sampler=sampler),
            val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg=dict(),
            val_evaluator=dict(type='CountSamples'),
            train_cfg=dict(by_epoch=True, max_epochs=4)
            if by_epoch
            else dict(by_epoch=False, max_iters=12, val_interval=3),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=accumulate),
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook',
                    interval=1 if keep else 100,
                    max_keep_ckpts=keep or -1,
                    by_epoch=by_epoch,
                )
            ),
            randomness=dict(seed=0),
            log_level='ERROR',
            **rest,
        )
    )
    launch.prepare_train(cfg, resume='auto')
    runner = launch.build_runner(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    return runner


def train(*args, **kwargs):
    """What the :class:`Signal` saw, and the weights if the training came to its end."""
    hook = Signal(kwargs.pop('at', None), kwargs.pop('number', signal.SIGTERM))
    runner = make(*args, hooks=[hook], **kwargs)
    try:
        runner.train()
    except SystemExit as error:
        assert error.code == STOPPED_STATUS
        return hook, None
    return hook, runner.model.state_dict()


@pytest.mark.parametrize('by_epoch', [True, False], ids=['by_epoch', 'by_iter'])
@pytest.mark.parametrize('at, number', [(4, signal.SIGTERM), (5, signal.SIGUSR1), (11, signal.SIGTERM)])
def test_a_stopped_training_loses_nothing(tmp_path, by_epoch, at, number):
    """In the middle of an epoch, in its last iteration, in the very last one: losses, validations and weights."""
    if not by_epoch and not hasattr(InfiniteSampler, 'skip'):
        pytest.skip('this mmengine cannot position its sampler')
    before = signal.getsignal(number)
    whole, weights = train(tmp_path / 'whole', by_epoch)
    first, nothing = train(tmp_path / 'cut', by_epoch, at=at, number=number)
    assert nothing is None and max(first.losses) == at
    name = f'stopped_iter_{at + 1}.pth'
    assert (tmp_path / 'cut' / 'last_checkpoint').read_text() == str(tmp_path / 'cut' / name)
    signal.signal(number, before)
    second, resumed = train(tmp_path / 'cut', by_epoch)
    assert signal.getsignal(number) == before
    assert not set(first.losses) & set(second.losses)
    assert {**first.losses, **second.losses} == whole.losses
    assert first.validations + second.validations == whole.validations
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)
    if at < 11:
        assert not (tmp_path / 'cut' / name).exists(), 'the next checkpoint takes its place'


def test_accumulated_gradients_are_used_first(tmp_path):
    """A signal in the first of two iterations of a step."""
    whole, weights = train(tmp_path / 'whole', accumulate=2)
    first, _ = train(tmp_path / 'cut', accumulate=2, at=6)
    assert max(first.losses) == 7
    _, resumed = train(tmp_path / 'cut', accumulate=2)
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)


def test_stop_after(tmp_path):
    first, nothing = train(tmp_path, stop_after=0.001)
    assert nothing is None and list(first.losses) == [0]


@pytest.mark.parametrize(
    'text, expected', [('90', 90), (1.5, 1.5), ('90s', 90), ('30m', 1800), ('11h30m', 41400), ('2d', 172800)]
)
def test_durations(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize('text', ['', '0', 'soon', '1.2.3h', '-5m', '10 minutes'])
def test_other_durations_are_refused(text):
    with pytest.raises(OptionError, match='duration'):
        seconds(text)


def test_the_second_signal_ends_the_process():
    """Not its echo by a launcher, though."""
    child = os.fork()
    if not child:
        note = SignalNote()
        note.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        if note.name == 'SIGTERM':
            note._since -= 3
            os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGUSR1


def test_the_oldest_goes_after_the_newest_is_there(tmp_path, monkeypatch):
    """A disk that is full from the third checkpoint on."""

    def sync(descriptor, real=os.fsync):
        if os.path.exists(tmp_path / 'epoch_3.pth.part'):
            raise OSError(28, 'No space left on device')
        real(descriptor)

    monkeypatch.setattr(writing.os, 'fsync', sync)
    with pytest.raises(CheckpointError, match=r'epoch_3.pth.*No space left'):
        make(tmp_path, keep=1).train()
    assert [path.name for path in tmp_path.glob('*.pth*')] == ['epoch_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_2.pth')


class Killed(Exception):
    pass


def test_a_kill_before_the_removal_is_made_up_for(tmp_path, monkeypatch):
    """max_keep_ckpts holds after resuming, too."""

    def remove(self, path):
        assert os.path.basename(path) == 'epoch_1.pth'
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(writing.AtomicBackend, 'remove', remove)
        make(tmp_path, keep=1).train()
    assert {path.name for path in tmp_path.glob('*.pth')} == {'epoch_1.pth', 'epoch_2.pth'}
    make(tmp_path, keep=1).train()
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_4.pth']


@pytest.mark.parametrize('before', [False, True])
def test_two_checkpoint_hooks_keep_lists_of_their_own(tmp_path, before):
    """One that keeps two files of every epoch, one that keeps one of every iteration, stopped amid epoch 3."""

    def two(**kwargs):
        runner = make(tmp_path, keep=2, **kwargs)
        rolling = dict(filename_tmpl='rolling_iter_{}.pth', by_epoch=False, interval=1, save_last=False)
        runner.register_hook(SafeCheckpointHook(max_keep_ckpts=1, **rolling))
        return runner

    def left():
        return {path.name for path in tmp_path.glob('*.pth')}

    with pytest.raises(SystemExit):
        two(hooks=[Signal(7, signal.SIGTERM)]).train()
    stopped = {path for path in left() if path.startswith('stopped')}
    assert left() - stopped == {'epoch_1.pth', 'epoch_2.pth', 'rolling_iter_8.pth'}
    if before:  # as earlier versions wrote it: the list of the hook that was the last
        for name in stopped:
            checkpoint = torch.load(tmp_path / name, weights_only=False)
            for part in ('runtime_info', 'resumed_keys'):
                info = checkpoint['message_hub'][part]
                info['keep_ckpt_ids'] = info.pop('keep_ckpt_ids:rolling_iter_{}.pth')
            torch.save(checkpoint, tmp_path / name)
    two().train()
    lost = {'epoch_1.pth', 'epoch_2.pth'} if before else set()
    assert left() == {'epoch_3.pth', 'epoch_4.pth', 'rolling_iter_12.pth'} | lost


def test_every_training_has_the_hooks(tmp_path):
    hooks = [type(hook).__name__ for hook in make(tmp_path).hooks]
    assert hooks.count('SafeCheckpointHook') == hooks.count('ReseedHook') == hooks.count('PreemptionHook') == 1
    assert 'CheckpointHook' not in hooks and PreemptionHook.priority == 'LOWEST'


def patient_worker(init_fn, pipe):
    """Says when a signal has come that it stays through."""
    init_fn(0)
    pipe.send('ready')
    while not signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.sigtimedwait([], 0.01)
    pipe.send('stays')
    signal.pause()


@pytest.mark.skipif(not hasattr(signal, 'sigtimedwait'), reason='needs signals of POSIX')
@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_stay_until_the_training_exits(method):
    """The exit waits for them after the same signal."""
    context, init_fn = multiprocessing.get_context(method), PatientWorkers(None)
    here, there = context.Pipe()
    worker = context.Process(target=patient_worker, args=(init_fn, there), daemon=True)
    worker.start()
    there.close()
    assert here.recv() == 'ready'
    worker.terminate()
    assert here.recv() == 'stays' and worker.is_alive()
    init_fn._exits.value = 1  # as at the exit of this process
    worker.terminate()
    worker.join(15)
    assert worker.exitcode == -signal.SIGTERM


def test_the_best_checkpoint_stays(tmp_path):
    runner = make(tmp_path, keep=1)
    hook = next(hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook))
    hook.__init__(interval=1, max_keep_ckpts=1, save_best='count', rule='greater')
    runner.train()
    assert {path.name for path in tmp_path.glob('*.pth')} == {'epoch_4.pth', 'best_count_epoch_1.pth'}


def test_the_last_iteration_is_a_whole_step():
    """Of a training whose length is no multiple of what is accumulated."""
    wrapper = SimpleNamespace(_accumulative_counts=4)
    due = [
        PreemptionHook._is_whole_step(SimpleNamespace(optim_wrapper=wrapper, iter=i, max_iters=10)) for i in range(10)
    ]
    assert [i + 1 for i, is_due in enumerate(due) if is_due] == [4, 8, 10]


def test_iterations_with_a_validation_behind_them():
    loop = SimpleNamespace(
        dataloader_iterator=1, val_begin=5, dynamic_intervals=[2], dynamic_milestones=[0], max_iters=9
    )
    runners = [SimpleNamespace(train_loop=loop, val_loop=1, iter=i) for i in range(9)]
    assert [r.iter + 1 for r in runners if PreemptionHook._validates_next(r)] == [6, 8, 9]
