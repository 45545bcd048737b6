"""Files that are made to do harm, or are damaged where nobody looks, are called what they are."""

import argparse
import fractions
import io
import pickle
import zipfile

import hostile
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.logging.history_buffer import HistoryBuffer
from torch import nn

from mmvisionllama.checkpoints import CheckpointError, allow_unsafe, read_checkpoint
from mmvisionllama.checkpoints.unpickling import Look


@pytest.fixture
def good(tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.arange(4.0))), tmp_path / 'good.pth')
    return tmp_path / 'good.pth'


def refused(path, words):
    with pytest.raises(CheckpointError, match=words) as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    'function, args, name',
    [
        (eval, ('1',), 'eval'),
        (exec, ('1',), 'exec'),
        (open, ('/dev/null',), 'open'),
        (__import__, ('os',), '__import__'),
        (getattr, (torch.Tensor, 'apply_'), "getattr.'Tensor', 'apply_'."),
        (pickle.loads, (b'',), 'pickle.loads'),
        (torch.hub.load, ('a', 'b'), 'torch.hub.load'),
    ],
    ids=('eval', 'exec', 'open', 'import', 'getattr', 'loads', 'hub'),
)
@pytest.mark.parametrize('zipped', [True, False])
def test_code_is_named(tmp_path, function, args, name, zipped):
    """Not 'damaged, fetch it again', in both of torch's formats."""
    torch.save(dict(a=hostile.Call(function, *args)), tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    text = refused(tmp_path / 'a.pth', f'names .*{name}.*can run any code')
    assert 'fetch' not in text and 'unsafe' not in text


def test_data_that_only_names_what_is_harmless(tmp_path):
    torch.save(dict(part=fractions.Fraction(1, 2)), tmp_path / 'a.pth')
    assert 'allow_unsafe' in refused(tmp_path / 'a.pth', 'holds more than weights .fractions.Fraction.')


@pytest.mark.parametrize('state', [('a', 'b'), {1: 2}, None])
def test_a_namespace_takes_attributes_only(tmp_path, state):
    torch.save(dict(a=hostile.Call(argparse.Namespace, state=state or [1])), tmp_path / 'a.pth')
    refused(tmp_path / 'a.pth', 'argparse.Namespace')


def test_a_look_runs_nothing(tmp_path):
    class Harmful:
        def __reduce__(self):
            return open, (str(tmp_path / 'trace'), 'w')

    with open(tmp_path / 'a.pkl', 'wb') as file:
        pickle.dump([Harmful(), nn.Linear(1, 1), {1: {2}}], file, protocol=4)
    with open(tmp_path / 'a.pkl', 'rb') as file:
        look = Look(file)
        look.load()
    assert look.code() == 'io.open' and not (tmp_path / 'trace').exists()


@pytest.mark.parametrize('module', ['pathlib', 'pathlib._local'])
def test_paths_are_data(module):
    """Python 3.13 keeps their classes in another module; what else is in there, is code."""
    for name, code in (('PosixPath', None), ('PureWindowsPath', None), ('os', f'{module}.os')):
        look = Look(io.BytesIO(f'c{module}\n{name}\n(Va\ntR.'.encode()))
        look.load()
        assert look.code() == code


def test_zip_bomb(tmp_path):
    torch.save(dict(weight=torch.zeros(1 << 20)), tmp_path / 'a.pth')
    hostile.rewrite(tmp_path / 'a.pth', tmp_path / 'b.pth', lambda name, content: content, zipfile.ZIP_DEFLATED)
    refused(tmp_path / 'b.pth', 'unpacks to 4 MiB from 0 MiB')


@pytest.mark.parametrize('unsafe', [True, False])
def test_flipped_bit(tmp_path, unsafe):
    torch.save(dict(weight=torch.randn(1000)), tmp_path / 'a.pth')
    content = bytearray((tmp_path / 'a.pth').read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match='Bad CRC-32'):
        read_checkpoint(tmp_path / 'a.pth', unsafe=unsafe)


def test_archives_without_checksums(tmp_path):
    if not hasattr(torch.serialization, 'set_crc32_options'):
        pytest.skip('this torch always writes checksums')
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(weight=torch.ones(3)), tmp_path / 'a.pth')
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(tmp_path / 'a.pth')['weight'].sum() == 3


@pytest.mark.parametrize(
    'old, new, words',
    [
        # elements of the storage, as torch < 2.6 believes it
        (b'K\x04tq', b'M\xa0\x0ftq', 'claims 16000 bytes of storage .0., which has 16'),
        # stride 0 over more than the file holds
        (b'K\x04\x85', b'\x8a\x06\x00\x00\x00\x00\x00\x01\x85', None),
        (b'K\x00K\x04\x85', b'M\xe8\x03K\x04\x85', 'damaged'),  # offset
    ],
    ids=['storage', 'shape', 'offset'],
)
def test_claims_beyond_the_file(tmp_path, good, old, new, words):
    def change(name, content):
        if name.endswith('data.pkl'):
            assert content.count(old) == 1
            content = content.replace(old, new)
            if words is None:
                assert content.count(b'K\x01\x85') == 1
                content = content.replace(b'K\x01\x85', b'K\x00\x85')
        return content

    hostile.rewrite(good, tmp_path / 'bad.pth', change)
    refused(tmp_path / 'bad.pth', words or 'MiB more than is in the file')


def test_expanded_tensors_of_ordinary_size(tmp_path):
    torch.save(dict(weight=torch.ones(1).expand(10)), tmp_path / 'a.pth')
    assert read_checkpoint(tmp_path / 'a.pth')['weight'].sum() == 10


def test_programs_are_no_checkpoints(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / 'a.pth')
    refused(tmp_path / 'a.pth', 'program .TorchScript.')


def test_safetensors_that_are_pickles(tmp_path):
    pytest.importorskip('safetensors')
    hostile.plain(tmp_path / 'a.safetensors', tmp_path / 'marker', {})
    refused(tmp_path / 'a.safetensors', 'damaged')
    assert not (tmp_path / 'marker').exists()


@pytest.mark.parametrize('name', ['f8', 'V8', 'O'])
def test_arrays_are_numbers(tmp_path, name):
    """A dtype takes fields from its state; of objects, they would make pointers of the file's bytes."""
    state = (3, '|', None, ('a',), dict(a=(hostile.Call(np.dtype, 'O', False, True), 0)), 8, 1, 0)
    dtype = hostile.Call(np.dtype, name, False, True, state=state)
    reconstruct = np.zeros(1).__reduce__()[0]
    array = hostile.Call(reconstruct, np.ndarray, (0,), b'b', state=(1, (1,), dtype, False, b'AAAAAAAA'))
    torch.save(dict(array=array), tmp_path / 'a.pth')
    refused(tmp_path / 'a.pth', f'more than weights .numpy.dtype..{"V8" if name == "V8" else "O"}')


def test_arrays_and_histories_are_ordinary_ones_afterwards(tmp_path):
    """A checkpoint that is written from one that was read names numpy's and mmengine's own types."""
    hub = MessageHub.get_instance('hostile')
    hub.update_scalar('loss', 0.5)
    values = dict(order=np.arange(3, dtype='>i4'), name=np.str_('a'), half=np.float16(0.5), flag=np.bool_(True))
    torch.save(dict(hub=hub.state_dict(), **values), tmp_path / 'a.pth')
    once = read_checkpoint(tmp_path / 'a.pth')
    assert type(once['hub']['log_scalars']['loss']) is HistoryBuffer
    once['hub']['log_scalars']['loss'].update(1.5)
    torch.save(once, tmp_path / 'b.pth')
    with open(tmp_path / 'c.pkl', 'wb') as file:
        pickle.dump(once, file)
    assert b'mmvisionllama' not in (tmp_path / 'c.pkl').read_bytes() + (tmp_path / 'b.pth').read_bytes()
    twice = read_checkpoint(tmp_path / 'b.pth')
    assert twice['hub']['log_scalars']['loss'].mean() == 1
    assert twice['order'].tolist() == [0, 1, 2] and twice['name'] == 'a' and twice['half'] == 0.5 and twice['flag']


def test_a_file_does_not_change_the_class(tmp_path):
    """HistoryBuffer shares its table of methods among all, and takes entries from a file."""
    table = dict(HistoryBuffer._statistics_methods)
    numbers = dict(_log_history=np.zeros(1), _count_history=np.ones(1), max_length=5)
    state = dict(numbers, statistics_methods=dict(mean=torch._utils._rebuild_tensor_v2), update=1)
    torch.save(dict(a=hostile.Call(HistoryBuffer, state=state)), tmp_path / 'a.pth')
    history = read_checkpoint(tmp_path / 'a.pth')['a']
    assert history._statistics_methods['mean'] is HistoryBuffer.mean and callable(history.update)
    assert dict(HistoryBuffer._statistics_methods, **table) == HistoryBuffer._statistics_methods


def test_what_the_user_declared_safe_is_read(tmp_path):
    torch.save(
        dict(part=fractions.Fraction(1, 2), chain=hostile.Call(getattr, HistoryBuffer, 'mean')), tmp_path / 'a.pth'
    )
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([fractions.Fraction, getattr])
    try:
        assert read_checkpoint(tmp_path / 'a.pth')['part'] == 0.5
        hostile.attribute_chain(tmp_path / 'b.pth', tmp_path / 'marker', {})
        refused(tmp_path / 'b.pth', 'can run any code')
        assert set(torch.serialization.get_safe_globals()) == {*before, fractions.Fraction, getattr}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_allowing_everything(tmp_path, monkeypatch):
    monkeypatch.setenv('MMVISIONLLAMA_UNSAFE', '')
    hostile.plain(tmp_path / 'a.pth', tmp_path / 'marker', {})
    refused(tmp_path / 'a.pth', 'can run any code')
    allow_unsafe()
    read_checkpoint(tmp_path / 'a.pth')
    assert (tmp_path / 'marker').exists()
    allow_unsafe(False)
    refused(tmp_path / 'a.pth', 'can run any code')
