"""What a Runner of this package loads is all of the model's weights, or it says which are not."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import MODELS
from torch import nn

from mmvisionllama.backbones import iLLaMA
from mmvisionllama.checkpoints import CheckpointError, read_checkpoint
from mmvisionllama.engine.hooks import checkpoint_fit
from mmvisionllama.launch import build_runner


@MODELS.register_module(name='FitNetwork', force=True)
class Network(BaseModel):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, classes)
        self.loss = nn.CrossEntropyLoss(torch.ones(classes))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.head(self.body(torch.randn(4, 2))).square().sum())


@MODELS.register_module(name='FitNetworkWithPositions', force=True)
class WithPositions(Network):
    def __init__(self, classes=3, size=64):
        super().__init__(classes)
        self.body = iLLaMA(dict(embed_dims=16, num_layers=1, num_heads=2), img_size=size)


@MODELS.register_module(name='FitTTA', force=True)
class TTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list[0]


@pytest.fixture
def runner(tmp_path):
    counter = iter(range(99))

    def build(classes=3, hooks=(), optimizer=None, network='FitNetwork', size=None, tta=False, **kwargs):
        model = dict(type=network, classes=classes, **(dict(size=size) if size else {}))
        return build_runner(
            Config(
                dict(
                    model=dict(type='FitTTA', module=model) if tta else model,
                    work_dir=str(tmp_path / str(next(counter))),
                    train_dataloader=dict(
                        batch_size=1, dataset=[0], sampler=dict(type='DefaultSampler', shuffle=False)
                    ),
                    train_cfg=dict(by_epoch=True, max_epochs=1),
                    optim_wrapper=dict(optimizer=optimizer or dict(type='SGD', lr=0.1, momentum=0.9)),
                    custom_hooks=list(hooks),
                    default_scope='mmengine',
                    experiment_name=str(tmp_path / str(next(counter))),
                    launcher='none',
                    **kwargs,
                )
            )
        )

    return build


@pytest.fixture
def save(tmp_path):
    def write(change=lambda state: None, **rest):
        state = Network().state_dict()
        change(state)
        torch.save(dict(rest, state_dict=state), tmp_path / 'a.pth')
        return str(tmp_path / 'a.pth')

    return write


def load(runner, path, **kwargs):
    built = runner(load_from=path, **kwargs)
    built.call_hook('before_run')
    built.load_or_resume()
    return built.model


def test_all_weights_are_loaded(runner, save):
    path = save()
    model, saved = load(runner, path), read_checkpoint(path)['state_dict']
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda state: state.pop('head.bias'), r'1 are missing \(head.bias\)'),
        (lambda state: state.pop('body.1.running_mean'), r'1 are missing \(body.1.running_mean\)'),
        (lambda state: state.update({'neck.weight': torch.zeros(1)}), r"1 are not the model's \(neck.weight\)"),
        (lambda state: state.update({'head.bias': torch.zeros(7)}), 'size mismatch for head.bias'),
        (lambda state: state['head.bias'].fill_(float('nan')), 'head.bias holds NaN or infinite'),
        (lambda state: state['head.bias'].fill_(float('inf')), 'head.bias holds NaN or infinite'),
        (lambda state: state.update({'head.bias': torch.zeros(3, dtype=torch.int64)}), 'head.bias holds torch.int64'),
        (lambda state: state.update({'head.weight': torch.zeros(3, 4).to_sparse()}), 'torch.sparse_coo'),
        (lambda state: [state.pop(name) for name in list(state)[1:]], 'are missing'),
    ],
)
def test_weights_that_do_not_fit_are_named(runner, save, change, words):
    with pytest.raises(CheckpointError, match=words) as error:
        load(runner, save(change))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['loss.weight', 'body.1.num_batches_tracked'])
def test_settings_of_a_loss_and_counters_may_be_missing(runner, save, name):
    load(runner, save(lambda state: state.pop(name)))


def test_part_of_the_weights_when_asked_for(runner, save):
    """The head of another number of classes; but not NaN, and not nothing at all."""
    path = save()
    with pytest.raises(CheckpointError, match='size mismatch for head.weight'):
        load(runner, path, classes=5)
    model = load(runner, path, classes=5, load_from_partial=True)
    assert torch.equal(model.body[0].weight, read_checkpoint(path)['state_dict']['body.0.weight'])
    with pytest.raises(CheckpointError, match='holds NaN'):
        load(runner, save(lambda state: state['head.bias'].fill_(float('nan'))), load_from_partial=True)
    torch.save(dict(state_dict=dict(other=torch.ones(1))), path)
    with pytest.raises(CheckpointError, match='none of its 1 weights'):
        load(runner, path, load_from_partial=True)


@pytest.mark.parametrize('hooks', [[], [dict(type='EMAHook')]])
def test_a_position_embedding_is_resampled_amid_a_part_of_the_weights(runner, tmp_path, hooks):
    """As it is where all of them fit; what cannot be resampled stays at its initial values."""
    torch.save(WithPositions().state_dict(), tmp_path / 'a.pth')
    whole, part = (
        load(runner, str(tmp_path / 'a.pth'), network='FitNetworkWithPositions', size=48, **kwargs).body
        for kwargs in (dict(), dict(classes=5, load_from_partial=True, hooks=hooks))
    )
    assert torch.equal(part.pos_embed, whole.pos_embed)
    weights = WithPositions().state_dict()
    weights['body.pos_embed'] = weights['body.pos_embed'][:, :4]  # three patches and the class token
    torch.save(weights, tmp_path / 'a.pth')
    options = dict(network='FitNetworkWithPositions', size=48, load_from_partial=True, hooks=hooks)
    part = load(runner, str(tmp_path / 'a.pth'), **options).body
    assert torch.equal(part.patch_embed.projection.weight, weights['body.patch_embed.projection.weight'])


def test_weights_under_another_key(runner, tmp_path):
    """mmengine would find none of them and train from random values."""
    saved = Network().state_dict()
    torch.save(dict(model={f'module.{name}': value for name, value in saved.items()}), tmp_path / 'a.pth')
    assert torch.equal(load(runner, str(tmp_path / 'a.pth')).head.weight, saved['head.weight'])


@pytest.mark.parametrize('stored', ['raw', 'model', 'wrapped'])
def test_averaged_weights_begin_from_the_loaded_ones(runner, tmp_path, stored):
    """mmengine's hook reads them itself, under 'state_dict' and the model's own names."""
    saved = Network().state_dict()
    wrapped = dict(state_dict={f'module.{name}': value for name, value in saved.items()})
    torch.save(dict(raw=saved, model=dict(model=saved), wrapped=wrapped)[stored], tmp_path / 'a.pth')
    own = runner(hooks=[dict(type='EMAHook')], load_from=str(tmp_path / 'a.pth'))
    own.call_hook('before_run')
    own.load_or_resume()
    (average,) = (hook.ema_model for hook in own.hooks if type(hook).__name__ == 'EMAHook')
    for weights in (own.model, average.module):
        assert torch.equal(weights.head.weight, saved['head.weight'])


def ema(scope, **options):
    if scope == 'mmpretrain':
        pytest.importorskip('mmpretrain.engine')
    return dict(type=f'{scope}.EMAHook', momentum=0.1, **options)


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain'])
@pytest.mark.parametrize('tta', [False, True])
def test_a_test_is_of_the_averaged_weights(runner, scope, tta):
    """With test-time augmentation, too, whose copy of the model has other names than the checkpoint."""
    first = runner(hooks=[ema(scope)])
    first.train()
    path = f'{first.work_dir}/epoch_1.pth'
    saved = read_checkpoint(path)
    raw = saved['ema_state_dict']['module.head.weight'].add_(1)  # mmengine exchanges them on saving
    torch.save(saved, path)

    def tested(**options):
        own = runner(hooks=[ema(scope, **options)], tta=tta, load_from=path)
        own.call_hook('before_run')
        own.load_or_resume()
        own.call_hook('before_test_epoch')
        return (own.model.module if tta else own.model).head.weight

    assert torch.equal(tested(), saved['state_dict']['head.weight'])
    if scope == 'mmpretrain':
        assert torch.equal(tested(evaluate_on_ema=False, evaluate_on_origin=True), raw)


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain'])
def test_part_of_averaged_weights(runner, scope):
    """A training begins from the average; a test is of what the hook is asked for."""
    first = runner(hooks=[ema(scope)])
    first.train()
    path = f'{first.work_dir}/epoch_1.pth'
    saved = read_checkpoint(path)
    raw = saved['ema_state_dict']['module.body.0.weight'].add_(1)
    torch.save(saved, path)

    def loaded(event, **options):
        own = runner(classes=5, hooks=[ema(scope, **options)], load_from=path, load_from_partial=True)
        own.call_hook('before_run')
        own.load_or_resume()
        (average,) = (hook for hook in own.hooks if isinstance(hook, EMAHook))
        getattr(average, event)(own)
        return own.model.body[0].weight

    assert torch.equal(loaded('before_train'), saved['state_dict']['body.0.weight'])
    assert torch.equal(loaded('before_test_epoch'), saved['state_dict']['body.0.weight'])
    if scope == 'mmpretrain':
        assert torch.equal(loaded('before_test_epoch', evaluate_on_ema=False, evaluate_on_origin=True), raw)


@pytest.mark.parametrize('hooks', [[], [dict(type='EMAHook')]])
def test_resuming(runner, hooks):
    """The raw weights of a training with averaged ones, too."""
    first = runner(hooks=hooks)
    first.train()
    path = f'{first.work_dir}/epoch_1.pth'
    second = runner(hooks=hooks, load_from=path, resume=True)
    second.train()
    assert second.epoch == 1
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters()))


def test_processes_that_begin_at_different_places_are_refused(runner, monkeypatch):
    """Machines that see different files would average gradients of different weights."""
    monkeypatch.setattr(checkpoint_fit, 'all_gather_object', lambda own: [own, ('epoch_3.pth', 3)])
    with pytest.raises(CheckpointError, match=r"epoch_3.pth \(iteration 3\), another nothing \(iteration 0\).*'/"):
        runner().train()


def test_resuming_what_is_not_this_training(runner, save):
    first = runner()
    first.train()
    path = f'{first.work_dir}/epoch_1.pth'
    with pytest.raises(CheckpointError, match='size mismatch'):
        runner(classes=5, load_from=path, resume=True, load_from_partial=True).train()
    checkpoint = read_checkpoint(path)
    checkpoint['optimizer']['param_groups'] *= 2
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match='optimizer has 2 groups with 12 parameters.*1 with 6'):
        runner(load_from=path, resume=True).train()
