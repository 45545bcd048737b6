"""The folder of digits: what is complete stays, anything else is written again."""

import pytest

from mmvisionllama.datasets import digits

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
    assert not (tmp_path / digits.MARKER).exists()
    assert digits.write_digits(tmp_path) == (1437, 360) and pictures(tmp_path) == 1797
    (tmp_path / digits.MARKER).write_text('')
    next(tmp_path.glob('test/0/*.png')).unlink()
    assert digits.write_digits(tmp_path) == (1437, 360) and pictures(tmp_path) == 1797
