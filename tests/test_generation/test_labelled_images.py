"""Image folders: what counts as a picture and a class, how pictures are read, and what happens to broken ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmvisionllama.datasets.pictures import left_lying, upright_size
from mmvisionllama.errors import DataError
from mmvisionllama.generation import LabelledImages
from mmvisionllama.generation.labelled_images import MAX_SKIPPED


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Two classes of grey pictures, 10 and 20 in every pixel."""
    for name, value in (('a/0.png', 10), ('b/0.png', 20), ('b/1.png', 20)):
        write(tmp_path / name, np.full((8, 8), value, np.uint8))
    return tmp_path


@pytest.mark.parametrize('grayscale', [True, False])
def test_sixteen_bits_keep_their_levels(tmp_path, grayscale):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(64, 0)
    write(tmp_path / 'a' / '16.png', ramp)
    write(tmp_path / 'a' / '8.png', ((ramp.astype(int) + 128) // 257).astype(np.uint8))
    sixteen, eight = (LabelledImages(str(tmp_path), 64, grayscale=grayscale)[i]['inputs'] for i in (0, 1))
    assert torch.equal(sixteen, eight)
    assert sixteen.min() == -1 and sixteen.max() == 1 and abs(sixteen.mean()) < 0.01


@pytest.mark.parametrize('suffix', ['TIF', 'tiff', 'ppm', 'webp', 'JPEG'])
def test_pictures_of_every_format_that_the_release_reads(root, suffix):
    write(root / 'a' / f'1.{suffix}', np.full((8, 8, 3), 30, np.uint8))
    images = LabelledImages(str(root), 8)
    assert [label for _, label in images.samples] == [0, 0, 1, 1]
    assert images[1]['inputs'].mean().item() == pytest.approx(30 / 127.5 - 1, abs=0.02)


def test_floating_point_pixels_are_refused(tmp_path):
    write(tmp_path / 'a' / '0.tif', np.zeros((8, 8), np.float32))
    (tmp_path / 'a' / '0.tif').rename(tmp_path / 'a' / '0.png')
    with pytest.raises(DataError, match=r'0.png has pixels of an unknown range \(mode F\)'):
        LabelledImages(str(tmp_path), 8)[0]


def test_pictures_stand_upright(tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = 255  # white on the left, and the camera was upside down
    exif = Image.Exif()
    exif[0x0112] = 3
    write(tmp_path / 'a' / '0.jpg', pixels, exif=exif, quality=95)
    image = LabelledImages(str(tmp_path), 64)[0]['inputs']
    assert image[..., :24].mean() < -0.9 and image[..., -24:].mean() > 0.9


def test_hidden_files_and_folders_are_passed_over(root):
    for name in ('.ipynb_checkpoints/0-checkpoint.png', 'b/.ipynb_checkpoints/0-checkpoint.png', 'a/._0.png'):
        write(root / name, np.zeros((8, 8), np.uint8))
    images = LabelledImages(str(root), 8)
    assert images.classes == ['a', 'b'] and [label for _, label in images.samples] == [0, 1, 1]


def test_iterating_ends_after_the_last_picture(root):
    assert [item['labels'] for item in LabelledImages(str(root), 8)] == [0, 1, 1]


def test_an_empty_class_folder_is_named(root):
    (root / 'ab' / 'deep').mkdir(parents=True)
    with pytest.raises(DataError, match=r"class folders without images \('ab'\): fill or remove them"):
        LabelledImages(str(root), 8)


@pytest.mark.parametrize('kind', ['empty', 'text', 'truncated', 'checksum', 'huge'])
def test_a_broken_picture_is_named(root, kind, monkeypatch):
    path = root / 'b' / '0.png'
    write(path, np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    if kind == 'huge':
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    elif kind == 'checksum':
        content[content.index(b'IDAT') + 40] ^= 255
    else:
        content = dict(empty=b'', text=b'no picture', truncated=content[:-1000])[kind]
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=f'picture {path} (cannot be read|has too many pixels)') as error:
        LabelledImages(str(root), 8)[1]
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('suffix', ['png', 'webp'])
def test_unreadable_exif_is_passed_over(root, suffix):
    """Decoders show such a picture; Pillow raises a SyntaxError when it is asked for the orientation."""
    write(root / 'a' / f'1.{suffix}', np.full((8, 8, 3), 30, np.uint8), exif=b'Exif\0\0garbage of some tool')
    image = LabelledImages(str(root), 8)[1]['inputs']
    assert image.mean().item() == pytest.approx(30 / 127.5 - 1, abs=0.02)
    file = Image.open(root / 'a' / f'1.{suffix}')
    assert upright_size(file) == (8, 8) and not left_lying(file)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_broken_picture_can_be_skipped_and_is_counted(root, workers):
    from torch.utils.data import DataLoader

    (root / 'a' / '0.png').write_bytes(b'')
    images = LabelledImages(str(root), 8, on_error='skip')
    batch = next(iter(DataLoader(images, batch_size=3, num_workers=workers)))
    assert batch['labels'].tolist() == [1, 1, 1], 'the next picture comes with its own label'
    assert torch.allclose(batch['inputs'], torch.tensor(20 / 127.5 - 1))
    assert images.skipped == 1


def test_skipping_ends_where_nothing_can_be_read(root):
    for path in root.rglob('*.png'):
        path.write_bytes(b'')
    with pytest.raises(DataError, match=f'{MAX_SKIPPED} pictures in a row cannot be read'):
        LabelledImages(str(root), 8, on_error='skip')[0]
    with pytest.raises(ValueError, match="unknown on_error 'ignore'"):
        LabelledImages(str(root), 8, on_error='ignore')
