"""A file is the old one or the whole new one."""

import errno
import os

import pytest

from mmvisionllama.checkpoints import writing
from mmvisionllama.checkpoints.writing import AtomicBackend, remove_parts, write_atomically
from mmvisionllama.errors import CheckpointError


@pytest.mark.parametrize('data', [b'', b'new', bytes(100)])
def test_the_new_file_is_whole(tmp_path, data):
    path = tmp_path / 'folder' / 'a.pth'
    write_atomically(b'old', path)
    write_atomically(data, path)
    assert path.read_bytes() == data and list(path.parent.iterdir()) == [path]


def fail(number):
    def sync(descriptor):
        raise OSError(number, os.strerror(number))

    return sync


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    write_atomically(b'old', path)
    monkeypatch.setattr(writing.os, 'fsync', fail(errno.ENOSPC))
    with pytest.raises(CheckpointError, match='a.pth.* could not be written .No space left.*--resume') as error:
        write_atomically(b'new', path)
    assert '\n' not in str(error.value)
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


def test_what_the_disk_did_not_keep_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    write_atomically(b'old', path)
    monkeypatch.setattr(writing.os, 'fsync', lambda descriptor: os.ftruncate(descriptor, 2))
    with pytest.raises(CheckpointError, match='what was read back'):
        write_atomically(b'new', path)
    assert path.read_bytes() == b'old'


def test_removals_wait_for_what_is_written(tmp_path):
    old, backend = tmp_path / 'old', AtomicBackend()
    old.write_bytes(b'old')
    with pytest.raises(CheckpointError), backend.removing_later():
        backend.remove(old)
        raise CheckpointError('full')
    assert old.exists()
    with backend.removing_later():
        backend.remove(old)
        assert old.exists()
    assert not old.exists()


def test_half_written_files_go(tmp_path):
    for name in ('epoch_1.pth', 'epoch_2.pth.part', 'last_checkpoint.part', 'imagenet.tar.part'):
        (tmp_path / name).touch()
    (tmp_path / 'epoch_3.pth.part').mkdir()
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['epoch_1.pth', 'imagenet.tar.part']
