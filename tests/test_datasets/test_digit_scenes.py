"""The scenes: both layouts say the same, from a seed, written once."""

import json

import numpy as np
import pytest

from mmvisionllama.datasets import digit_scenes

pytest.importorskip('sklearn')
Image = pytest.importorskip('PIL.Image')

SMALL = dict(counts=(3, 2), train_sides=(60, 80), val_sides=(90, 120), digit_sides=(20, 36), max_digits=(4, 6))


def decoded(segmentation):
    """Mask of COCO's uncompressed run-length code."""
    values = np.arange(len(segmentation['counts'])) % 2
    flat = np.repeat(values, segmentation['counts'])
    return flat.reshape(segmentation['size'], order='F').astype(bool)


def test_both_layouts_agree(tmp_path):
    """The instances of COCO's layout, painted one over the other, are the label maps of ADE20K's."""
    assert digit_scenes.write_scenes(tmp_path, **SMALL) == (3, 2)
    shapes = set()
    for folder, short, low, high in (('training', 'train', 60, 80), ('validation', 'val', 90, 120)):
        coco = json.loads((tmp_path / 'annotations' / f'instances_{short}.json').read_text())
        assert [c['name'] for c in coco['categories']] == list(digit_scenes.CLASSES[1:])
        for entry in coco['images']:
            image = np.asarray(Image.open(tmp_path / 'images' / folder / entry['file_name']))
            labels = np.asarray(Image.open(tmp_path / 'annotations' / folder / f'{entry["id"]:04d}.png'))
            assert image.shape == (entry['height'], entry['width'], 3) == (*labels.shape, 3)
            assert all(low <= side <= high for side in labels.shape)
            shapes.add(labels.shape)
            painted = np.ones_like(labels)
            own = [a for a in coco['annotations'] if a['image_id'] == entry['id']]
            assert own
            for annotation in own:
                mask = decoded(annotation['segmentation'])
                assert not (painted[mask] > 1).any(), 'digits overlap'
                painted[mask] = annotation['category_id'] + 1
                left, top, width, height = annotation['bbox']
                inside = mask[top : top + height, left : left + width]
                assert mask.sum() == inside.sum() == annotation['area']
                assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            np.testing.assert_array_equal(painted, labels)
    assert len(shapes) > 2, 'every scene has a size of its own'


def test_seed_and_marker(tmp_path, monkeypatch):
    """The seed decides; a finished folder stays, an unfinished one is written again."""

    def pixels(root):
        return [path.read_bytes() for path in sorted(root.glob('images/*/*.jpg'))]

    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        digit_scenes.write_scenes(tmp_path / name, **SMALL, seed=seed)
    assert pixels(tmp_path / 'a') == pixels(tmp_path / 'b') != pixels(tmp_path / 'c')
    image = tmp_path / 'a' / 'images' / 'training' / '0000.jpg'
    image.unlink()
    digit_scenes.write_scenes(tmp_path / 'a', **SMALL)
    assert not image.exists()
    (tmp_path / 'a' / digit_scenes.MARKER).write_text('')  # killed while it was written
    digit_scenes.write_scenes(tmp_path / 'a', **SMALL)
    assert pixels(tmp_path / 'a') == pixels(tmp_path / 'b')
    image.unlink()
    monkeypatch.setattr(digit_scenes, 'DRAWING', digit_scenes.DRAWING + 1)
    digit_scenes.write_scenes(tmp_path / 'a', **SMALL)
    assert image.exists(), 'scenes that an older version drew are written again'


def test_crops_of_single_digits(tmp_path):
    """ImageNet's layout; the folder is the digit that is drawn, brighter than the ground."""
    settings = dict(counts=(40, 12), side=32, digit_sides=(24, 32))
    assert digit_scenes.write_crops(tmp_path, **settings) == (40, 12)
    for folder, count in (('train', 40), ('val', 12)):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [str(digit) for digit in range(10)]
        crops = sorted((tmp_path / folder).glob('*/*.jpg'), key=lambda path: path.stem)
        assert [path.stem for path in crops] == [f'{number:05d}' for number in range(count)]
        assert all(Image.open(path).size == (32, 32) for path in crops)
    # the same draws again: the labels of the scenes decide the folders
    scans, labels, train, _ = digit_scenes.split_digits()
    rng = np.random.default_rng([0, 2])
    for number in range(40):
        image, (drawn,) = digit_scenes.make_scene(rng, scans[train], labels[train], (32, 32), (24, 32), 1)
        written = np.asarray(Image.open(tmp_path / 'train' / str(drawn['digit']) / f'{number:05d}.jpg'), dtype=float)
        assert np.abs(written - image).mean() < 12  # JPEG
        assert image[drawn['mask']].mean() > image[~drawn['mask']].mean() + 25
    first = crops[0].read_bytes()
    crops[1].unlink()
    digit_scenes.write_crops(tmp_path, **settings)
    assert not crops[1].exists(), 'a finished folder stays'
    digit_scenes.write_crops(tmp_path, **settings, seed=1)
    assert len(list((tmp_path / 'val').glob('*/*.jpg'))) == 12
    assert not crops[0].exists() or crops[0].read_bytes() != first


def test_run_lengths():
    """Zeros first, down the columns."""
    assert digit_scenes.run_lengths(np.array([[0, 1], [1, 1]], dtype=bool)) == [1, 3]
    assert digit_scenes.run_lengths(np.array([[1, 0], [0, 0]], dtype=bool)) == [0, 1, 3]
