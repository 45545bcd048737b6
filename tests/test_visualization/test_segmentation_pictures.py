"""Overlays, and tools/visualization/segment.py on pictures of one's own."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvisionllama.visualization.segmentation import overlay, plot_segmentations

Image = pytest.importorskip('PIL.Image')
ROOT = Path(__file__).parents[2]
CONFIG = 'configs/mmseg/quickstart/pyramid_vision_llama_digit_scenes.py'
PALETTE = [(0, 0, 0), (255, 0, 0)]


def test_overlay():
    """Colours mix by the opacity; labels without a colour leave the picture."""
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    painted = overlay(image, np.array([[0, 1, 255]]), PALETTE, opacity=0.4)
    assert painted.tolist() == [[[60, 60, 60], [162, 60, 60], [100, 100, 100]]]
    with pytest.raises(ValueError, match='one size'):
        overlay(image, np.zeros((3, 1), dtype=int), PALETTE)


def test_plot(tmp_path):
    """One row for each picture, the three panels in order; labels in the plain colours of the palette."""
    pytest.importorskip('matplotlib')
    image = np.full((40, 60, 3), 200, dtype=np.uint8)
    rows = [(image, np.zeros((40, 60), dtype=int), np.ones((40, 60), dtype=int))]
    plot_segmentations(rows, ('a', 'b'), PALETTE, tmp_path / 'one.png', 'title')
    plot_segmentations(rows * 2, ('a', 'b'), PALETTE, tmp_path / 'two.png')
    one, two = (np.asarray(Image.open(tmp_path / f'{name}.png')) for name in ('one', 'two'))
    assert two.shape[0] == pytest.approx(2 * one.shape[0], abs=4)
    middle = one[int(one.shape[0] * 0.4)]
    left, centre, right = (middle[int(one.shape[1] * part)][:3].tolist() for part in (1 / 6, 1 / 2, 5 / 6))
    assert left == [200, 200, 200] and centre == [0, 0, 0] and right == [255, 0, 0]


def segment(monkeypatch, *args):
    """Runs the script in this process."""
    monkeypatch.setattr(sys, 'argv', ['segment.py', str(ROOT / CONFIG), *map(str, args)])
    runpy.run_path(str(ROOT / 'tools' / 'visualization' / 'segment.py'), run_name='__main__')


def test_own_pictures(tmp_path, monkeypatch, capsys):
    """Two pictures of other sizes than the crop: an overlay and a label map of the picture's size each."""
    pytest.importorskip('mmseg')
    from mmengine.registry import MODELS, init_default_scope

    from mmvisionllama import launch

    cfg = launch.load_config(str(ROOT / CONFIG))
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        model.decode_head.conv_seg.bias[3] += 100  # so that the answer is known
    meta = dict(dataset_meta=dict(classes=cfg.classes, palette=cfg.palette))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'weights.pth')
    for name, size in (('a', (90, 140)), ('b', (133, 61))):
        Image.fromarray(np.full((*size, 3), 100, dtype=np.uint8)).save(tmp_path / f'{name}.png')
    segment(monkeypatch, tmp_path / 'weights.pth', tmp_path / 'a.png', tmp_path / 'b.png', '--out', tmp_path / 'out')
    for name, size in (('a', (90, 140)), ('b', (133, 61))):
        labels = np.asarray(Image.open(tmp_path / 'out' / f'{name}_labels.png'))
        assert labels.shape == size and (labels == 3).all()
        painted = np.asarray(Image.open(tmp_path / 'out' / f'{name}_overlay.png')).astype(int)
        expected = 100 + 0.6 * (np.asarray(cfg.palette[3]) - 100)
        assert np.abs(painted[-1, -1] - expected).max() <= 2, 'colours, RGB'
    # weights alone, as a published file that is converted: the config's colours, not those of Cityscapes
    torch.save(model.state_dict(), tmp_path / 'alone.pth')
    segment(monkeypatch, tmp_path / 'alone.pth', tmp_path / 'a.png', '--out', tmp_path / 'alone')
    for kind in ('labels', 'overlay'):
        known, alone = (np.asarray(Image.open(tmp_path / out / f'a_{kind}.png')) for out in ('out', 'alone'))
        assert (known == alone).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # a WebP that is to be turned
    Image.fromarray(np.full((90, 140, 3), 100, dtype=np.uint8)).save(tmp_path / 'c.webp', exif=exif)
    segment(monkeypatch, tmp_path / 'weights.pth', tmp_path / 'c.webp', '--out', tmp_path / 'out')
    assert Image.open(tmp_path / 'out' / 'c_labels.png').size == (90, 140)
    assert Image.open(tmp_path / 'out' / 'c_overlay.png').size == (90, 140)
    (tmp_path / 'b.png').write_bytes((tmp_path / 'b.png').read_bytes()[:60])
    with pytest.raises(SystemExit):
        segment(monkeypatch, tmp_path / 'weights.pth', tmp_path / 'b.png', '--out', tmp_path / 'out')
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f'error: picture {tmp_path}/b.png cannot be read')
    with pytest.raises(SystemExit):
        segment(monkeypatch, tmp_path / 'weights.pth', 'x/a.png', 'a.jpg', '--out', tmp_path / 'out')
    assert 'several pictures are named a:' in capsys.readouterr().err
