"""The two tools, as a user runs them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmvisionllama import launch
from mmvisionllama.deploy.models import model_config

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/mmpretrain/quickstart/vision_llama_digits.py')


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a tool and returns what it printed, errors included."""

    def run(name, *args, fails=False):
        spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/deployment/{name}.py')
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, args)])
        capsys.readouterr()
        if not fails:
            tool.main()
            return capsys.readouterr().out
        with pytest.raises(SystemExit):
            launch.run_cli(tool.main)
        return capsys.readouterr().err

    return run


def test_a_trained_model_is_exported_and_predicts_on_a_folder(run, tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = launch.load_config(CONFIG)
    init_default_scope('mmpretrain')
    torch.save(MODELS.build(model_config(cfg)).state_dict(), tmp_path / 'model.pth')
    (tmp_path / 'pictures').mkdir()
    Image.fromarray(np.full((20, 30, 3), 200, dtype=np.uint8)).save(tmp_path / 'pictures/grey.png')

    printed = run('export', CONFIG, tmp_path / 'model.pth', '--to', 'torch', '--out', tmp_path / 'digits')
    assert 'digits.pt2: classification' in printed and 'largest relative difference to PyTorch' in printed
    printed = run('predict', tmp_path / 'digits.pt2', tmp_path / 'pictures', '--out', tmp_path / 'out')
    assert 'grey.png: ' in printed
    assert Image.open(tmp_path / 'out/grey_predicted.png').size == (30, 20)


def test_mistakes_end_in_one_line(run, tmp_path):
    for tool, *args in (
        ('export', CONFIG, 'missing.pth', '--to', 'tflite'),
        ('export', CONFIG, 'missing.pth'),
        ('predict', 'missing.onnx', 'picture.png', '--out', tmp_path),
    ):
        error = run(tool, *args, fails=True)
        assert error.startswith('error: ') and error.count('\n') == 1
