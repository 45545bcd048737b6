"""One exported file per model runs at every size, and computes in every runtime what PyTorch computes."""

import io
import json
import math
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from mmvisionllama import deploy
from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.deploy.export import describe, write_openvino
from mmvisionllama.deploy.int8 import _fold_weights, linear_layers
from mmvisionllama.deploy.networks import AdaptiveAveragePool, Network
from mmvisionllama.deploy.rewriting import fold_layer_scales
from mmvisionllama.errors import CheckpointError, MissingExtraError, OptionError
from mmvisionllama.generation import DiTLLaMA, ImageGenerator
from mmvisionllama.layers import GlobalSubsampledAttention, LayerScale, RotaryAttention, SwiGLU, TransformerBlock

onnx = pytest.importorskip('onnx')

SIZES = [(160, 352), (100, 130), (33, 47), (224, 224), (96, 64), (17, 16), (250, 97), (129, 512)]
LARGE = (1024, 1024)
TINY = dict(embed_dims=16, num_layers=2, num_heads=2)
PYRAMID = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), patch_sizes=(8, 2), sr_ratios=(4, 2))

MODELS = {
    'class token': lambda: VisionLLaMA(TINY, cls_position='above_top_right', layer_scale_init_value=0),
    'windows': lambda: VisionLLaMA(
        TINY,
        out_type='featmap',
        with_cls_token=False,
        window_size=5,
        window_block_indexes=(0,),
        layer_scale_init_value=0,
    ),
    'position embedding': lambda: VisionLLaMA(
        TINY, out_type='avg_featmap', abs_pos_embed=True, peg=True, layer_scale_init_value=0
    ),
    # a stage of one block, and one with two of a kind
    'pyramid': lambda: PyramidVisionLLaMA(dict(PYRAMID, depths=(1, 3)), out_indices=(0, 1), layer_scale_init_value=0),
    'pyramid of the release': lambda: PyramidVisionLLaMA(
        PYRAMID,
        out_indices=(1,),
        key_position='flat_index',
        mask_padding=False,
        rope_cfg=dict(scale='height'),
        layer_scale_init_value=0,
    ),
    'registers, norms of queries and keys, temperature': lambda: VisionLLaMA(
        TINY,
        cls_position='origin',
        num_registers=2,
        qk_norm_cfg=dict(type='RMSNorm'),
        logit_scale='log_n',
        rope_cfg=dict(directions='golden'),
        layer_scale_init_value=0,
    ),
    'illama': lambda: iLLaMA(TINY),
    'illama of the release': lambda: iLLaMA(TINY, mask_mode='multiplicative', rope_scale='none'),
}


#: each takes long to trace; all of them run with -m nightly
NIGHTLY = [name for name in MODELS if name not in ('class token', 'pyramid', 'illama')]


@pytest.fixture(
    scope='module',
    params=[pytest.param(name, marks=pytest.mark.nightly if name in NIGHTLY else ()) for name in MODELS],
)
def exported(request, tmp_path_factory):
    """A network, its ONNX file and its OpenVINO file."""
    torch.manual_seed(0)
    network = deploy.export_network(MODELS[request.param]())
    for parameter in network.parameters():  # the initial weights hardly tell positions apart
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp('exported')
    onnx_path = deploy.export(network, folder / 'model', 'onnx').path
    openvino_path = onnx_path.with_suffix('.xml')  # as its target makes it, without tracing once more
    write_openvino(onnx_path, describe(network), openvino_path)
    return network, onnx_path, openvino_path


def test_one_onnx_file_equals_eager_at_every_size_and_batch(exported):
    network, path, _ = exported
    session = deploy.load_exported(path, threads=1)
    assert deploy.largest_difference(network, session, SIZES, batches=(1, 3)) <= 1e-5
    assert deploy.largest_difference(network, session, [LARGE]) <= 1e-5


def test_one_openvino_file_equals_eager_at_every_size_and_batch(exported):
    network, _, path = exported
    session = deploy.load_exported(path, threads=1)
    assert deploy.largest_difference(network, session, SIZES, batches=(1, 3)) <= 1e-5
    assert deploy.largest_difference(network, session, [LARGE]) <= 1e-5


def test_threads_of_an_openvino_file_get_their_own_results(exported):
    _, _, path = exported
    session = deploy.load_exported(path, threads=1)
    inputs = [torch.randn(batch, 3, 64, 48) for batch in (1, 2, 3)]
    expected = [session(x)[0] for x in inputs]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(10):
            for found, own in zip(pool.map(lambda x: session(x)[0], inputs), expected):
                assert found.shape == own.shape
                torch.testing.assert_close(found, own)


def test_weights_keep_their_names(exported):
    """Also those of blocks that were traced once for several: 8 bits keeps layers by these names."""
    network, path, _ = exported
    names = set(linear_layers(network))
    assert names and names == _fold_weights(onnx.load(path)).keys()


def test_openvino_rotates_in_one_operation(exported):
    """Its own fusion finds every rotation of queries and of keys, whatever the windows and the sub-sampling."""
    import openvino

    network, _, path = exported
    compiled = openvino.Core().compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    kinds = [node.get_rt_info()['layerType'].value for node in compiled.get_runtime_model().get_ops()]
    rotating = sum(isinstance(m, (RotaryAttention, GlobalSubsampledAttention)) for m in network.modules())
    assert rotating and kinds.count('RoPE') == 2 * rotating


def test_the_graph_has_no_branch_no_loop_and_no_complex_number(exported):
    model = onnx.load(exported[1])
    assert not {node.op_type for node in model.graph.node} & {'If', 'Loop', 'Scan'}
    assert not model.functions
    complex_types = {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = [value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input, *inferred.output)]
    assert len(types) > len(model.graph.node) / 2
    assert not complex_types & {*types, *(weight.data_type for weight in model.graph.initializer)}


def test_the_graph_guards_no_mask_and_says_nothing_of_where_it_was_made(exported):
    graph = onnx.load(exported[1]).graph
    assert 'IsNaN' not in {node.op_type for node in graph.node}  # what a boolean mask would bring
    assert not any(part.doc_string or part.metadata_props for part in (*graph.node, *graph.initializer))
    assert str(Path(__file__).parents[2]).encode() not in exported[1].read_bytes()


def test_inputs_outputs_and_axes_are_named(exported):
    network, path, _ = exported
    model = onnx.load(path)
    (images,) = model.graph.input
    assert images.name == 'images'
    assert [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim] == [
        'batch',
        3,
        'height',
        'width',
    ]
    assert [value.name for value in model.graph.output] == network.output_names
    assert all(value.type.tensor_type.shape.dim[0].dim_param == 'batch' for value in model.graph.output)
    assert model.opset_import[0].version == 20


def test_class_tokens_beside_maps_are_outputs_with_names():
    network = deploy.export_network(
        VisionLLaMA(TINY, out_type='featmap', out_indices=(0, 1), output_cls_token=True, layer_scale_init_value=0)
    )
    images = network.example((1, 32, 48))
    assert network.output_names == ['features_0', 'cls_token_0', 'features_1', 'cls_token_1']
    expected = [x for pair in network.model(*images) for x in pair]
    for ours, theirs in zip(network(*images), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_larger_difference_than_rounding_is_seen(exported):
    network, path, _ = exported
    session = deploy.load_exported(path, threads=1)
    last = [parameter for parameter in network.parameters() if parameter.ndim > 1][-1]
    before = last.clone()
    last.mul_(1.01)
    try:
        assert deploy.largest_difference(network, session, [(33, 47)]) > 1e-5
    finally:
        last.copy_(before)


@pytest.mark.parametrize('target', ['torch', 'openvino', pytest.param('onnx', marks=pytest.mark.nightly)])
def test_files_carry_what_they_need_to_be_used(target, tmp_path):
    network = deploy.export_network(VisionLLaMA(TINY))
    info = dict(classes=['cat', 'dög'], mean=[1.0, 2.0, 3.0])
    metadata = deploy.load_exported(deploy.export(network, tmp_path / 'model', target, info=info).path).metadata
    assert metadata['classes'] == ['cat', 'dög'] and metadata['mean'] == [1.0, 2.0, 3.0]
    assert metadata['task'] == 'features' and metadata['inputs'] == ['images']
    assert metadata['anchor_grid'] == [14, 14]
    assert metadata['versions']['torch'] == torch.__version__


def test_a_torch_file_equals_eager_bit_for_bit_at_every_size(tmp_path):
    network = deploy.export_network(MODELS['windows']())
    session = deploy.load_exported(deploy.export(network, tmp_path / 'model', 'torch').path)
    assert deploy.largest_difference(network, session, SIZES, batches=(1, 3)) <= 1e-6


@pytest.mark.parametrize('cells', [(1, 1), (2, 3), (6, 6)])
@pytest.mark.parametrize('size', [(1, 1), (5, 4), (7, 31)])
def test_pooling_by_products_is_adaptive_average_pooling(cells, size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(AdaptiveAveragePool(cells)(x), nn.functional.adaptive_avg_pool2d(x, cells))


def test_an_unknown_target_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(OptionError, match='torch, aoti, onnx, openvino'):
        deploy.export(deploy.export_network(VisionLLaMA(TINY)), tmp_path / 'model', 'tflite')


class Doubling(Network):
    task, output_names = 'features', ('y',)

    def __init__(self):
        super().__init__(nn.Linear(2, 2))

    def forward(self, images):
        return 2 * images

    def example(self, size=(2, 8, 8), generator=None):
        return (torch.rand(size[0], 3, *size[1:]),)


@pytest.mark.parametrize('opset', [9, 17, 99])
def test_an_opset_that_torch_does_not_write_is_refused(opset, tmp_path):
    with pytest.raises(OptionError, match=f'opset {opset} is not written: choose one from 18 to'):
        deploy.export(Doubling(), tmp_path / 'model', opset=opset)


def test_a_file_says_the_opset_that_it_has(tmp_path, monkeypatch):
    path = deploy.export(Doubling(), tmp_path / 'model', opset=18).path
    assert deploy.load_exported(path).metadata['opset'] == onnx.load(path).opset_import[0].version == 18
    monkeypatch.setattr(sys.modules[describe.__module__], 'OPSETS', (9, 99))
    with pytest.raises(OptionError, match='opset 99 cannot be written .* take 18'):
        deploy.export(Doubling(), tmp_path / 'model', opset=99)


@pytest.mark.parametrize('target', ['onnx', 'openvino'])
def test_weights_beyond_onnx_are_refused_before_tracing(target, tmp_path):
    network = Network(nn.Linear(2**15, 2**15, bias=False, device='meta'))  # cannot be traced
    with pytest.raises(OptionError, match=r'weights take 4\.0 GiB.* hold 2 GiB at most: export to torch or aoti'):
        deploy.export(network, tmp_path / 'model', target)


@pytest.mark.nightly  # a C++ compiler works for a minute
def test_a_file_compiled_ahead_of_time_equals_eager_at_every_size(tmp_path):
    network = deploy.export_network(MODELS['class token']())
    session = deploy.load_exported(deploy.export(network, tmp_path / 'model', 'aoti').path)
    assert session.format == 'aoti' and session.metadata['task'] == 'features'
    assert deploy.largest_difference(network, session, SIZES, batches=(1, 3)) <= 1e-5


@pytest.mark.parametrize('library', ['onnx', 'onnxscript'])
def test_a_missing_library_names_the_extra(library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf'{library}.*mmvisionllama\[deploy\]'):
        deploy.export(deploy.export_network(VisionLLaMA(TINY)), tmp_path / 'model', 'onnx')


class Ceiling(Doubling):
    """``math.ceil`` of a side, as in stock ViTs, has no place in torch's files."""

    def forward(self, images):
        return images.new_zeros(math.ceil(images.shape[2] / 3))


def test_an_unsupported_model_is_refused(tmp_path):
    with pytest.raises(
        OptionError, match=r'^torch.export cannot write this model \(Failed .* node ceil[^\n]*: export to'
    ):
        deploy.export(Ceiling(), tmp_path / 'model', 'torch')
    assert not list(tmp_path.iterdir())
    with pytest.raises(OptionError, match='Linear cannot be exported'):
        deploy.export_network(nn.Linear(2, 2))


def test_foreign_damaged_and_missing_files_are_refused(tmp_path):
    identity = onnx.helper.make_graph(
        [onnx.helper.make_node('Identity', ['x'], ['y'])],
        'foreign',
        [onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1])],
        [onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, [1])],
    )
    opset = onnx.helper.make_opsetid('', 20)
    onnx.save(onnx.helper.make_model(identity, opset_imports=[opset], ir_version=10), tmp_path / 'foreign.onnx')
    with pytest.raises(CheckpointError, match=r'foreign.onnx.* was not written by'):
        deploy.load_exported(tmp_path / 'foreign.onnx')
    for suffix in ('.onnx', '.xml', '.pt2'):
        damaged = tmp_path / f'damaged{suffix}'
        damaged.write_bytes(b'no model')
        damaged.with_suffix('.bin').write_bytes(b'')
        with pytest.raises(CheckpointError, match=f'damaged{suffix}.* cannot be read') as error:
            deploy.load_exported(damaged)
        assert '\n' not in str(error.value)
    with pytest.raises(CheckpointError, match='does not exist'):
        deploy.load_exported(tmp_path / 'missing.onnx')
    with pytest.raises(CheckpointError, match='is no exported file'):
        deploy.load_exported(tmp_path / 'damaged.bin')
    (tmp_path / 'alone.xml').write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match='lacks its weights'):
        deploy.load_exported(tmp_path / 'alone.xml')


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_opening_a_torch_file_runs_no_pickle(tmp_path, monkeypatch):
    good = deploy.export(Doubling(), tmp_path / 'good', 'torch').path
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    assert deploy.load_exported(good).format == 'torch'
    for name in ('data/sample_inputs/model.pt', 'data/constants/custom_obj_0'):
        harm = io.BytesIO()
        torch.save(Harm(str(tmp_path / 'harm')), harm)
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / 'evil.pt2', 'w') as evil:
            parts = {entry.replace('good/', 'evil/'): source.read(entry) for entry in source.namelist()}
            for entry, content in {**parts, f'evil/{name}': harm.getvalue()}.items():
                evil.writestr(entry, content)
        with pytest.raises(CheckpointError, match=r"evil\.pt2' holds a pickle of more than tensors") as error:
            deploy.load_exported(tmp_path / 'evil.pt2')
        assert '\n' not in str(error.value) and not (tmp_path / 'harm').exists()
    assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1' and 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ


@pytest.mark.parametrize('target', ['onnx', pytest.param('openvino', marks=pytest.mark.nightly)])
def test_a_diffusion_network_is_exported_with_its_guidance(target, tmp_path):
    model = DiTLLaMA(TINY, num_classes=5, anchor=8)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    network = deploy.export_network(model)
    latents, times, labels, scale = network.example((2, 12, 20))
    torch.testing.assert_close(
        network(latents, times, labels, scale), model.eval().forward_with_cfg(latents, times, labels, float(scale))
    )
    session = deploy.load_exported(deploy.export(network, tmp_path / 'model', target).path, threads=1)
    assert session.metadata['inputs'] == ['latents', 'times', 'labels', 'guidance']
    assert deploy.largest_difference(network, session, [(32, 32), (8, 44), (2, 2), (64, 20)], batches=(1, 3)) <= 1e-5


def test_guidance_of_three_channels_stays_that_in_the_export():
    """As released checkpoints of four latent channels are sampled."""
    generator = ImageGenerator(
        dict(type='DiTLLaMA', arch=TINY, num_classes=5, anchor=8),
        dict(type='GaussianDiffusion'),
        dict(type='DDIMSampler', num_steps=2),
        dict(type='PixelCodec'),
        cfg_channels='first_three',
    )
    model = generator.network
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    latents, times, labels, scale = deploy.export_network(generator).example((2, 12, 20))
    expected = model.eval().forward_with_cfg(latents, times, labels, float(scale), 'first_three')
    torch.testing.assert_close(deploy.export_network(generator)(latents, times, labels, scale), expected)
    assert not torch.allclose(deploy.export_network(model)(latents, times, labels, scale), expected)


#: rotations that no exported model above has: a part of the channels, frequencies of each head, learned ones
ROTATIONS = {
    'part of the channels': dict(ratio=0.5, share_heads=False),
    'learned': dict(directions='mixed'),
}


@pytest.mark.parametrize('name', [*MODELS, *ROTATIONS])
def test_the_exported_copy_computes_what_the_model_does(name):
    """LayerScale in the weights, and rotated pairs as halves."""
    torch.manual_seed(0)
    model = MODELS[name]() if name in MODELS else VisionLLaMA(TINY, rope_cfg=ROTATIONS[name])
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.eval()
    network = deploy.export_network(model)
    assert not any(isinstance(module, LayerScale) for module in network.modules())
    assert sum(getattr(module, 'pairs_in_halves', False) for module in network.modules()) >= 2
    images = torch.randn(2, 3, 100, 130)
    with torch.no_grad():
        for ours, theirs in zip(network(images), model(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_scales_with_and_without_biases_are_folded():
    attn = RotaryAttention(16, 2, proj_bias=False)
    block = TransformerBlock(
        attn, SwiGLU(16, 24), nn.LayerNorm(16), nn.LayerNorm(16), embed_dims=16, layer_scale_init_value=1
    ).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 9, 16)
    expected = block(x)
    fold_layer_scales(block)
    assert isinstance(block.ls1, nn.Identity) and isinstance(block.ls2, nn.Identity)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
