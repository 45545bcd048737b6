"""Objects painted into pictures."""

import numpy as np
import pytest

from mmvisionllama.visualization.detection import Objects, colours, paint, plot_detections

CLASSES = ('cat', 'dog', 'cow')


def objects(scores=None):
    masks = np.zeros((2, 30, 40), dtype=bool)
    masks[0, 5:15, 4:20] = masks[1, 10:30, 22:38] = True
    return Objects(np.array([[4, 5, 20, 15], [22, 10, 38, 30]]), masks, [2, 0], scores)


@pytest.mark.parametrize('count', [1, 10, 80])
def test_colours_are_distinct(count):
    palette = colours(count)
    assert palette.shape == (count, 3) and palette.min() >= 0 and palette.max() <= 1
    assert len(np.unique(palette.round(3), axis=0)) == count


def test_boxes_masks_and_captions():
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    palette = colours(3)
    assert paint(ax, (30, 40), objects([0.9, 0.456]), CLASSES, palette) == ['cow 0.90', 'cat 0.46']
    assert paint(ax, (30, 40), objects(), CLASSES, palette) == ['cow', 'cat']
    overlay = np.asarray(ax.images[0].get_array())
    assert (overlay[..., 3] > 0).sum() == 10 * 16 + 20 * 16
    np.testing.assert_allclose(overlay[6, 6, :3], palette[2])
    box = np.array(ax.lines[0].get_data())
    assert box.min(axis=1).tolist() == [4, 5] and box.max(axis=1).tolist() == [20, 15]


def test_a_picture_without_objects(tmp_path):
    from PIL import Image

    nothing = Objects(np.zeros((0, 4)), np.zeros((0, 30, 40), dtype=bool), [], [])
    image = np.full((30, 40, 3), 200, dtype=np.uint8)
    plot_detections([(image, objects(), nothing), (image, nothing, objects([0.5, 0.6]))], CLASSES, tmp_path / 'a.png')
    picture = np.asarray(Image.open(tmp_path / 'a.png').convert('RGB')).astype(int)
    assert picture.shape[0] > picture.shape[1] and (picture.max(-1) - picture.min(-1) > 100).any()
