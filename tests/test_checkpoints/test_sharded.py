"""Checkpoints in parts, as one process writes them; several processes in tests/test_engine/test_sharding.py."""

import os
import pickle
import runpy
import shutil
from pathlib import Path

import pytest
import torch

from mmvisionllama.checkpoints import read_checkpoint, sharded
from mmvisionllama.checkpoints.writing import write_atomically
from mmvisionllama.errors import CheckpointError, LaunchError
from mmvisionllama.launch import newest_checkpoint
from mmvisionllama.launch.resuming import check_resumable

pytestmark = pytest.mark.skipif(sharded.dcp is None, reason='torch before 2.7')
TOOL = Path(__file__).parents[2] / 'tools/model_converters/gather_checkpoint.py'


def content():
    generator = torch.Generator().manual_seed(0)
    weights = {'a.weight': torch.randn(3, 5, generator=generator), 'a.steps': torch.tensor(7)}
    moments = {'step': torch.tensor(2.0), 'exp_avg': torch.randn(3, 5, generator=generator)}
    return dict(
        meta=dict(epoch=1, iter=5, config=None),
        state_dict=weights,
        message_hub=dict(),
        optimizer=dict(state={0: moments}, param_groups=[dict(params=[0], lr=0.1, foreach=None)]),
    )


def write(folder):
    """The two large tensors in parts, everything else in state.pth."""
    checkpoint = content()
    part = sharded.begin(folder, True)
    tensors = sharded.take_out(checkpoint, lambda value: isinstance(value, torch.Tensor) and value.ndim == 2)
    torch.save(checkpoint, part / sharded.STATE)
    sharded.dcp.save(tensors, storage_writer=sharded.dcp.FileSystemWriter(str(part)), no_dist=True)
    sharded.finish(part, folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / 'epoch_1.pth')


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    else:
        assert found == expected


def test_read_in_one_piece(folder):
    """Order, types and every None of the optimizer's settings as they were."""
    assert_equal(read_checkpoint(str(folder)), content())
    assert sorted(path.name for path in folder.iterdir()) == ['.metadata', '__0_0.distcp', 'state.pth']


def test_taking_out_leaves_the_checkpoint_of_the_model_alone():
    checkpoint = content()
    weights, state = checkpoint['state_dict'], checkpoint['optimizer']['state']
    taken = sharded.take_out(checkpoint, lambda value: isinstance(value, torch.Tensor) and value.ndim == 2)
    assert list(taken) == ['state_dict/a.weight', 'optimizer/state/0/exp_avg']
    assert_equal(weights, content()['state_dict'])
    assert_equal(state, content()['optimizer']['state'])
    assert checkpoint['state_dict']['a.weight'] is None


def test_versions_of_the_layers_stay():
    checkpoint = dict(state_dict=torch.nn.BatchNorm2d(3).state_dict())
    expected = checkpoint['state_dict']._metadata
    sharded.take_out(checkpoint, lambda value: value.ndim == 1)
    assert checkpoint['state_dict']._metadata == expected and expected['']['version'] == 2


def test_written_twice(folder):
    write(folder)
    assert_equal(read_checkpoint(str(folder)), content())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_checkpoints_of_one_form_take_the_place_of_the_other(tmp_path):
    """A training that starts over in the folder of an earlier one, with or without parts."""
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'in one file')
    write(path)
    assert sharded.is_sharded(path)
    write_atomically(b'in one file again', path)
    assert path.read_bytes() == b'in one file again'
    (tmp_path / 'own').mkdir()
    with pytest.raises(CheckpointError, match='could not be written'):  # a folder that is no checkpoint stays
        write_atomically(b'', tmp_path / 'own')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['epoch_1.pth', 'own']


def test_resumed_from_the_newest_whole_one(folder, capsys):
    assert newest_checkpoint(str(folder.parent)) == str(folder)
    newer = folder.with_name('epoch_2.pth')
    shutil.copytree(folder, newer)
    os.truncate(newer / '__0_0.distcp', 40)
    shutil.copytree(folder, folder.with_name('epoch_3.pth.part'))
    assert newest_checkpoint(str(folder.parent)) == str(folder)
    assert 'epoch_2.pth' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['.metadata', 'state.pth'])
def test_a_folder_that_was_not_finished_is_none(folder, name):
    (folder / name).unlink()
    assert not sharded.is_sharded(folder)
    with pytest.raises(CheckpointError, match='is a folder'):
        read_checkpoint(str(folder))


class Code:
    def __reduce__(self):
        return (os.system, ('touch harm',))


@pytest.mark.parametrize('read', [read_checkpoint, check_resumable], ids=['read', 'resume'])
def test_lists_that_name_code(folder, monkeypatch, read):
    monkeypatch.chdir(folder.parent)
    found = sharded.read_list(folder)
    found.planner_data = Code()
    (folder / '.metadata').write_bytes(pickle.dumps(found))
    with pytest.raises(CheckpointError, match=r'it names (posix|nt)\.system'):
        read(str(folder))
    assert not Path('harm').exists()


def test_lists_may_not_name_what_torch_s_module_imports(folder):
    """``Enum`` is in the module of the data classes, but is none of them."""
    text = pickle.dumps(sharded.read_list(folder), protocol=2)
    (folder / '.metadata').write_bytes(text.replace(b'metadata\nMetadata\n', b'metadata\nEnum\n'))
    with pytest.raises(CheckpointError, match='it names torch.distributed.checkpoint.metadata.Enum'):
        read_checkpoint(str(folder))


def test_tensors_that_claim_more_than_the_parts_hold(folder):
    found = sharded.read_list(folder)
    found.state_dict_metadata['state_dict/a.weight'].size = torch.Size([1 << 20, 1 << 20])
    (folder / '.metadata').write_bytes(pickle.dumps(found))
    with pytest.raises(CheckpointError, match='claim .* bytes, more than'):
        read_checkpoint(str(folder))


def test_parts_that_name_code(folder, monkeypatch):
    """The bytes of a tensor are a pickle of their own, which torch reads weights-only."""
    monkeypatch.chdir(folder.parent)
    found = sharded.read_list(folder)
    torch.save(Code(), folder / 'evil.distcp')
    for info in found.storage_data.values():
        info.relative_path, info.offset, info.length = 'evil.distcp', 0, (folder / 'evil.distcp').stat().st_size
    (folder / '.metadata').write_bytes(pickle.dumps(found))
    with pytest.raises(CheckpointError, match='damaged'):
        read_checkpoint(str(folder))
    assert not Path('harm').exists()


@pytest.mark.parametrize('name', ['../secret', '/etc/passwd', '..', ''])
def test_lists_that_name_files_elsewhere(folder, name):
    (folder.parent / 'secret').write_bytes(bytes(10000))
    found = sharded.read_list(folder)
    for info in found.storage_data.values():
        info.relative_path = name
    (folder / '.metadata').write_bytes(pickle.dumps(found))
    with pytest.raises(CheckpointError, match='it names the file'):
        read_checkpoint(str(folder))


def test_parts_of_another_checkpoint(folder):
    state = torch.load(folder / 'state.pth', weights_only=True)
    state['state_dict']['b.weight'] = None
    torch.save(state, folder / 'state.pth')
    with pytest.raises(CheckpointError, match='its parts hold other tensors'):
        read_checkpoint(str(folder))


def test_state_that_is_no_checkpoint(folder):
    torch.save([1], folder / 'state.pth')
    with pytest.raises(CheckpointError, match='not a dict'):
        read_checkpoint(str(folder))


@pytest.mark.parametrize('weights_only', [False, True])
def test_tool_writes_one_file(folder, tmp_path, weights_only):
    main = runpy.run_path(str(TOOL))['main']
    out = tmp_path / 'whole.pth'
    main([str(folder), str(out)] + ['--weights-only'] * weights_only)
    expected = content()
    if weights_only:
        expected = {key: expected[key] for key in ('meta', 'state_dict')}
    assert_equal(torch.load(out, weights_only=True), expected)
    with pytest.raises(LaunchError, match='no checkpoint in parts'):
        main([str(tmp_path), str(out)])


def test_a_full_disk_leaves_the_checkpoint_before_it(folder, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    checkpoint = content()
    part = sharded.begin(folder, True)
    tensors = sharded.take_out(checkpoint, lambda value: isinstance(value, torch.Tensor) and value.ndim == 2)
    monkeypatch.setattr(sharded.dcp.FileSystemWriter, 'write_data', full)
    with pytest.raises(CheckpointError, match='could not be written.*No space left.*--resume'):
        sharded.save_parts(part, tensors)
    assert_equal(read_checkpoint(str(folder)), content())
    assert newest_checkpoint(str(folder.parent)) == str(folder)
