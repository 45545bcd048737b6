"""What each attention backend declares, which one is chosen, and that stand-ins for kernels get what they expect."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.autograd import forward_ad

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.errors import OptionError
from mmvisionllama.layers import (
    ATTENTION_BACKENDS,
    AttentionBackend,
    AttentionContext,
    AttentionSpec,
    RotaryAttention,
    Segments,
    attend,
    attention_backends,
    register_attention,
    use_attention,
)
from mmvisionllama.layers import attention as attention_module
from mmvisionllama.layers.attention_backends import choose_backend, measured_backend
from mmvisionllama.layers.flash_attention import _is_installed, flash_attention

HAS_VARLEN = torch.__version__ >= '2.10'
GPU = AttentionSpec(device='cuda', dtype=torch.bfloat16, queries=197, keys=197)
CPU = AttentionSpec()
#: backend -> (what it refuses, what its reason says)
REFUSED = {
    'eager': [],
    'sdpa': [(dict(factor=True), 'factor')],
    'sdpa-flash': [
        (dict(mask=True), 'no mask'),
        (dict(dtype=torch.float32), 'takes float16, bfloat16'),
        (dict(head_dim=264), 'up to 256, not 264'),
        (dict(head_dim=60), 'multiple of 8'),
        (dict(tracing=True), 'look through'),
        (dict(factor=True), 'factor'),
        (dict(device='mps'), 'runs on cpu, cuda'),
    ],
    'sdpa-cudnn': [
        (dict(mask=True), 'no mask'),
        (dict(head_dim=136), 'up to 128'),
        (dict(dtype=torch.float64), 'takes float16'),
        (dict(device='cpu'), 'runs on cuda'),
        (dict(tracing=True), 'look through'),
    ],
    'sdpa-efficient': [
        (dict(dtype=torch.float64), 'float32'),
        (dict(device='cpu'), 'runs on cuda'),
        (dict(tracing=True), 'look through'),
    ],
    'flash-attn': [
        (dict(mask=True), 'no mask'),
        (dict(is_causal=True, keys=10), 'no causal'),
        (dict(dtype=torch.float32), 'takes float16'),
        (dict(packed=True, dropout=True), 'neither'),
        (dict(packed=True, is_causal=True), 'neither'),
        (dict(tracing=True), 'look through'),
    ],
    'varlen': [
        (dict(packed=False), 'packed images only'),
        (dict(packed=True, dropout=True), 'neither'),
        (dict(packed=True, is_causal=True), 'neither'),
        (dict(packed=True, dtype=torch.float32), 'takes float16'),
        (dict(packed=True, device='cpu'), 'runs on cuda'),
    ],
}
#: backend -> what it takes beyond the plain call
TAKEN = {
    'eager': [dict(factor=True), dict(mask=True), dict(dtype=torch.float64), dict(tracing=True), dict(head_dim=5)],
    'sdpa': [dict(mask=True), dict(is_causal=True), dict(dropout=True), dict(tracing=True), dict(packed=True)],
    'sdpa-flash': [dict(is_causal=True), dict(dropout=True), dict(device='cpu', dtype=torch.float64, head_dim=5)],
    'sdpa-cudnn': [dict(is_causal=True), dict(dropout=True)],
    'sdpa-efficient': [dict(mask=True), dict(dtype=torch.float32)],
    'flash-attn': [dict(is_causal=True), dict(dropout=True), dict(packed=True)],
    'varlen': [dict(packed=True)],
}


@pytest.fixture
def flash_attn(monkeypatch):
    """A stand-in for flash-attn 2: its layouts, torch's arithmetic."""
    module = ModuleType('flash_attn')
    module.calls = []

    def flash_attn_func(q, k, v, dropout_p=0.0, causal=False):
        module.calls.append((tuple(q.shape), dropout_p, causal))
        heads_first = (t.transpose(1, 2) for t in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=causal).transpose(1, 2)

    def flash_attn_varlen_func(q, k, v, bounds_q, bounds_k, longest_q, longest_k):
        assert bounds_q is bounds_k and bounds_q.dtype == torch.int32 and longest_q == longest_k
        module.calls.append((tuple(q.shape), longest_q))
        parts = [[t[start:end][None] for t in (q, k, v)] for start, end in zip(bounds_q[:-1], bounds_q[1:])]
        return torch.cat([flash_attn_func(*part)[0] for part in parts])

    module.flash_attn_func, module.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, 'flash_attn', module)
    monkeypatch.setitem(sys.modules, 'flash_attn_interface', None)  # does not import
    return module


def on_cpu(monkeypatch, name):
    """Lets the CPU's tensors pass where only a GPU's would."""
    changes = {**vars(ATTENTION_BACKENDS[name]), 'devices': ('cpu', 'cuda')}
    monkeypatch.setitem(ATTENTION_BACKENDS, name, AttentionBackend(**changes))


def test_every_backend_is_tested():
    assert REFUSED.keys() == TAKEN.keys() == ATTENTION_BACKENDS.keys()


@pytest.mark.parametrize('name', REFUSED)
def test_declared_limits(name, flash_attn):
    backend = ATTENTION_BACKENDS[name]
    plain = GPU._replace(packed=name == 'varlen')
    if name == 'varlen' and not HAS_VARLEN:
        assert backend.why_not(plain) == 'it came with torch 2.10'
        return
    assert backend.why_not(plain) is None
    for change in TAKEN[name]:
        assert backend.why_not(plain._replace(**change)) is None, change
    for change, reason in REFUSED[name]:
        spec = plain._replace(**change)
        assert reason in backend.why_not(spec), change
        if name == 'sdpa':
            continue  # gives way, see below
        with pytest.raises(OptionError, match=f"'{name}' cannot do this .*{reason}.*choose auto or eager"):
            choose_backend(name, spec)


@pytest.mark.parametrize('capability, packed', [((7, 5), 'sdpa'), ((8, 0), 'varlen')])
def test_cards_before_flash_attention(monkeypatch, capability, packed):
    """On a T4 packed images run by length, in the place of an error of the kernel."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: capability)
    spec = AttentionSpec('cuda', torch.float16, packed=True)
    if ATTENTION_BACKENDS['varlen'].missing():
        pytest.skip('it came with torch 2.10')
    assert attention_backends._first_packed(spec).name == packed
    assert ATTENTION_BACKENDS['sdpa-cudnn'].why_not(spec._replace(packed=False)) == (
        'it needs compute capability 8.0' if packed == 'sdpa' else None
    )
    reason = ATTENTION_BACKENDS['sdpa-flash'].why_not(spec._replace(packed=False))
    assert reason == ('it needs compute capability 8.0' if packed == 'sdpa' else None)


def test_what_is_not_installed_says_how_to_get_it(monkeypatch):
    for module in ('flash_attn', 'flash_attn_interface'):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OptionError, match='pip install flash-attn'):
        choose_backend('flash-attn', GPU)
    monkeypatch.setitem(sys.modules, 'torch.nn.attention.varlen', None)
    with pytest.raises(OptionError, match='torch 2.10'):
        choose_backend('varlen', GPU._replace(packed=True))
    assert choose_backend('auto', GPU._replace(packed=True)).name == 'sdpa'


def test_packed_images_take_flash_attn_where_torch_has_no_kernel(flash_attn, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.nn.attention.varlen', None)
    assert choose_backend('auto', GPU._replace(packed=True)).name == 'flash-attn'


@pytest.mark.parametrize('options', [{}, dict(is_causal=True), dict(dropout=0.5)], ids=str)
def test_flash_attn_gets_its_layout(flash_attn, monkeypatch, options):
    on_cpu(monkeypatch, 'flash-attn')
    q, k, v = torch.randn(3, 2, 3, 5, 8)
    out = attend(q, k, v, backend='flash-attn', **options)
    assert flash_attn.calls == [((2, 5, 3, 8), options.get('dropout', 0.0), 'is_causal' in options)]
    options.pop('dropout', None)
    torch.testing.assert_close(out, attend(q, k, v, backend='eager', **options))


def test_flash_attn_3_goes_first(flash_attn, monkeypatch):
    on_cpu(monkeypatch, 'flash-attn')
    newer = ModuleType('flash_attn_interface')
    newer.flash_attn_func = lambda q, k, v, causal: (flash_attn.flash_attn_func(q, k, v, causal=causal), None)
    monkeypatch.setitem(sys.modules, 'flash_attn_interface', newer)
    q, k, v = torch.randn(3, 2, 3, 5, 8)
    torch.testing.assert_close(attend(q, k, v, backend='flash-attn'), attend(q, k, v, backend='eager'))
    assert len(flash_attn.calls) == 1
    # version 3 has no dropout: 2 where it is there, too
    attend(q, k, v, backend='flash-attn', dropout=0.5)
    assert flash_attn.calls[1:] == [((2, 5, 3, 8), 0.5, False)]
    monkeypatch.setitem(sys.modules, 'flash_attn', None)
    with pytest.raises(OptionError, match='it has no dropout in version 3'):
        attend(q, k, v, backend='flash-attn', dropout=0.5)


@pytest.mark.parametrize('name', ['flash_attn', 'flash_attn_interface'])
def test_the_other_version_is_looked_for_once(flash_attn, monkeypatch, name):
    """Every call of attention would search all folders for the one that is not installed."""
    other = 'flash_attn' if name == 'flash_attn_interface' else 'flash_attn_interface'
    monkeypatch.setitem(sys.modules, name, flash_attn)
    monkeypatch.delitem(sys.modules, other)
    searched = []
    nowhere = SimpleNamespace(find_spec=lambda module, *_: searched.append(module))
    monkeypatch.setattr(sys, 'meta_path', [nowhere, *sys.meta_path])
    _is_installed.cache_clear()
    for _ in range(3):
        assert choose_backend('flash-attn', GPU).name == 'flash-attn' and flash_attention() is flash_attn
        if other == 'flash_attn':
            with pytest.raises(OptionError, match='it has no dropout in version 3'):
                choose_backend('flash-attn', GPU._replace(dropout=True))
    assert searched.count(other) == 1


@pytest.fixture
def seen(monkeypatch):
    """How many samples each call of the backend 'own' got, which are to be three at most."""
    monkeypatch.setattr(attention_module, 'MAX_BATCH', 3)
    seen, of_torch = [], ATTENTION_BACKENDS['sdpa'].run

    def run(q, k, v, **options):
        seen.append(len(q))
        return of_torch(q, k, v, **options)

    monkeypatch.setitem(ATTENTION_BACKENDS, 'own', AttentionBackend('own', run=run))
    return seen


@pytest.mark.parametrize('shape', [None, (8, 1, 5, 5), (1, 3, 5, 5), (5, 5)], ids=str)
def test_more_samples_than_a_kernel_takes(seen, shape):
    """65,536 windows are an error of CUDA's or cuDNN's."""
    q, k, v = torch.randn(3, 8, 3, 5, 8).requires_grad_()
    mask = None if shape is None else torch.randn(shape)
    out, expected = (attend(q, k, v, mask=mask, backend=name) for name in ('own', 'eager'))
    torch.testing.assert_close(out, expected)
    assert seen == [3, 3, 2]
    for ours, theirs in zip(*(torch.autograd.grad(o.square().sum(), (q, k, v)) for o in (out, expected))):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('count', [3, 7])
def test_more_samples_than_a_kernel_takes_in_a_graph(seen, count):
    q, k, v = torch.randn(3, count, 3, 5, 8)
    torch.compiler.reset()
    compiled = torch.compile(lambda *qkv: attend(*qkv, backend='own'), backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), attend(q, k, v, backend='eager'))
    assert seen == ([3] if count == 3 else [3, 3, 1])


@pytest.mark.parametrize('name', ['flash-attn', 'varlen'])
def test_packed_images(name, flash_attn, monkeypatch):
    on_cpu(monkeypatch, name)
    varlen = ModuleType('torch.nn.attention.varlen')
    varlen.varlen_attn = flash_attn.flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, 'torch.nn.attention.varlen', varlen)
    attention, x = RotaryAttention(16, 2).eval(), torch.randn(1, 11, 16)
    context = AttentionContext(segments=Segments([(2, 3), (1, 5)]))
    expected = attention(x, context)
    attention.backend = name
    torch.testing.assert_close(attention(x, context), expected)
    assert ((11, 2, 8), 5) in flash_attn.calls
    with use_attention(name):  # the same by the switch
        attention.backend = 'auto'
        flash_attn.calls.clear()
        attention(x, context)
        assert flash_attn.calls


def test_auto_takes_what_was_measured(tmp_path, monkeypatch):
    table = tmp_path / 'table.csv'
    table.write_text(
        'capability,dtype,head_dim,tokens,training,backend\n'
        '9.0,bfloat16,64,100,0,sdpa-efficient\n'
        '9.0,bfloat16,64,100,1,sdpa-cudnn\n'
        '9.0,bfloat16,64,400,0,sdpa-flash\n'
        '9.0,bfloat16,64,5000,0,unheard-of\n'
    )

    def chosen(tokens, training=False, capability=(9, 0), dtype=torch.bfloat16, head_dim=64):
        return measured_backend(capability, dtype, head_dim, tokens, training, table)

    assert [chosen(n) for n in (49, 50, 100, 199, 201, 400, 800, 801)] == [
        'sdpa', 'sdpa-efficient', 'sdpa-efficient', 'sdpa-efficient', 'sdpa-flash', 'sdpa-flash', 'sdpa-flash', 'sdpa',
    ]  # fmt: skip
    assert chosen(100, training=True) == 'sdpa-cudnn' and chosen(400, training=True) == 'sdpa'
    assert chosen(100, capability=(8, 0)) == chosen(100, dtype=torch.float16) == chosen(100, head_dim=32) == 'sdpa'
    monkeypatch.setattr(attention_backends, 'TABLE', table)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (9, 0))
    spec = GPU._replace(queries=100, keys=100)
    assert choose_backend('auto', spec).name == 'sdpa-efficient'
    assert choose_backend('auto', spec._replace(training=True)).name == 'sdpa-cudnn'
    assert choose_backend('auto', GPU._replace(queries=5000, keys=5000)).name == 'sdpa'
    for change in (dict(mask=True), dict(is_causal=True), dict(dropout=True), dict(keys=50), dict(tracing=True)):
        assert choose_backend('auto', spec._replace(**change)).name == 'sdpa'
    assert choose_backend('auto', spec._replace(factor=True)).name == 'eager'
    assert choose_backend('auto', spec._replace(packed=True)).name == ('varlen' if HAS_VARLEN else 'sdpa')
    assert choose_backend('auto', CPU).name == 'sdpa'


def test_the_table_of_the_package_names_known_backends():
    lines = attention_backends.TABLE.read_text().splitlines()
    assert lines[0] == 'capability,dtype,head_dim,tokens,training,backend' and len(lines) > 1
    assert {line.split(',')[-1] for line in lines[1:]} <= ATTENTION_BACKENDS.keys()


def test_sdpa_gives_way_and_says_so_nowhere_else():
    assert choose_backend('sdpa', CPU._replace(factor=True)).name == 'eager'
    q, k, v = torch.randn(3, 2, 3, 5, 8)
    factor = torch.rand(5, 5)
    expected = attend(q, k, v, factor=factor, backend='eager')
    for backend in ('auto', 'sdpa'):
        torch.testing.assert_close(attend(q, k, v, factor=factor, backend=backend), expected)
    with pytest.raises(OptionError, match='factor'):
        attend(q, k, v, factor=factor, backend='sdpa-flash')
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(q, torch.ones_like(q))
        for backend in ('auto', 'sdpa', 'eager'):
            assert forward_ad.unpack_dual(attend(dual, k, v, backend=backend)).tangent is not None
        with pytest.raises(OptionError, match='forward-mode|look through'):
            attend(dual, k, v, backend='sdpa-flash')


def test_one_switch_for_a_whole_model(monkeypatch):
    model, x = (
        VisionLLaMA(dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)).eval(),
        torch.randn(1, 3, 32, 32),
    )
    calls = []
    backend = AttentionBackend(
        'counted', run=lambda *args, **kwargs: calls.append(1) or ATTENTION_BACKENDS['sdpa'].run(*args, **kwargs)
    )
    monkeypatch.setitem(ATTENTION_BACKENDS, 'counted', backend)
    expected = model(x)[0]
    with use_attention('counted'):
        torch.testing.assert_close(model(x)[0], expected)
        assert len(calls) == 2
        with use_attention('auto'):
            model(x)
        for layer in model.layers:  # a choice of one's own goes before
            layer.attn.backend = 'eager'
        model(x)
    assert len(calls) == 2
    with pytest.raises(OptionError, match="unknown attention backend 'fast'"), use_attention('fast'):
        pass


@pytest.mark.parametrize(
    ('value', 'expected'), [('eager', 'fine'), ('', 'fine'), ('sdpa-cudnn', 'runs on cuda'), ('x', 'unknown attention')]
)
def test_the_environment(value, expected):
    code = (
        'import torch; from mmvisionllama.layers import RotaryAttention\n'
        'try:\n    RotaryAttention(8, 1)(torch.rand(1, 3, 8)); print("fine")\n'
        'except ValueError as error:\n    print(error)'
    )
    env = {**__import__('os').environ, 'MMVISIONLLAMA_ATTENTION': value}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True)
    assert expected in done.stdout


@pytest.mark.parametrize('backend', ['auto', 'sdpa', 'eager'])
def test_compiled_whole(backend):
    attention, x = RotaryAttention(16, 2, backend=backend), torch.randn(2, 6, 16)
    compiled = torch.compile(attention, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), attention(x))


def test_own_backends(monkeypatch):
    monkeypatch.setattr(attention_backends, 'ATTENTION_BACKENDS', dict(ATTENTION_BACKENDS))
    register_attention(AttentionBackend('mine', run=lambda q, k, v, **options: v))
    attention, x = RotaryAttention(16, 2, backend='mine'), torch.randn(2, 6, 16)
    value = attention.qkv(x)[..., 32:]
    torch.testing.assert_close(attention(x), attention.proj(value))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('name', [name for name, backend in ATTENTION_BACKENDS.items() if backend.run])
def test_real_kernels(name):
    q, k, v = torch.randn(3, 2, 4, 130, 64, device='cuda', dtype=torch.bfloat16).unbind(0)
    inputs = [t.clone().requires_grad_() for t in (q, k, v)]
    reason = ATTENTION_BACKENDS[name].missing()
    if reason:
        pytest.skip(reason)
    out = attend(*inputs, backend=name)
    grads = torch.autograd.grad(out.float().square().sum(), inputs)
    wide = [t.float().requires_grad_() for t in (q, k, v)]
    expected = attend(*wide, backend='eager')
    for a, b in zip((out, *grads), (expected, *torch.autograd.grad(expected.square().sum(), wide))):
        assert (a.float() - b).norm() < 0.02 * b.norm()
