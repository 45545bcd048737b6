"""Detection in pictures of one's own, through the tool."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/mmdet/quickstart/pyramid_vision_llama_digit_scenes.py'


@pytest.fixture
def detect(monkeypatch, capsys):
    """Runs the tool and returns what it printed, errors included."""
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    from mmvisionllama import launch

    spec = importlib.util.spec_from_file_location('detect', ROOT / 'tools/visualization/detect.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*args, fails=False):
        monkeypatch.setattr(sys, 'argv', ['detect.py', *map(str, args)])
        if fails:
            with pytest.raises(SystemExit):
                launch.run_cli(tool.main)
            return capsys.readouterr().err
        tool.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def checkpoint(tmp_path):
    """Random weights, and the classes as a training stores them."""
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(str(CONFIG)).model)
    meta = dict(dataset_meta=dict(classes=tuple('ABCDEFGHIJ')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'model.pth')
    return tmp_path / 'model.pth'


def test_pictures_and_lists_of_objects(detect, checkpoint, tmp_path):
    from PIL import Image
    from pycocotools import mask as coco_mask

    sizes = dict(a=(90, 70), b=(33, 120))
    for name, (width, height) in sizes.items():
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'{name}.png')
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, which OpenCV leaves to others in this format
    lying = Image.open(tmp_path / 'a.png').transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / 'c.webp', exif=exif, lossless=True)
    out = tmp_path / 'out'
    pictures = [tmp_path / name for name in ('a.png', 'b.png', 'c.webp')]
    printed = detect(CONFIG, checkpoint, *pictures, '--out', out, '--score', 0.05)
    assert (out / 'c_objects.json').read_text() == (out / 'a_objects.json').read_text()
    assert Image.open(out / 'c_objects.png').size == sizes['a']
    for name, (width, height) in sizes.items():
        found = json.loads((out / f'{name}_objects.json').read_text())
        assert f'{name}_objects.png: {len(found)} objects' in printed and found
        assert [item['score'] for item in found] == sorted((item['score'] for item in found), reverse=True)
        assert found[-1]['score'] >= 0.05 and {item['class'] for item in found} <= set('ABCDEFGHIJ')
        for item in found:
            left, top, right, bottom = item['bbox']
            assert 0 <= left <= right <= width and 0 <= top <= bottom <= height
            assert coco_mask.decode(item['mask']).shape == (height, width)
        picture, painted = (
            np.asarray(Image.open(path)) for path in (tmp_path / f'{name}.png', out / f'{name}_objects.png')
        )
        assert painted.shape == picture.shape and (painted != picture).any()


def test_weights_alone(detect, checkpoint, tmp_path):
    """A file without classes, as a published one that is converted: they are the config's, not COCO's."""
    from PIL import Image

    torch.save(torch.load(checkpoint)['state_dict'], tmp_path / 'weights.pth')
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    detect(CONFIG, tmp_path / 'weights.pth', tmp_path / 'a.png', '--out', tmp_path / 'out', '--score', 0.05)
    found = json.loads((tmp_path / 'out' / 'a_objects.json').read_text())
    assert found and {item['class'] for item in found} <= set('0123456789')


def test_errors(detect, checkpoint, tmp_path):
    (tmp_path / 'text.png').write_text('no picture')
    out = ('--out', tmp_path / 'out')
    assert 'text.png cannot be read' in detect(CONFIG, checkpoint, tmp_path / 'text.png', *out, fails=True)
    assert "checkpoint 'nowhere.pth' does not exist" in detect(CONFIG, 'nowhere.pth', 'a.png', *out, fails=True)
    assert 'several pictures are named a:' in detect(CONFIG, checkpoint, 'x/a.png', 'a.jpg', 'b.png', *out, fails=True)
    other = ROOT / 'configs/mmpretrain/quickstart/vision_llama_digits.py'
    assert 'no config of a detection model' in detect(other, checkpoint, 'a.png', *out, fails=True)
