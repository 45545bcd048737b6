"""mmengine's own ways of loading go through the safe reader after ``import mmvisionllama``."""

import fractions
import importlib

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint
from torch import nn

from mmvisionllama.checkpoints import CheckpointError, mmengine_loader


@pytest.fixture
def more_than_weights(tmp_path):
    """What stock mmengine would unpickle without a question."""
    path = tmp_path / 'more.pth'
    torch.save(dict(state_dict=nn.Linear(2, 1).state_dict(), part=fractions.Fraction(1)), path)
    return str(path)


def test_weights_are_loaded(tmp_path):
    source, target = nn.Linear(2, 1), nn.Linear(2, 1)
    torch.save(source.state_dict(), tmp_path / 'a.pth')
    load_checkpoint(target, str(tmp_path / 'a.pth'), map_location='cpu', strict=True)
    assert torch.equal(source.weight, target.weight)


def test_safetensors_are_read_too(tmp_path):
    save_file = pytest.importorskip('safetensors.torch').save_file
    save_file(dict(weight=torch.ones(2)), tmp_path / 'a.safetensors')
    assert _load_checkpoint(str(tmp_path / 'a.safetensors'), map_location='cpu')['weight'].sum() == 2


def test_the_refusal_names_the_way_out(more_than_weights, monkeypatch):
    monkeypatch.setenv('MMVISIONLLAMA_UNSAFE', '0')
    with pytest.raises(
        CheckpointError, match=r'fractions.Fraction.*checkpoints.allow_unsafe\(\).*MMVISIONLLAMA_UNSAFE=1'
    ):
        load_checkpoint(nn.Linear(2, 1), more_than_weights)
    monkeypatch.setenv('MMVISIONLLAMA_UNSAFE', '1')
    load_checkpoint(nn.Linear(2, 1), more_than_weights, strict=True)


@pytest.mark.parametrize('library', ['mmcv', 'mmpretrain', 'mmseg', 'mmdet'])
def test_the_loader_stays_when_a_library_is_imported(more_than_weights, library):
    pytest.importorskip(library)
    importlib.import_module(f'{library}.apis' if library != 'mmcv' else library)
    with pytest.raises(CheckpointError):
        _load_checkpoint(more_than_weights)


def test_every_stock_scheme_has_a_safe_loader():
    schemes = CheckpointLoader._schemes
    assert {loader.__module__ for loader in schemes.values()} == {mmengine_loader.__name__}
    assert {'', 'http://', 'https://', 'torchvision://', 'openmmlab://', 'pavi://'} <= set(schemes)


def test_models_by_name_are_fetched(tmp_path, monkeypatch):
    """Their addresses are mmengine's; what comes is read safely."""
    asked = []
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))

    def download(url, target):
        asked.append(url)
        torch.save({'state_dict': {'backbone.a': torch.ones(1), 'head.b': torch.ones(1)}}, target)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    assert set(_load_checkpoint('openmmlab://resnet50_caffe')['state_dict']) == {'backbone.a', 'head.b'}
    assert set(_load_checkpoint('mmcls://vgg11')['state_dict']) == {'a'}
    assert all(url.startswith('https://') and url.endswith('.pth') for url in asked) and len(asked) == 2
    with pytest.raises(CheckpointError, match='no model that mmengine knows'):
        _load_checkpoint('openmmlab://no_such_model')


@pytest.mark.parametrize('address', ['s3://bucket/a.pth', 'cluster:s3://bucket/a.pth', 'pavi://a'])
def test_storage_with_a_client_of_its_own_is_not_unpickled(address, monkeypatch):
    monkeypatch.setenv('MMVISIONLLAMA_UNSAFE', '0')
    with pytest.raises(CheckpointError, match='copy the file here'):
        _load_checkpoint(address)
