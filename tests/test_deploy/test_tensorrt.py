"""tools/deployment/check_tensorrt.py: real where TensorRT is; elsewhere the CPU stands in for the engine."""

import runpy
from pathlib import Path

import pytest
import torch

from mmvisionllama import deploy
from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.errors import LaunchError

ort = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
SCRIPT = Path(__file__).parents[2] / 'tools' / 'deployment' / 'check_tensorrt.py'
SHAPES = ['--min', '1x32x32', '--opt', '2x48x40', '--max', '2x64x80']
has_tensorrt = 'TensorrtExecutionProvider' in ort.get_available_providers() and torch.cuda.is_available()


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    network = deploy.export_network(VisionLLaMA(dict(embed_dims=16, num_layers=1, num_heads=2)).eval())
    return str(deploy.export(network, tmp_path_factory.mktemp('onnx') / 'model', 'onnx').path)


@pytest.fixture
def main():
    return runpy.run_path(str(SCRIPT))['main']


@pytest.mark.skipif(not has_tensorrt, reason='needs TensorRT and a GPU')
@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_engines_compute_what_the_file_does(model, main, precision, capsys):
    main([model, *SHAPES, '--precision', precision])
    assert capsys.readouterr().out.count('largest relative difference') == 3


class StandIn:
    """ONNX Runtime whose engine is its CPU, off by a factor."""

    def __init__(self, factor):
        self.asked = []

        class Session(ort.InferenceSession):
            def __init__(self, path, providers):
                self.is_engine = providers[0] != 'CPUExecutionProvider'
                super().__init__(path, providers=['CPUExecutionProvider'])

            def get_providers(self):
                return ['TensorrtExecutionProvider']

            def run(self, names, feed):
                return [out * (factor if self.is_engine else 1.0) for out in super().run(names, feed)]

        def session(path, providers):
            self.asked.append(providers)
            return Session(path, providers)

        self.InferenceSession = session

    @staticmethod
    def get_available_providers():
        return ['TensorrtExecutionProvider', 'CPUExecutionProvider']


def test_options_and_the_comparison(model, main, tmp_path, capsys, monkeypatch):
    stand_in = StandIn(1.001)
    monkeypatch.setitem(main.__globals__, 'extra', lambda name: stand_in)
    main([model, *SHAPES, '--precision', 'fp16', '--cache', str(tmp_path / 'engines')])
    assert capsys.readouterr().out.count('largest relative difference 1.0e-03') == 3
    (name, options), rest = stand_in.asked[1]
    assert (name, rest) == ('TensorrtExecutionProvider', 'CUDAExecutionProvider')
    assert options == {
        'trt_profile_min_shapes': 'images:1x3x32x32',
        'trt_profile_opt_shapes': 'images:2x3x48x40',
        'trt_profile_max_shapes': 'images:2x3x64x80',
        'trt_fp16_enable': True,
        'trt_engine_cache_enable': True,
        'trt_engine_cache_path': str(tmp_path / 'engines'),
    }
    monkeypatch.setitem(main.__globals__, 'extra', lambda name: StandIn(1.01))
    with pytest.raises(LaunchError, match='fp32 differs by 1.0e-02, more than 0.001'):
        main([model, *SHAPES])
    monkeypatch.setitem(main.__globals__, 'extra', lambda name: StandIn(float('nan')))
    with pytest.raises(LaunchError, match='differs by inf'):
        main([model, *SHAPES])
    monkeypatch.setitem(main.__globals__, 'extra', lambda name: StandIn(1.0001))
    with pytest.raises(LaunchError, match='more than 0$'):
        main([model, *SHAPES, '--tolerance', '0'])


def test_mistakes_end_in_one_line(model, main, capsys):
    with pytest.raises(LaunchError, match='does not exist'):
        main(['missing.onnx', *SHAPES])
    with pytest.raises(LaunchError, match='must ascend'):
        main([model, '--min', '1x64x64', '--opt', '1x32x64', '--max', '1x64x64'])
    with pytest.raises(SystemExit):
        main([model, '--min', '224', '--opt', '1x32x64', '--max', '1x64x64'])
    assert 'expected BATCHxHEIGHTxWIDTH' in capsys.readouterr().err
    if not has_tensorrt:
        with pytest.raises(LaunchError, match='install onnxruntime-gpu'):
            main([model, *SHAPES])
