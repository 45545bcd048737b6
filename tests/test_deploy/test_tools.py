"""The two tools, as a user runs them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmvisionllama import deploy, launch
from mmvisionllama.deploy.models import model_config
from mmvisionllama.errors import OptionError

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


@pytest.mark.usefixtures('exporting')
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


@pytest.mark.parametrize('model', ['generation', 'features'])
@pytest.mark.usefixtures('exporting')
def test_models_that_no_picture_goes_into_are_exported(model, run, tmp_path):
    """Their configs have no pipeline that prepares one."""
    config = tmp_path / 'config.py'
    arch = dict(_delete_=True, embed_dims=16, num_layers=1, num_heads=2)
    if model == 'generation':
        base = str(ROOT / 'configs/generation/quickstart/dit_llama_digits.py')
        config.write_text(f'_base_ = [{base!r}]\nmodel = dict(network=dict(arch={arch}))\n')
    else:
        del arch['_delete_']
        config.write_text(
            f"custom_imports = dict(imports='mmvisionllama')\nmodel = dict(type='VisionLLaMA', arch={arch})"
        )
    cfg = launch.load_config(str(config))
    torch.save(MODELS.build(model_config(cfg)).state_dict(), tmp_path / 'model.pth')
    printed = run('export', config, tmp_path / 'model.pth', '--to', 'torch', '--out', tmp_path / 'model')
    assert f'model.pt2: {model}' in printed
    assert ('at 32 x 48, ' in printed) == (model == 'generation')  # latents are smaller than pictures
    with pytest.raises(OptionError, match='holds a part of a model'):
        deploy.Predictor(tmp_path / 'model.pt2')


@pytest.mark.parametrize('target', ['onnx', 'openvino'])
@pytest.mark.usefixtures('exporting')
def test_a_refused_export_leaves_the_file_before_it(target, run, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    torch.save(MODELS.build(model_config(launch.load_config(CONFIG))).state_dict(), tmp_path / 'model.pth')
    (tmp_path / 'out').mkdir()
    contents = iter('abc')

    def export(network, path, target, **_):
        content = next(contents)
        for file in {path, path.with_suffix('.bin') if target == 'openvino' else path}:
            assert not file.exists()
            file.write_text(content)
        return deploy.Export(path, 0.0)

    differences = iter((0.0, 1.0, float('nan')))
    monkeypatch.setattr(deploy, 'export', export)
    monkeypatch.setattr(deploy, 'load_exported', lambda path: path.read_text())
    monkeypatch.setattr(deploy, 'largest_difference', lambda *_, **__: next(differences))
    args = ['export', CONFIG, tmp_path / 'model.pth', '--to', target, '--out', tmp_path / 'out/digits_v1.2']
    assert 'digits_v1.2' in run(*args)
    for _ in range(2):
        assert 'is not written: it differs from PyTorch' in run(*args, fails=True)
        names = {'onnx': ['digits_v1.2.onnx'], 'openvino': ['digits_v1.2.bin', 'digits_v1.2.xml']}[target]
        assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == names
        assert all((tmp_path / 'out' / name).read_text() == 'a' for name in names)


WRONG_FOR_TRITON = (('--max-batch', 0), ('--max-batch', -3), ('--delay', -5), ('--name', 'a/b'), ('--name', '..'))


def test_mistakes_end_in_one_line(run, tmp_path):
    for tool, *args in (
        ('export', CONFIG, 'missing.pth', '--to', 'tflite'),
        ('export', CONFIG, 'missing.pth'),
        ('predict', 'missing.onnx', 'picture.png', '--out', tmp_path),
        *(('triton_repository', 'm.onnx', tmp_path, *wrong) for wrong in WRONG_FOR_TRITON),
    ):
        error = run(tool, *args, fails=True)
        assert error.startswith('error: ') and error.count('\n') == 1
        assert tool != 'triton_repository' or str(args[-1]) in error
