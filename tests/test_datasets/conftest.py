import numpy as np
import pytest


@pytest.fixture
def pair(tmp_path):
    """A picture and its label map with 3 classes, 1 ... 3."""
    Image = pytest.importorskip('PIL.Image')
    rng = np.random.default_rng(0)
    files = dict(img_path=str(tmp_path / 'a.jpg'), seg_map_path=str(tmp_path / 'a.png'))
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(files['img_path'])
    labels = rng.integers(0, 4, (40, 60), dtype=np.uint8)
    labels[0, 0] = 255
    Image.fromarray(labels).save(files['seg_map_path'])
    return files
