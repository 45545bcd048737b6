"""The folder of digits: what is complete stays, anything else is written again."""

import pytest

from mmvisionllama.datasets import digit_scenes, digits
from mmvisionllama.errors import DataError

pytest.importorskip('sklearn')
pytest.importorskip('PIL')


def pictures(root):
    return sum(1 for _ in root.glob('*/*/*.png'))


def test_an_interrupted_writing_is_begun_again(tmp_path, monkeypatch):
    assert digits.write_digits(tmp_path) == (1437, 360) and pictures(tmp_path) == 1797
    from PIL import Image

    def full(*args):
        raise OSError('no space left')

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, 'save', full)
        with pytest.raises(OSError, match='no space'):
            digits.write_digits(tmp_path, test_fraction=0.5)
    assert digits.read_marker(tmp_path / digits.MARKER) == digits.WRITING
    assert digits.write_digits(tmp_path) == (1437, 360) and pictures(tmp_path) == 1797
    (tmp_path / digits.MARKER).write_text('')
    next(tmp_path.glob('test/0/*.png')).unlink()
    assert digits.write_digits(tmp_path) == (1437, 360) and pictures(tmp_path) == 1797


@pytest.mark.parametrize(
    'write, folder',
    [(digits.write_digits, 'test'), (digit_scenes.write_scenes, 'images/training'), (digit_scenes.write_crops, 'val')],
)
def test_pictures_of_others_are_left_alone(tmp_path, write, folder):
    own = tmp_path / folder / 'cats' / 'a.png'
    own.parent.mkdir(parents=True)
    own.touch()
    with pytest.raises(DataError, match=f'{folder} would be overwritten and was not written by this tool'):
        write(tmp_path)
    assert own.exists() and sum(path.is_file() for path in tmp_path.rglob('*')) == 1
