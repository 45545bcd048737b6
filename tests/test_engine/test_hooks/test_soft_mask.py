"""The soft-mask schedule: values, resuming, validation and logs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mmvisionllama.backbones import iLLaMA
from mmvisionllama.engine import SoftMaskHook
from mmvisionllama.engine.hooks.soft_mask import soft_mask_at
from mmvisionllama.errors import OptionError

ITERS = 4  # a training epoch


def test_constant_and_linear_schedules():
    assert [soft_mask_at(i, 3, 'constant', 0.8) for i in range(5)] == [0.8, 0.8, 0.8, 0, 0]
    linear = [soft_mask_at(i, 5, 'linear') for i in range(7)]
    assert linear == torch.linspace(1, 0, 5).tolist() + [0, 0]
    assert soft_mask_at(0, 1, 'linear') == 0


class Model(BaseModel):
    """A tiny iLLaMA that is trained to predict zeros."""

    def __init__(self):
        super().__init__()
        self.backbone = iLLaMA(dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8), img_size=32)

    def forward(self, inputs, mode='tensor'):
        out = self.backbone(inputs)[0]
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


class Zero(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(score=0.0)


class Recorder(Hook):
    """What the model saw, in training and in validation."""

    priority = 'LOWEST'

    def __init__(self):
        self.train, self.val = {}, {}

    def after_train_iter(self, runner, **kwargs):
        self.train[runner.iter] = runner.model.backbone.soft_mask

    def before_val_iter(self, runner, batch_idx, **kwargs):
        self.val[runner.epoch] = runner.model.backbone.soft_mask


def collate(batch):
    return dict(inputs=torch.stack([item[0] for item in batch]))


def train(work_dir, epochs, recorder, resume=False, **hook):
    data = DataLoader(TensorDataset(torch.rand(2 * ITERS, 3, 32, 32)), batch_size=2, collate_fn=collate)
    runner = Runner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader=data,
        val_dataloader=data,
        val_evaluator=[Zero()],
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='SoftMaskHook', **hook), recorder],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        resume=resume,
        log_level='WARNING',
        experiment_name=f'soft_mask_{work_dir.name}_{epochs}_{resume}',
    )
    runner.train()
    return runner


@pytest.mark.parametrize('sampler', [InfiniteSampler, DefaultSampler])
def test_an_epoch_is_that_of_all_processes(sampler, monkeypatch):
    """Whichever sampler: 21 images on 2 processes in batches of 4 are 3 iterations."""
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (0, 2))
    monkeypatch.setattr('mmvisionllama.engine.hooks.soft_mask.get_world_size', lambda: 2, raising=False)
    data = TensorDataset(torch.rand(21))
    run = SimpleNamespace(train_dataloader=DataLoader(data, batch_size=4, sampler=sampler(data, seed=0)))
    assert SoftMaskHook(end=5).duration(run) == 15
    assert SoftMaskHook(end=5, by_epoch=False).duration(run) == 5


def test_the_runners_iteration_drives_the_mask_and_a_resumed_run_continues_exactly(tmp_path):
    whole = Recorder()
    train(tmp_path / 'whole', 4, whole, schedule='linear', end=3)
    expected = torch.linspace(1, 0, 3 * ITERS, dtype=torch.float64).tolist() + [0.0] * ITERS
    assert list(whole.train.values()) == pytest.approx(expected, abs=1e-12)

    first, second = Recorder(), Recorder()
    train(tmp_path / 'parts', 2, first, schedule='linear', end=3)
    train(tmp_path / 'parts', 4, second, resume=True, schedule='linear', end=3)
    assert list(second.train) == list(range(2 * ITERS, 4 * ITERS))
    assert {**first.train, **second.train} == whole.train
    assert whole.val == {**first.val, **second.val}


def test_validation_runs_with_the_current_value_and_logs_it(tmp_path):
    recorder = Recorder()
    runner = train(tmp_path, 3, recorder, schedule='constant', end=2, start=0.75)
    assert recorder.val == {1: 0.75, 2: 0.75, 3: 0.0}
    log = next(Path(runner.log_dir).glob('vis_data/scalars.json')).read_text().splitlines()
    rows = [json.loads(line) for line in log]
    validations = [row['soft_mask'] for row in rows if 'score' in row]
    assert validations == [0.75, 0.75, 0.0]
    assert sum('loss' in row and 'soft_mask' in row for row in rows) == 3 * ITERS


def test_a_validation_made_up_for_has_the_mask_that_was_due():
    """After the last iteration of the soft mask it is that of this iteration, also in a training that stopped there."""
    model = Model()
    for step, expected in ((0, 1.0), (49, 1.0), (50, 1.0), (51, 0.0)):
        hook, run = SoftMaskHook(end=50, by_epoch=False), SimpleNamespace(model=model, iter=step, max_iters=100)
        hook.before_train(run)
        assert model.backbone.soft_mask == expected
    run.message_hub = SimpleNamespace(update_scalar=lambda *args: None)
    run.iter = 50
    hook.before_train_iter(run, 50)
    assert model.backbone.soft_mask == 0


def test_the_mask_is_causal_in_a_model_that_is_only_tested(tmp_path):
    runner = train(tmp_path, 1, Recorder(), schedule='constant', end=1)
    fresh = Model()
    fresh.load_state_dict(torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict'])
    assert runner.model.backbone.soft_mask == 1 and fresh.backbone.soft_mask == 0


def test_it_says_what_is_wrong(tmp_path, caplog):
    for wrong in (dict(schedule='cosine'), dict(end=0), dict(start=0), dict(start=1.5)):
        with pytest.raises(ValueError, match=r"'constant', 'linear'|end > 0"):
            SoftMaskHook(**wrong)

    class Runnerish:
        model = nn.Linear(1, 1)

    model = Model()
    model.backbone.mask_mode = 'none'
    with pytest.raises(OptionError, match='use iLLaMA with a mask_mode'):
        SoftMaskHook().before_train(SimpleNamespace(model=model))
    with pytest.raises(OptionError, match='custom_hooks'):
        SoftMaskHook().before_train(Runnerish())


def test_a_training_that_ends_before_the_soft_mask_is_warned_about(tmp_path):
    messages = []

    class Logger:
        warning = staticmethod(messages.append)

    class Runnerish:
        model, logger, iter, max_iters, train_dataloader = Model(), Logger, 0, 3 * ITERS, DataLoader([0] * ITERS)

    SoftMaskHook(end=3).before_train(Runnerish())
    assert not messages
    SoftMaskHook(end=4).before_train(Runnerish())
    assert 'lasts 16 iterations but the training ends after 12' in messages[0]


def test_configs_that_leave_it_out_say_so_in_their_names():
    from mmengine.config import Config

    configs = Path(__file__).parents[3] / 'configs'
    files = sorted(configs.glob('*/illama/*.py')) + sorted(configs.glob('*/quickstart/illama*.py'))
    assert len(files) > 25
    for file in files:
        hooks = [hook['type'] for hook in Config.fromfile(file).get('custom_hooks') or []]
        says_so = 'no-soft-mask' in file.stem.replace('_', '-')
        assert ('SoftMaskHook' in hooks) != says_so, file.name
