"""The analysis tools on a tiny classifier and generated images."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')
from mmvisionllama.engine import launch  # noqa: E402

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools' / 'analysis_tools'


@pytest.fixture
def classifier(tmp_path, monkeypatch):
    """Config and checkpoint of a model for four classes, run in a folder of its own."""
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, count in (('train', 8), ('test', 4)):
        for label in range(4):
            folder = tmp_path / 'images' / split / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f'{i}.png')
    config = tmp_path / 'tiny.py'
    base = ROOT / 'configs' / 'mmpretrain' / 'quickstart' / 'illama_digits.py'
    config.write_text(
        f'_base_ = [{str(base)!r}]\n'
        'model = dict(\n'
        '    backbone=dict(arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)),\n'
        '    head=dict(num_classes=4, in_channels=16),\n'
        ')\n'
        'data_preprocessor = dict(num_classes=4)\n'
        'train_cfg = dict(max_epochs=1)\n'
        'param_scheduler = []\n'
        + ''.join(
            f'{split}_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, '
            f'dataset=dict(data_root={str(tmp_path / "images")!r}))\n'
            for split in ('train', 'val', 'test')
        )
    )
    cfg = launch.load_config(str(config))
    init_default_scope('mmpretrain')
    checkpoint = tmp_path / 'tiny.pth'
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, checkpoint)
    monkeypatch.chdir(tmp_path)
    return str(config), str(checkpoint)


def run(monkeypatch, tool, *args):
    """Runs a tool's main() with these arguments."""
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
    runpy.run_path(str(TOOLS / tool), run_name='tool')['main']()


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_calibration(classifier, tmp_path, monkeypatch, capsys):
    run(monkeypatch, 'calibration.py', *classifier, '--bins', 5, '--out', tmp_path / 'out' / 'bins.csv')
    rows = read(tmp_path / 'out' / 'bins.csv')
    assert len(rows) == 5 and sum(float(row['count']) for row in rows) == 16
    assert (tmp_path / 'out' / 'bins.png').exists()
    out = capsys.readouterr().out
    top1 = float(out.split('top-1 ')[1].split(' %')[0])
    right = sum(float(row['count']) * float(row['accuracy']) for row in rows)
    assert top1 == pytest.approx(100 * right / 16, abs=0.01)
    assert 'expected calibration error' in out


def test_attention_rank(classifier, tmp_path, monkeypatch):
    run(monkeypatch, 'attention_rank.py', *classifier, '--images', 8)
    (written,) = (tmp_path / 'work_dirs').glob('*/attention_rank.csv')
    rows = read(written)
    assert [row['layer'] for row in rows] == ['0', '1']
    assert {(row['queries'], row['keys'], row['images']) for row in rows} == {('65', '65', '8')}
    assert all(1 <= float(row['effective_rank']) <= 65 for row in rows)
    assert written.with_suffix('.png').exists()


def test_shape_texture(classifier, tmp_path, monkeypatch, capsys):
    from PIL import Image

    for shape, texture in (('star', 'fur'), ('star', 'star'), ('fur', 'star')):
        folder = tmp_path / 'stimuli' / shape
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8), 100).save(folder / f'{shape}1-{texture}2.png')
    categories = tmp_path / 'categories.json'
    categories.write_text(json.dumps(dict(star=[0, 1], fur=[2, 3])))
    out = tmp_path / 'bias.csv'
    run(monkeypatch, 'shape_texture.py', *classifier, tmp_path / 'stimuli', '--categories', categories, '--out', out)
    # the images look alike: one of the two conflicts is decided for its shape, the other for its texture
    assert 'shape bias 50.00 %' in capsys.readouterr().out
    assert sum(int(row['shape_decisions']) + int(row['texture_decisions']) for row in read(out)) == 2
    with pytest.raises(launch.LaunchError, match='4 classes'):
        categories.write_text(json.dumps(dict(star=[0, 1], fur=[2, 7])))
        run(monkeypatch, 'shape_texture.py', *classifier, tmp_path / 'stimuli', '--categories', categories)


@pytest.mark.parametrize('mode', ['post-training', 'training-aware'])
def test_quantize(classifier, tmp_path, monkeypatch, mode):
    pytest.importorskip('torchao')
    out = tmp_path / 'out' / 'int8.pth'
    run(monkeypatch, 'quantize.py', *classifier, '--out', out, *(['--training-aware'] * (mode == 'training-aware')))
    fp32, int8 = read(out.with_suffix('.csv'))
    assert (fp32['model'], int8['model']) == ('fp32', f'int8 {mode}')
    assert int(int8['bytes']) == out.stat().st_size

    from mmvisionllama.analysis import predictions, quantization

    cfg = launch.load_config(classifier[0])
    cfg.work_dir = str(tmp_path / 'work')
    model, dataloader = predictions.open_classifier(cfg, classifier[1])
    quantization.load_quantised(model, str(out))
    assert predictions.predict(model, dataloader).accuracy == pytest.approx(float(int8['top1']), abs=1e-3)


def test_what_is_no_classification_config_is_refused(classifier, tmp_path, monkeypatch):
    with pytest.raises(launch.LaunchError, match='classification'):
        run(monkeypatch, 'calibration.py', *classifier, '--cfg-options', 'default_scope=mmengine')
