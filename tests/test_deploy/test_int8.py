"""8-bit ONNX files: close to fp32, the layers that are kept stay, and a model that lost too much is refused."""

import copy
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmvisionllama import deploy, launch
from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.datasets.digits import write_digits
from mmvisionllama.deploy.export import METADATA_KEY
from mmvisionllama.deploy.int8 import linear_layers, quantize_onnx, sensitivity
from mmvisionllama.deploy.models import load_model
from mmvisionllama.errors import OptionError

onnx = pytest.importorskip('onnx')

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/mmpretrain/quickstart/vision_llama_digits.py')
WEIGHTS = str(ROOT / 'weights/vision_llama_digits/model.safetensors')
TINY = dict(embed_dims=16, num_layers=2, num_heads=2)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network = deploy.export_network(VisionLLaMA(TINY, layer_scale_init_value=0))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    path = deploy.export(network, tmp_path_factory.mktemp('int8') / 'model').path
    return network, path, [torch.randn(2, 3, 64, 48) for _ in range(4)]


def in_8_bits(path):
    return sum(node.op_type == 'DequantizeLinear' for node in onnx.load(path).graph.node)


def test_every_linear_layer_is_in_8_bits_and_close(exported, tmp_path):
    network, path, images = exported
    out = quantize_onnx(path, tmp_path / 'int8.onnx', images)
    kinds = [weight.data_type for weight in onnx.load(out).graph.initializer if len(weight.dims) == 2]
    assert kinds.count(onnx.TensorProto.INT8) == len(kinds) == len(linear_layers(network)) == 11
    session = deploy.load_exported(out, threads=1)
    assert session.metadata['int8'] == dict(kept=[]) and session.metadata['task'] == 'features'
    assert 1e-5 < deploy.largest_difference(network, session, [(64, 48), (33, 70)], (1, 2), images[0]) < 0.3


def test_kept_layers_stay(exported, tmp_path):
    network, path, images = exported
    names = list(linear_layers(network))
    out = quantize_onnx(path, tmp_path / 'int8.onnx', images, keep=names[:5])
    assert in_8_bits(out) < in_8_bits(quantize_onnx(path, tmp_path / 'all.onnx', images))
    kinds = [weight.data_type for weight in onnx.load(out).graph.initializer if len(weight.dims) == 2]
    assert kinds.count(onnx.TensorProto.INT8) == 6
    session = deploy.load_exported(quantize_onnx(path, tmp_path / 'one.onnx', images, keep=names[1:]), threads=1)
    one = deploy.largest_difference(network, session, [(64, 48)])
    assert 1e-5 < one < deploy.largest_difference(network, deploy.load_exported(tmp_path / 'all.onnx'), [(64, 48)])
    with pytest.raises(OptionError, match='nothing to quantise'):
        quantize_onnx(path, tmp_path / 'int8.onnx', images, keep=names)
    with pytest.raises(OptionError, match='no layer with the weight head.weight'):
        quantize_onnx(path, tmp_path / 'int8.onnx', images, keep=['head.weight'])


def test_a_weight_that_is_reshaped_before_its_product_is_in_8_bits(tmp_path):
    """As in the projections of a pyramid's keys and values: (C, C, k, k) is read as (k * k * C, C)."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 3, 2, 2), np.float32)
    make, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    info = dict(task='features', inputs=['images'], outputs=['out'])
    nodes = [
        make('Constant', [], ['six'], 'six', value=array(np.array([6]))),
        make('Constant', [], ['rest'], 'rest', value=array(np.array([-1]))),
        make('Concat', ['six', 'rest'], ['shape'], 'shape', axis=0),
        make('Transpose', ['sr.weight'], ['last'], 'last', perm=[0, 2, 3, 1]),
        make('Reshape', ['last', 'shape'], ['flat'], 'flat'),
        make('Transpose', ['flat'], ['matrix'], 'matrix', perm=[1, 0]),
        make('MatMul', ['images', 'matrix'], ['out'], 'product'),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        'graph',
        [value('images', onnx.TensorProto.FLOAT, ['batch', 12])],
        [value('out', onnx.TensorProto.FLOAT, ['batch', 6])],
        [array(weight, 'sr.weight')],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 20)], ir_version=10)
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(info))
    onnx.save(model, tmp_path / 'model.onnx')
    images = torch.randn(8, 12)
    out = quantize_onnx(tmp_path / 'model.onnx', tmp_path / 'int8.onnx', [images])
    kinds = sorted(node.op_type for node in onnx.load(out).graph.node)
    assert kinds == ['DequantizeLinear', 'DequantizeLinear', 'MatMul', 'QuantizeLinear']  # the result stays in fp32
    (found,) = deploy.load_exported(out, threads=1)(images)
    expected = images @ torch.from_numpy(weight).permute(2, 3, 1, 0).reshape(12, 6)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.2)
    assert not torch.equal(found, expected)


def test_sensitivity_finds_an_outlier_and_leaves_the_network_alone(exported):
    network, _, images = exported
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = sensitivity(network, images[0])
    assert set(found) == set(linear_layers(network)) and all(0 < value < 1 for value in found.values())
    assert list(found.values()) == sorted(found.values(), reverse=True)
    name, layer = list(linear_layers(network).items())[-1]
    layer.weight.data[:, 0] = 0  # what stands in this channel widens the range and nothing else
    hook = layer.register_forward_pre_hook(lambda _, args: (args[0].index_fill(-1, torch.tensor([0]), 1e3),))
    try:
        assert sensitivity(network, images[0])[name] > 10 * found[name]
    finally:
        hook.remove()
        layer.weight.data.copy_(before[name])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """The tool, in a folder that has the digits."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('sklearn')
    monkeypatch.chdir(tmp_path)
    write_digits('data/digits')
    spec = importlib.util.spec_from_file_location('quantize', ROOT / 'tools/deployment/quantize.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['quantize.py', CONFIG, WEIGHTS, *map(str, args)])
        launch.run_cli(tool.main)
        return capsys.readouterr().out

    run.tool = tool
    return run


@pytest.mark.nightly
def test_the_digits_lose_nothing(run, tmp_path):
    printed = run('--out', 'int8', '--images', 64)
    assert 'fp32: top-1 99.44 %' in printed and '22 of 22 layers in 8 bits' in printed
    sample = deploy.Predictor(tmp_path / 'int8.onnx')(next((tmp_path / 'data/digits/test/3').iterdir()))[0]
    assert int(sample.pred_label) == 3


@pytest.mark.nightly
def test_a_model_that_loses_too_much_is_not_written(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run('--out', 'int8', '--images', 16, '--allowed', -100)
    captured = capsys.readouterr()
    assert captured.err.count('\n') <= 1 or 'points are lost even with half' in captured.err
    assert 'points are lost even with half' in captured.err and not (tmp_path / 'int8.onnx').exists()
    assert '20 of 22' in captured.out and '12 of 22' in captured.out


@pytest.mark.parametrize('name, batches', [('vision_llama_digits', 2), ('vision_llama_digits_packed', 32)])
def test_images_are_counted_not_batches(name, batches, run):
    """A packed config's model takes a list, and the file one size at a time."""
    cfg = launch.load_config(str(Path(CONFIG).with_name(f'{name}.py')))
    images = run.tool.training_images(cfg, load_model(cfg, WEIGHTS), 20)
    assert len(images) == batches and sum(map(len, images)) == 32  # whole batches of the loader
    assert {image.shape[1:] for image in images} == {(3, 32, 32)}


def test_images_of_wrapped_data_sets_are_prepared_as_in_a_test(run):
    cfg = launch.load_config(CONFIG)
    model, plain = load_model(cfg, WEIGHTS), copy.deepcopy(cfg.train_dataloader.dataset)
    images = run.tool.training_images(cfg, model, 20)
    assert plain.pipeline != cfg.test_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=1, dataset=plain)]
    )
    cfg.test_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=cfg.test_dataloader.dataset)
    for ours, theirs in zip(run.tool.training_images(cfg, model, 20), images, strict=True):
        assert torch.equal(ours, theirs)


def test_a_refused_model_leaves_the_files_before_it(run, tmp_path, monkeypatch, capsys):
    contents, points = iter('ab'), iter((90.0, 89.8, *[90.0] * 2, *[50.0] * 20))
    monkeypatch.setattr(deploy, 'export', lambda network, path, *_, **__: path.write_text(next(contents)))
    monkeypatch.setattr(run.tool, 'training_images', lambda *_: [None])
    monkeypatch.setattr(run.tool, 'sensitivity', lambda *_: dict.fromkeys(range(8)))
    monkeypatch.setattr(run.tool, 'quantize_onnx', lambda before, after, *_: after.write_text(before.read_text() * 2))
    monkeypatch.setattr(run.tool, 'accuracy', lambda *_: next(points))
    files = {'int8_v1.2.onnx': 'aa', 'int8_v1.2_fp32.onnx': 'a'}
    (tmp_path / 'out').mkdir()
    assert 'int8_v1.2.onnx: +0.20 points lost' in run('--out', 'out/int8_v1.2')
    assert {path.name: path.read_text() for path in (tmp_path / 'out').iterdir()} == files
    next(points)
    with pytest.raises(SystemExit):
        run('--out', 'out/int8_v1.2')
    assert 'no file is written' in capsys.readouterr().err
    assert {path.name: path.read_text() for path in (tmp_path / 'out').iterdir()} == files


def test_a_triton_repository_is_made_from_the_file(exported, tmp_path, monkeypatch, capsys):
    """Not run in Triton, which is a container of its own: the text is compared with what its documentation asks for."""
    spec = importlib.util.spec_from_file_location('triton', ROOT / 'tools/deployment/triton_repository.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', ['triton_repository.py', str(exported[1]), str(tmp_path), '--name', 'visionllama'])
    launch.run_cli(tool.main)
    config = (tmp_path / 'visionllama/config.pbtxt').read_text()
    assert 'name: "visionllama"\nbackend: "onnxruntime"\nmax_batch_size: 16\n' in config
    assert '{ name: "images" data_type: TYPE_FP32 dims: [ 3, -1, -1 ] }' in config
    assert config.count('dims: [') == 1 + len(exported[0].output_names) and config.count('{') == config.count('}')
    assert (tmp_path / 'visionllama/1/model.onnx').read_bytes() == exported[1].read_bytes()
    with pytest.raises(SystemExit):
        launch.run_cli(tool.main)
    assert capsys.readouterr().err.count('\n') == 1
