"""Whatever reads a checkpoint, none of the hostile ones runs its command."""

import runpy
import shutil
import sys
from pathlib import Path

import hostile
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import Runner, load_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint, _load_checkpoint_with_prefix
from torch import nn

from mmvisionllama import launch
from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.checkpoints import CheckpointError, load_pretrained, read_checkpoint

ROOT = Path(__file__).parents[2]
ADDRESS = 'https://example.org/weights/'


class Network(BaseModel):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.head(torch.ones(1, 2)).sum())


def runner(folder, **kwargs):
    return Runner(
        Network(),
        work_dir=str(folder / 'work'),
        train_dataloader=dict(batch_size=1, dataset=[0], sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_scope='mmengine',
        experiment_name=str(folder),
        **kwargs,
    )


def config(folder, **kwargs):
    return Config(
        dict(
            model={},
            train_dataloader={},
            test_dataloader=dict(batch_size=1),
            work_dir=str(folder / 'work'),
            test_cfg={},
            **kwargs,
        )
    )


def resume_auto(path, folder):
    (folder / 'work').mkdir()
    (folder / 'work' / 'last_checkpoint').write_text(path)
    launch.prepare_train(config(folder), resume='auto')


def linked(path, folder):
    (folder / 'link.pth').symlink_to(path)
    launch.prepare_test(config(folder), str(folder / 'link.pth'))


def like_an_address(path, folder):
    """A local folder whose name ends with a colon."""
    (folder / 'a:').mkdir()
    shutil.copy(path, folder / 'a:')
    launch.prepare_test(config(folder), f'{folder}/a://{Path(path).name}')


def pretrained_part(path, folder):
    BaseModule(init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()


def pretrained_head(path, folder):
    BaseModule(init_cfg=dict(type='Pretrained', checkpoint=path, prefix='head.')).init_weights()


def pretrained_backbone(path, folder):
    arch = dict(embed_dims=8, num_layers=1, num_heads=1)
    VisionLLaMA(arch, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.')).init_weights()


def generator(path, folder):
    pytest.importorskip('torchdiffeq')
    from mmvisionllama.generation.generator import load_generator

    model = Config.fromfile(ROOT / 'configs/generation/quickstart/sit_llama_digits.py').model
    load_generator(Config(dict(model=model)), path)


def inception(path, folder):
    pytest.importorskip('torch_fidelity')
    from mmvisionllama.generation.metrics import InceptionFeatures

    InceptionFeatures(path)


def converter(path, folder):
    script = str(ROOT / 'tools/model_converters/released_to_mmvisionllama.py')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [script, path, str(folder / 'out.pth')])
        runpy.run_path(script)['main']()


DOORS = dict(
    read_checkpoint=lambda path, folder: read_checkpoint(path),
    load_pretrained=lambda path, folder: load_pretrained(nn.Linear(2, 1), path),
    address=lambda path, folder: read_checkpoint(ADDRESS + Path(path).name),
    address_in_mmengine=lambda path, folder: _load_checkpoint(ADDRESS + Path(path).name),
    address_in_test=lambda path, folder: launch.prepare_test(config(folder), ADDRESS + Path(path).name),
    address_in_load_from=lambda path, folder: launch.prepare_train(config(folder, load_from=ADDRESS + Path(path).name)),
    address_in_resume=lambda path, folder: launch.prepare_train(config(folder), resume=ADDRESS + Path(path).name),
    mmengine=lambda path, folder: load_checkpoint(nn.Linear(2, 1), path),
    mmengine_with_prefix=lambda path, folder: _load_checkpoint_with_prefix('head.', path),
    runner=lambda path, folder: runner(folder, load_from=path).train(),
    runner_resumes=lambda path, folder: runner(folder, load_from=path, resume=True).train(),
    train_resumes=lambda path, folder: launch.prepare_train(config(folder), resume=path),
    train_resumes_the_last=resume_auto,
    load_from=lambda path, folder: launch.prepare_train(config(folder, load_from=path)),
    test=lambda path, folder: launch.prepare_test(config(folder), path),
    link=linked,
    like_an_address=like_an_address,
    pretrained_part=pretrained_part,
    pretrained_head=pretrained_head,
    pretrained_backbone=pretrained_backbone,
    generator=generator,
    inception=inception,
    converter=converter,
)


@pytest.mark.parametrize('kind', list(hostile.KINDS))
@pytest.mark.parametrize('door', list(DOORS))
def test_no_door_runs_code(tmp_path, monkeypatch, door, kind):
    suffix = '.safetensors' if kind == 'two_formats' else '.pth'
    if kind == 'two_formats':
        pytest.importorskip('safetensors')
    path, marker = tmp_path / f'weights{suffix}', tmp_path / 'marker'
    hostile.KINDS[kind](path, marker, dict(state_dict=nn.Linear(2, 1).state_dict()))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, target: shutil.copy(path, target))
    try:
        DOORS[door](str(path), tmp_path)
    except Exception as error:
        reason = error
    else:
        reason = None
    assert not marker.exists()
    if kind == 'two_formats':  # one tensor that no model has, or read as what it says it is
        assert reason is None or not isinstance(reason, OSError)
    else:
        assert isinstance(reason, CheckpointError) and 'can run any code' in str(reason)


@pytest.mark.parametrize('kind', list(hostile.KINDS))
def test_the_files_are_hostile(tmp_path, kind):
    """Unpickled without care they do run their command: the test above could fail."""
    hostile.KINDS[kind](tmp_path / 'file', tmp_path / 'marker', dict(state_dict={}))
    try:
        torch.load(tmp_path / 'file', weights_only=False)
    except RuntimeError:  # the one in two formats is no checkpoint afterwards
        assert kind == 'two_formats'
    assert (tmp_path / 'marker').exists()


def test_a_config_inside_a_checkpoint_is_not_run(tmp_path):
    """mmengine's Runner runs an entry of old checkpoints as a Python file when it resumes."""
    first = runner(tmp_path / 'first')
    first.train()
    path = str(tmp_path / 'first' / 'work' / 'epoch_1.pth')
    checkpoint = read_checkpoint(path)
    checkpoint['meta']['config'] = f'open({str(tmp_path / "marker")!r}, "w")'
    torch.save(checkpoint, tmp_path / 'changed.pth')
    second = runner(tmp_path / 'second', load_from=str(tmp_path / 'changed.pth'), resume=True)
    second.train()
    assert second.epoch == 1 and not (tmp_path / 'marker').exists()
    assert torch.equal(second.model.head.weight, first.model.head.weight)
