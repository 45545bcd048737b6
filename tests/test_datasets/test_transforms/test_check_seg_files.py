"""Damaged and unfitting files of a segmentation data set: one error that names the file."""

import contextlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import ConfigDict

from mmvisionllama import launch
from mmvisionllama.datasets import CheckSegFiles, DataError
from mmvisionllama.datasets.checks import check_files, check_pictures
from mmvisionllama.errors import OptionError

Image = pytest.importorskip('PIL.Image')
ROOT = Path(__file__).parents[3]


def check():
    return CheckSegFiles(num_classes=3, reduce_zero_label=True)


def cut(path, part=0.6):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * part)])


def test_right_files_pass(pair):
    """Results come back untouched; a path alone and an array pass as well, as inference needs."""
    given = dict(pair)
    assert check()(given) is given and given == pair
    assert check()(pair['img_path']) == pair['img_path']
    assert check()(pair['seg_map_path']) == pair['seg_map_path'], 'a picture may be grey'
    array = np.zeros((2, 2, 3))
    assert check()(array) is array


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
def test_damaged(pair, key):
    """Cut off, no image, not there."""
    path = pair[key]
    cut(path)
    with pytest.raises(DataError, match='cannot be read') as error:
        check()(pair)
    assert path in str(error.value) and '\n' not in str(error.value)
    Path(path).write_text('<html>not found</html>')
    with pytest.raises(DataError, match='it is no image') as error:
        check()(pair)
    assert path in str(error.value)
    Path(path).unlink()
    with pytest.raises(DataError, match='does not exist') as error:
        check()(pair)
    assert path in str(error.value)


def test_unknown_class(pair):
    """Label 4 of 3 classes; without the shift, label 3."""
    labels = np.asarray(Image.open(pair['seg_map_path'])).copy()
    labels[5, 5] = 4
    Image.fromarray(labels).save(pair['seg_map_path'])
    with pytest.raises(DataError, match=r'has the labels 4: the config knows 3 classes, labels 1 \.\.\. 3 ') as error:
        check()(pair)
    assert pair['seg_map_path'] in str(error.value)
    with pytest.raises(DataError, match=r'has the labels 3, 4: .* labels 0 \.\.\. 2,'):
        CheckSegFiles(num_classes=3)(pair)


def test_more_classes_than_eight_bits_hold():
    CheckSegFiles(254, reduce_zero_label=True)
    with pytest.raises(OptionError, match='255 classes: .* 8 bits, which hold 254'):
        CheckSegFiles(255, reduce_zero_label=True)


def test_negative_labels(pair, tmp_path):
    pair['seg_map_path'] = str(tmp_path / 'labels.tif')
    Image.fromarray(np.full((40, 60), -3, dtype=np.int32)).save(pair['seg_map_path'])
    with pytest.raises(DataError, match='has the labels -3: the config knows 3 classes'):
        check()(pair)


def test_sixteen_bits(pair):
    """Labels above 255 would wrap around silently."""
    labels = np.full((40, 60), 257, dtype=np.uint16)
    Image.fromarray(labels).save(pair['seg_map_path'])
    with pytest.raises(DataError, match='labels 257'):
        check()(pair)


def test_other_size(pair):
    Image.fromarray(np.ones((60, 40), dtype=np.uint8)).save(pair['seg_map_path'])
    with pytest.raises(DataError, match='has 40 x 60 pixels, its picture .* 60 x 40') as error:
        check()(pair)
    assert pair['seg_map_path'] in str(error.value) and pair['img_path'] in str(error.value)


def test_exif_orientation(pair):
    """A picture that its camera turned is as wide as decoders show it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.zeros((60, 40, 3), dtype=np.uint8)).save(pair['img_path'], exif=exif)
    assert check()(dict(pair)) == pair
    # OpenCV, which loads the picture in training, does not turn WebP
    Image.fromarray(np.zeros((60, 40, 3), dtype=np.uint8)).save(pair['img_path'], 'WEBP', exif=exif)
    with pytest.raises(DataError, match='has 60 x 40 pixels, its picture .* 40 x 60'):
        check()(pair)


def test_colour_label_map(pair):
    Image.fromarray(np.ones((40, 60, 3), dtype=np.uint8)).save(pair['seg_map_path'])
    with pytest.raises(DataError, match='one channel'):
        check()(pair)


def test_folder_without_pictures(tmp_path):
    """mmsegmentation would make an empty data set of pictures with another suffix."""
    with pytest.raises(DataError, match="has no picture that ends with '.jpg', it is empty") as error:
        check_pictures(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    (tmp_path / 'scene').mkdir()
    (tmp_path / 'scene' / 'a.png').touch()
    with pytest.raises(DataError, match=r'its files end with \.png: .*img_suffix='):
        check_pictures(str(tmp_path))
    check_pictures(str(tmp_path), '.png')
    (tmp_path / 'linked').mkdir()
    (tmp_path / 'linked' / 'city').symlink_to(tmp_path / 'scene')
    check_pictures(str(tmp_path / 'linked'), '.png')


@pytest.mark.parametrize('kind, checked', [('BaseSegDataset', True), ('CityscapesDataset', False)])
def test_before_a_training(tmp_path, kind, checked):
    """The suffix is known of some data sets alone, and an image list is the user's word."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'a.png').touch()
    dataset = dict(type=kind, data_root=str(tmp_path), data_prefix=dict(img_path='images'))
    cfg = ConfigDict(train_dataloader=dict(dataset=dataset))
    with pytest.raises(DataError, match='images') if checked else contextlib.nullcontext():
        launch.check_data(cfg)
    cfg.train_dataloader.dataset.img_suffix = '.png'
    launch.check_data(cfg)


def test_a_suffix_that_is_no_argument(tmp_path):
    """REFUGE's is written in its class."""
    pytest.importorskip('mmseg.datasets')
    (tmp_path / 'a.png').touch()
    check_files(dict(type='REFUGEDataset'), str(tmp_path), 'mmseg')
    with pytest.raises(DataError, match="no picture that ends with '.jpg'"):
        check_files(dict(type='ADE20KDataset'), str(tmp_path), 'mmseg')


@pytest.mark.parametrize('workers', [0, 1])
def test_training_ends_with_one_line(tmp_path, monkeypatch, capsys, workers):
    """From the loader, or from a worker of it, to one line of tools/train.py."""
    pytest.importorskip('mmseg')
    for split in ('training', 'validation'):
        for folder, suffix, shape in (('images', 'jpg', (64, 64, 3)), ('annotations', 'png', (64, 64))):
            (tmp_path / folder / split).mkdir(parents=True)
            Image.fromarray(np.full(shape, 200, dtype=np.uint8)).save(tmp_path / folder / split / f'0.{suffix}')
    command = ['train.py', str(ROOT / 'configs/mmseg/quickstart/pyramid_vision_llama_digit_scenes.py')]
    command += ['--work-dir', str(tmp_path / 'work'), '--cfg-options']
    for split in ('train', 'val', 'test'):
        command += [f'{split}_dataloader.dataset.data_root={tmp_path}', f'{split}_dataloader.num_workers={workers}']
        command += [f'{split}_dataloader.persistent_workers=False']
    monkeypatch.setattr(sys, 'argv', command)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
    assert stop.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(
        f'error: label map {tmp_path}/annotations/training/0.png has the labels 200: the config knows 11'
    )
    assert 'Traceback' not in last
