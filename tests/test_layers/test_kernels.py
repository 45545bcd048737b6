"""The autograd functions against the formulas whose place they take."""

import functools
import os
import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from mmvisionllama.layers import (
    AttentionContext,
    RotaryAttention,
    RotaryEmbedding,
    SwiGLU,
    TransformerBlock,
    apply_rotary,
    build_norm,
    gather_table,
    kernels,
    rotate_qkv,
    use_kernels,
)
from mmvisionllama.layers.feedforward import silu_mul


def table_for(kind):
    rotary = RotaryEmbedding(8, 2, share_heads=kind != 'per head', ratio=0.5 if kind == 'partial' else 1.0)
    table = rotary(rotary.positions((2, 3), dtype=torch.float64))
    return gather_table(table, torch.stack((torch.randperm(6), torch.randperm(6)))) if kind == 'gathered' else table


def results(function, *inputs):
    """Outputs, gradients and gradients of the gradients."""
    outs = function(*inputs)
    outs = outs if isinstance(outs, tuple) else (outs,)
    grads = torch.autograd.grad(sum(out.pow(3).sum() for out in outs), inputs, create_graph=True)
    return *outs, *grads, *torch.autograd.grad(sum(grad.pow(2).sum() for grad in grads), inputs)


CASES = {
    **{f'q alone, {kind}': kind for kind in ('shared', 'per head', 'partial', 'gathered')},
    **{f'packed, {kind}': kind for kind in ('shared', 'per head', 'partial', 'gathered')},
    'gate': None,
}


def case(name):
    torch.manual_seed(0)
    kind = CASES[name]
    if name == 'gate':
        return silu_mul, torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True).unbind(0)
    table = table_for(kind)
    if name.startswith('q alone'):
        return lambda x: apply_rotary(x, table), (torch.randn(2, 6, 2, 8, dtype=torch.float64, requires_grad=True),)
    return lambda x: rotate_qkv(x, table), (torch.randn(2, 6, 3, 2, 8, dtype=torch.float64, requires_grad=True),)


@pytest.mark.parametrize('name', CASES)
def test_values_and_both_derivatives(name):
    function, inputs = case(name)
    with use_kernels(True):
        ours = results(function, *inputs)
    with use_kernels(False):
        plain = results(function, *inputs)
    for a, b in zip(ours, plain):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def first(outs):
    return outs[0] if isinstance(outs, tuple) else outs


def function_names(out):
    """Names of the autograd nodes behind an output."""
    names, todo = set(), [out.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None:
            names.add(type(node).__name__)
            todo += [parent for parent, _ in node.next_functions]
    return names


@pytest.mark.parametrize('name', CASES)
def test_the_switch_switches(name):
    function, inputs = case(name)
    ours = {'_RotateBackward', '_RotateQKVBackward', '_SiLUMulBackward'}
    assert function_names(first(function(*inputs))) & ours
    with use_kernels(False):
        assert not function_names(first(function(*inputs))) & ours
    assert function_names(first(function(*inputs))) & ours


def test_the_environment_switches():
    code = 'from mmvisionllama.layers import kernels; print(kernels.usable())'
    for value, expected in (('0', 'False'), ('1', 'True')):
        env = dict(os.environ, MMVISIONLLAMA_KERNELS=value)
        out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout
        assert out.split()[-1] == expected


def test_compiled_graphs_are_of_the_formulas():
    block = TransformerBlock(
        RotaryAttention(16, 2),
        SwiGLU(16, 24),
        *(build_norm(dict(type='LN'), 16) for _ in range(2)),
        embed_dims=16,
        layer_scale_init_value=0.5,
    )
    rotary, x = RotaryEmbedding(8), torch.randn(2, 6, 16)
    context = AttentionContext(rotary(rotary.positions((2, 3))))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(block, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x, context), block(x, context))
    targets = {str(node.target) for node in graphs[0].graph.nodes}
    assert 'autograd' not in ' '.join(targets).lower() and any('silu' in target for target in targets)


def test_function_transforms_see_the_formulas():
    ffn = SwiGLU(4, 6)
    params = dict(ffn.named_parameters())

    def loss(params, x):
        return torch.func.functional_call(ffn, params, (x,)).square().sum()

    x = torch.randn(3, 5, 4)
    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x)
    total = torch.autograd.grad(loss(params, x), list(params.values()))
    for ours, expected in zip(per_sample.values(), total):
        torch.testing.assert_close(ours.sum(0), expected)


def test_they_keep_less_for_the_backward_pass():
    """The plain gate keeps silu(gate) and its product besides gate and up; here only the two inputs are kept."""

    def saved(function, *inputs):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = function(*inputs)
        return sum(storage.nbytes() for storage in storages.values()), out

    gate, up = torch.randn(2, 64, 32, requires_grad=True).unbind(0)
    ours, _ = saved(silu_mul, gate, up)
    plain, _ = saved(lambda a, b: F.silu(a) * b, gate, up)
    assert ours == 2 * gate.numel() * 4 or ours == gate.untyped_storage().nbytes()
    assert plain == ours + gate.numel() * 4


def attention_input(dims=16, dtype=torch.float32):
    torch.manual_seed(0)
    rotary = RotaryEmbedding(dims // 2)
    table = rotary(rotary.positions((2, 3), dtype=dtype))
    return torch.randn(2, 6, dims, dtype=dtype, requires_grad=True), AttentionContext(table)


def test_rotation_takes_the_place_of_the_projection():
    """Per token q, k and v are kept, and no unrotated q and k beside them."""
    attention, (x, context) = RotaryAttention(16, 2), attention_input()
    projected = attention.qkv(x)
    assert kernels.may_overwrite(attention.qkv, projected)
    q, k, v = attention.project(x, context.rope)
    assert {t.untyped_storage().data_ptr() for t in (q, k, v)} == {q.untyped_storage().data_ptr()}
    assert q.untyped_storage().nbytes() == projected.untyped_storage().nbytes()
    with use_kernels(False):
        for ours, plain in zip((q, k, v), attention.project(x, context.rope)):
            torch.testing.assert_close(ours, plain)


def test_what_somebody_else_sees_of_the_projection_stays():
    attention, (x, context) = RotaryAttention(16, 2), attention_input()
    plain = attention.qkv(x)
    seen = []
    attention.qkv.register_forward_hook(lambda module, inputs, out: seen.append(out))
    attention(x, context)
    torch.testing.assert_close(seen[0], plain)

    attention, seen = RotaryAttention(16, 2), []
    projection = attention.qkv.forward

    def recorded(x):
        seen.append(projection(x))
        return seen[-1]

    attention.qkv.forward = recorded  # as offloading wraps a layer
    attention(x, context)
    torch.testing.assert_close(seen[0], projection(x))

    class Keeps(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).exp()  # keeps its output for the backward pass

    attention.qkv = Keeps(16, 48)
    attention(x, context).sum().backward()


def test_selective_checkpointing_keeps_the_projection():
    attention, (x, context) = RotaryAttention(16, 2), attention_input()
    products = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)

    def policy(ctx, op, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if op in products else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    out = checkpoint(attention, x, context, use_reentrant=False, context_fn=contexts)
    (grad,) = torch.autograd.grad(out.square().sum(), attention.qkv.weight)
    (plain,) = torch.autograd.grad(attention(x, context).square().sum(), attention.qkv.weight)
    torch.testing.assert_close(grad, plain)


@pytest.mark.parametrize('build', [lambda: RotaryAttention(16, 2, backend='eager'), lambda: SwiGLU(16, 24)])
def test_modules_have_both_derivatives(build):
    module, (x, context) = build().double(), attention_input(dtype=torch.float64)
    inputs = (x, *module.parameters())

    def call(*inputs):
        return module(inputs[0], context) if isinstance(module, RotaryAttention) else module(inputs[0])

    ours = results(call, *inputs)
    with use_kernels(False):
        plain = results(call, *inputs)
    for a, b in zip(ours, plain):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(torch.__version__ < '2.6', reason='torch 2.5 does not tell which hooks on saved tensors there are')
@pytest.mark.parametrize('checkpointed', [False, True])
def test_the_product_of_the_gate_is_not_kept(checkpointed):
    ffn, x, seen = SwiGLU(16, 24), torch.randn(2, 6, 16, requires_grad=True), []
    ffn.down.register_forward_pre_hook(lambda module, inputs: seen.append(weakref.ref(inputs[0].untyped_storage())))
    out = checkpoint(ffn, x, use_reentrant=False) if checkpointed else ffn(x)
    assert seen[0]() is None
    grads = torch.autograd.grad(out.square().sum(), (x, *ffn.parameters()))
    with use_kernels(False):
        plain = torch.autograd.grad(ffn(x).square().sum(), (x, *ffn.parameters()))
    for a, b in zip(grads, plain):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('change', ['hook', 'dropout'])
def test_a_product_that_was_written_into_is_kept(change):
    """Made again it would be the one before, and the weight's gradient silently wrong."""

    def ablate(module, args):
        args[0][..., :8] = 0

    def gradients(on):
        torch.manual_seed(0)
        ffn = SwiGLU(8, 16).double()
        if change == 'hook':
            ffn.down.register_forward_pre_hook(ablate)
        else:
            ffn.down = torch.nn.Sequential(torch.nn.Dropout(0.5, inplace=True), ffn.down)
        with use_kernels(on):
            ffn(torch.randn(5, 8, dtype=torch.float64)).square().sum().backward()
        return [parameter.grad for parameter in ffn.parameters()]

    for with_kernels, without in zip(gradients(True), gradients(False)):
        torch.testing.assert_close(with_kernels, without)


def test_other_hooks_on_saved_tensors_see_everything():
    ffn, x, seen = SwiGLU(16, 24), torch.randn(2, 6, 16), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.shape) or t, lambda t: t):
        ffn(x).sum().backward()
    assert torch.Size([12, 24]) in seen


def test_none_are_set_where_they_are_forbidden():
    torch.manual_seed(0)
    layer, x = SwiGLU(6, 8), torch.randn(2, 6)
    layer(x).square().sum().backward()
    expected = [param.grad for param in layer.parameters()]
    layer.zero_grad()
    with torch.autograd.graph.disable_saved_tensors_hooks('not here'):
        layer(x).square().sum().backward()
    for param, grad in zip(layer.parameters(), expected):
        torch.testing.assert_close(param.grad, grad)


def test_half_precision_tables_are_refused():
    rotary = RotaryEmbedding(8)
    table = rotary(rotary.positions((2, 2)))
    for enabled in (True, False):
        with use_kernels(enabled), pytest.raises(TypeError, match='fp32 or fp64'):
            apply_rotary(torch.randn(1, 4, 1, 8), type(table)(*(t.half() for t in table)))
    assert kernels.usable()


def test_triton_is_left_where_it_cannot_start(monkeypatch):
    """Without a C compiler the first launch fails; on a machine without a GPU, too."""
    kernels._starts.cache_clear()

    def fails(*args, **kwargs):
        raise RuntimeError('Failed to find C compiler')

    monkeypatch.setattr(torch, 'zeros', fails)
    with pytest.warns(UserWarning, match="Triton cannot start kernels .*: torch's operations run in their place"):
        assert not kernels._starts(torch.device('cuda:0'))
    kernels._starts.cache_clear()


@pytest.mark.parametrize('capability, dtype, runs', [((7, 5), 16, True), ((7, 5), 'b', False), ((8, 0), 'b', True)])
def test_bfloat16_before_ampere_is_torch_s(monkeypatch, capability, dtype, runs):
    kernels._has_bfloat16.cache_clear()
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(kernels, '_triton', lambda name: name)
    monkeypatch.setattr(kernels, '_starts', lambda device: True)
    x = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16 if dtype == 'b' else torch.float16, device='cuda:0')
    assert (kernels._triton_for(x, 'triton_gate') == 'triton_gate') == runs
    kernels._has_bfloat16.cache_clear()
