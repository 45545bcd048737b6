"""torch.func, forward-mode differentiation, tracing and TorchScript's ONNX exporter on every model."""

import io
import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vjp, vmap

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.generation import DiTLLaMA
from mmvisionllama.pretraining import MAEVisionLLaMA

PLAIN = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32)
PYRAMID = dict(embed_dims=(16,) * 4, depths=(2,) * 4, num_heads=(2,) * 4, feedforward_channels=(16,) * 4)
RMS = dict(type='RMSNorm', eps=1e-6)
BACKBONES = {
    'plain': lambda: VisionLLaMA(PLAIN, layer_scale_init_value=0.1),
    'plain GAP': lambda: VisionLLaMA(PLAIN, out_type='avg_featmap', norm_cfg=RMS),
    'windows': lambda: VisionLLaMA(
        PLAIN, out_type='featmap', with_cls_token=False, window_block_indexes=(0,), window_size=3
    ),
    'pyramid': lambda: PyramidVisionLLaMA(PYRAMID, out_indices=(0, 1, 2, 3)),
    'iLLaMA': lambda: iLLaMA(PLAIN),
    'iLLaMA, soft mask': lambda: iLLaMA(PLAIN, soft_mask=0.5),
    'iLLaMA, multiplicative': lambda: iLLaMA(PLAIN, soft_mask=0.5, mask_mode='multiplicative'),
}
MODELS = {
    **BACKBONES,
    'MAE': lambda: MAEVisionLLaMA(PLAIN),
    'DiT': lambda: DiTLLaMA(PLAIN, num_classes=4),
}


class Loss:
    """The loss of a model as a function of its parameters and its inputs, which are all per sample."""

    def __init__(self, name):
        self.model = MODELS[name]().eval()
        if name == 'DiT':  # its blocks start as the identity
            for param in self.model.parameters():
                torch.nn.init.normal_(param, std=0.1)
        self.params = {key: value.detach() for key, value in self.model.named_parameters()}
        self.inputs = {
            'DiT': lambda: (torch.randn(3, 4, 16, 16), torch.rand(3)),
            'MAE': lambda: (torch.randn(3, 3, 64, 64), torch.rand(3, 16)),
        }.get(name, lambda: (torch.randn(3, 3, 64, 96),))()
        self.name = name

    def outs(self, params, *inputs):
        if self.name == 'DiT':
            inputs = (*inputs, torch.ones(len(inputs[0]), dtype=torch.long))
        kwargs = dict(noise=inputs[1]) if self.name == 'MAE' else {}
        outs = functional_call(self.model, params, inputs[:1] if kwargs else inputs, kwargs)
        return outs[:1] if kwargs else (outs if isinstance(outs, tuple) else (outs,))

    def per_sample(self, params, *inputs):
        """Loss of every sample, ``(B,)``."""
        return sum(out.flatten(1).square().mean(1) for out in self.outs(params, *inputs))

    def one(self, params, *inputs):
        return self.per_sample(params, *(x[None] for x in inputs))[0]


@pytest.mark.parametrize('name', list(MODELS))
def test_per_sample_gradients_are_those_of_single_backward_passes(name):
    loss = Loss(name)
    axes = (None, *(0 for _ in loss.inputs))
    grads = vmap(grad(loss.one), axes)(loss.params, *loss.inputs)
    for i in range(3):
        loss.model.zero_grad()
        params = dict(loss.model.named_parameters())
        loss.one(params, *(x[i] for x in loss.inputs)).backward()
        for key, param in params.items():
            expected = torch.zeros_like(param) if param.grad is None else param.grad
            assert torch.allclose(grads[key][i], expected, rtol=1e-3, atol=1e-5), key


@pytest.mark.parametrize('name', list(MODELS))
def test_forward_mode_agrees_with_backward_mode(name):
    loss = Loss(name)
    x, *rest = loss.inputs
    tangent = torch.randn_like(x)

    def of_x(x):
        return loss.per_sample(loss.params, x, *rest)

    value, pushed = jvp(of_x, (x,), (tangent,))
    assert torch.allclose(value, of_x(x), rtol=1e-4)
    _, pull = vjp(of_x, x)
    cotangent = torch.randn(3)
    (pulled,) = pull(cotangent)
    assert torch.allclose((pulled * tangent).sum(), (pushed * cotangent).sum(), rtol=1e-3, atol=1e-5)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(of_x(forward_ad.make_dual(x, tangent))).tangent
    assert torch.allclose(dual, pushed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', list(BACKBONES))
def test_traces_with_gradients_on(name, training):
    """TensorBoard's add_graph and flop counters trace; torch's own check runs the model again and compares."""
    model = BACKBONES[name]().train(training)
    x = torch.randn(1, 3, 64, 96)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(model, x, check_trace=True)
    batch = torch.randn(3, 3, 64, 96)
    for ours, theirs in zip(traced(batch), model(batch)):
        assert torch.allclose(ours, theirs, atol=1e-5)
    sum(out.sum() for out in traced(batch)).backward()
    assert not [name for name, param in model.named_parameters() if param.requires_grad and param.grad is None]


#: the soft mask ends with the training
EXPORTED = [name for name in BACKBONES if name not in ('iLLaMA, soft mask', 'iLLaMA, multiplicative')]


@pytest.mark.parametrize('name', EXPORTED)
def test_exports_through_torchscript_for_any_batch(name):
    """What mmdeploy uses; 64 x 96 leaves partial windows in every stage of the pyramid."""
    runtime = pytest.importorskip('onnxruntime')
    model = BACKBONES[name]().eval()
    file = io.BytesIO()
    x = torch.randn(1, 3, 64, 96)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        options = {} if torch.__version__ < '2.5' else dict(dynamo=False)
        torch.onnx.export(
            model, (x,), file, opset_version=17, input_names=['x'], dynamic_axes={'x': {0: 'batch'}}, **options
        )
        session = runtime.InferenceSession(file.getvalue())
        for batch in (1, 3):
            x = torch.randn(batch, 3, 64, 96)
            for ours, theirs in zip(session.run(None, {'x': x.numpy()}), model(x)):
                assert torch.allclose(torch.from_numpy(ours), theirs, atol=1e-4)


@pytest.mark.parametrize('name', list(BACKBONES))
def test_exports_to_a_graph_with_gradients_on(name):
    """torch.export meets the tie of unused norms as a part of the graph, or not at all."""
    model = BACKBONES[name]().eval()
    x = torch.randn(2, 3, 64, 96)
    exported = torch.export.export(model, (x,)).module()
    for ours, theirs in zip(exported(x), model(x)):
        assert torch.allclose(ours, theirs, atol=1e-5)
