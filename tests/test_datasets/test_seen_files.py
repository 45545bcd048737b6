"""Files that were found right are decoded once: counted, not timed."""

import copy
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmvisionllama.datasets.seen_files import WAYS, SeenFiles
from mmvisionllama.datasets.transforms import check_seg_files
from mmvisionllama.datasets.transforms.check_seg_files import CheckSegFiles
from mmvisionllama.errors import DataError

Image = pytest.importorskip('PIL.Image')


def check():
    return CheckSegFiles(num_classes=3, reduce_zero_label=True)


def cut(path, part=0.6):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * part)])


def test_labels_that_are_signed(pair):
    """Label maps of 32 bits."""
    labels = np.full((40, 60), 2, dtype=np.int32)
    Image.fromarray(labels).save(pair['seg_map_path'], format='TIFF')
    assert check()(pair) is pair
    labels[3, 4] = 70000
    Image.fromarray(labels).save(pair['seg_map_path'], format='TIFF')
    with pytest.raises(DataError, match='labels 70000'):
        check()(pair)


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """How many files were decoded so far, in this process and in those that it forks."""
    log = tmp_path / 'decoded.log'

    def read(path, *args):
        with open(log, 'a') as file:
            file.write(f'{path}\n')
        return original(path, *args)

    original = check_seg_files.read
    monkeypatch.setattr(check_seg_files, 'read', read)
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


def test_each_file_once(pair, decoded):
    """What was found right is not decoded again, in any pipeline of the same transform."""
    transform = check()
    for _ in range(3):
        assert transform(pair) is pair
    assert decoded() == 2
    assert transform(pair['img_path']) == pair['img_path'] and decoded() == 3, 'another question: no label map'
    check()(pair)
    assert decoded() == 5, 'a transform with other settings has to look itself'


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
def test_a_file_that_changes_is_new(pair, decoded, key):
    """By its size, or by its time alone; a wrong file is looked at each time."""
    transform = check()
    transform(pair)
    data = Path(pair[key]).read_bytes()
    cut(pair[key])
    for _ in range(2):
        with pytest.raises(DataError, match=f'{pair[key]} cannot be read'):
            transform(pair)
    Path(pair[key]).write_bytes(data)
    os.utime(pair[key], ns=(1, 1))
    before = decoded()
    transform(pair)
    os.utime(pair[key], ns=(2, 2))
    transform(pair)
    transform(pair)
    assert decoded() == before + 4


def test_workers_share_what_they_know(pair, decoded):
    """Two workers, started afresh for every epoch as after a checkpoint: each file is decoded once in all."""
    files = []
    for i in range(8):
        copies = {key: str(Path(path).with_name(f'{i}{Path(path).suffix}')) for key, path in pair.items()}
        for key, path in copies.items():
            shutil.copy(pair[key], path)
        files.append(copies)

    class Pictures(Dataset):
        transform = check()

        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            self.transform(files[index])
            return index

    loader = DataLoader(Pictures(), batch_size=2, num_workers=2, shuffle=True, multiprocessing_context='fork')
    for _ in range(3):
        assert sorted(torch.cat(list(loader)).tolist()) == list(range(8))
        assert decoded() == 16
    cut(files[3]['img_path'])
    with pytest.raises(DataError, match=files[3]['img_path']):
        list(loader)


def test_the_set_of_files():
    """Full rows forget, copies start empty, and files on servers are known by their names."""
    seen = SeenFiles(capacity=2 * WAYS)
    keys = list(range(1, 1 + 10 * WAYS))
    for key in keys:
        seen.add(key)
        assert key in seen
    assert sum(key in seen for key in keys) == 2 * WAYS
    assert keys[-1] not in copy.deepcopy(seen) and keys[-1] not in pickle.loads(pickle.dumps(seen))
    assert None not in seen
    assert seen.key('no/such/file') is None
    assert seen.key('s3://a', None) == seen.key('s3://a', None) != seen.key('s3://b', None)
