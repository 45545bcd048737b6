"""The network of DiT-LLaMA, SiT-LLaMA, DiT and SiT."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from mmvisionllama.generation import DiTLLaMA
from mmvisionllama.generation.dit_llama import guide, sincos_embedding
from mmvisionllama.layers import AttentionContext, grid_positions

ROOT = Path(__file__).parents[2]
TINY = dict(embed_dims=48, num_layers=2, num_heads=4)
PLAIN = dict(position='sincos', ffn_cfg=dict(type='gelu', approximate='tanh'))


def tiny(**kwargs) -> DiTLLaMA:
    """A network whose zero-initialised parts are filled, so that every part matters."""
    network = DiTLLaMA(**{**dict(arch=TINY, patch_size=2, num_classes=5, anchor=8), **kwargs})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def shallow(arch, patch_size, **kwargs) -> DiTLLaMA:
    """One block of a row of the table at its full width, with zero-initialised parts filled."""
    network = DiTLLaMA(dict(DiTLLaMA.resolve_arch(arch), num_layers=1), patch_size, **kwargs)
    for linear in (network.head, network.head_ada, network.layers[0].ada):
        torch.nn.init.normal_(linear.weight, std=0.1)
    torch.nn.init.normal_(network.layers[0].attn.qkv.weight, std=1.4 / network.embed_dims**0.5)
    return network.eval()


def inputs(size=(8, 8), batch=3):
    return torch.randn(batch, 4, *size), torch.tensor([0, 400, 999])[:batch], torch.tensor([0, 4, 5])[:batch]


# parameters that the papers' tables stand for, without the position table that released checkpoints store
COUNTS = {
    ('S', 2): (32842016, 32963360),
    ('S', 4): (32897408, 32945024),
    ('S', 8): (33118976, 33148160),
    ('B', 2): (130269728, 130512416),
    ('B', 4): (130380416, 130475648),
    ('B', 8): (130823168, 130881536),
    ('L', 2): (464009248, 458102816),
    ('L', 4): (464156800, 458053760),
    ('L', 8): (464747008, 458594816),
    ('XL', 2): (674673440, 675129632),
    ('XL', 4): (674839424, 675074432),
    ('XL', 8): (675503360, 675683072),
}


@pytest.mark.parametrize('arch, patch_size', COUNTS)
def test_parameter_counts(arch, patch_size):
    llama, plain_total = COUNTS[arch, patch_size]
    with torch.device('meta'):
        network, baseline = DiTLLaMA(arch, patch_size), DiTLLaMA(arch, patch_size, **PLAIN)
    assert sum(p.numel() for p in network.parameters()) == llama
    table = (32 // patch_size) ** 2 * network.embed_dims
    assert sum(p.numel() for p in baseline.parameters()) == plain_total - table


@pytest.mark.parametrize('arch, patch_size, gmacs', [('S', 2, 6.06), ('B', 4, 5.565), ('L', 4, 20.10)])
def test_macs(arch, patch_size, gmacs):
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device('meta'):
        network = DiTLLaMA(arch, patch_size).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 4, 32, 32), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize('patch_size', [2, 4, 8])
@pytest.mark.parametrize('arch', list(DiTLLaMA.arch_zoo))
class TestEveryArchitecture:
    def test_any_size_forward_and_backward(self, arch, patch_size):
        network = shallow(arch, patch_size).train()
        for size in ((32, 32), (16, 40)):
            network.zero_grad()
            x, t, y = inputs(size)
            out = network(x, t, y)
            assert out.shape == (3, 8, *size) and out.isfinite().all()
            out.square().mean().backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

    def test_weights_load_at_other_sizes(self, arch, patch_size):
        source = shallow(arch, patch_size)
        state_dict = source.state_dict()
        assert len(state_dict) == len(list(source.parameters()))  # no buffers
        x, t, y = inputs((16, 40), batch=2)
        with torch.no_grad():
            expected = source(x, t, y)
            for anchor in (64, (32, 96)):
                target = shallow(arch, patch_size, anchor=anchor)
                target.load_state_dict(state_dict, strict=True)
                assert not torch.allclose(target(x, t, y), expected, atol=1e-4)  # positions follow the anchor
                target.anchor_grid = source.anchor_grid
                assert torch.equal(target(x, t, y), expected)

    @torch.no_grad()
    def test_bf16_autocast_is_close(self, arch, patch_size):
        network, args = shallow(arch, patch_size), inputs((16, 40))
        full = network(*args)
        with torch.autocast('cpu', torch.bfloat16):
            half = network(*args)
        assert (half.float() - full).norm() < 3e-2 * full.norm()
        assert not torch.equal(half.float(), full)


@torch.no_grad()
@pytest.mark.parametrize('arch', list(DiTLLaMA.arch_zoo))
def test_every_architecture_compiles_whole(arch):
    torch.compiler.reset()
    network = shallow(arch, 4)
    compiled = torch.compile(network, fullgraph=True, backend='eager')  # the graph alone
    for size in ((32, 32), (16, 40)):
        args = inputs(size, batch=2)
        torch.testing.assert_close(compiled(*args), network(*args), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('kwargs', [{}, PLAIN, dict(return_sigma=False), dict(learn_sigma=False, label_drop_prob=0)])
def test_forward_backward(kwargs):
    network = tiny(**kwargs).train()
    x, t, y = inputs()
    out = network(x, t, y.clamp(max=4))
    assert out.shape == (3, network.out_channels, 8, 8)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_starts_at_zero_with_identity_blocks():
    network = DiTLLaMA(TINY, num_classes=5, anchor=8)
    tokens, cond = torch.randn(2, 16, 48), torch.randn(2, 48)
    assert torch.equal(network.layers[0](tokens, AttentionContext(), cond), tokens)
    assert not network(*inputs()).any()


def test_patches_keep_their_place():
    """A head that writes a patch's number puts the numbers in reading order, rows and columns not exchanged."""
    network = tiny()
    tokens = torch.arange(2 * 3.0).view(1, 6, 1).expand(1, 6, 2 * 2 * 8)
    image = network.unpatchify(tokens, (2, 3))
    expected = torch.arange(6.0).view(2, 3).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(image[0, 5], expected)
    inside = torch.arange(2 * 2 * 8.0).view(1, 1, 32)  # (row, column, channel) of one patch
    assert network.unpatchify(inside, (1, 1))[0, 3].tolist() == [[3, 11], [19, 27]]


def test_any_size_uses_the_anchor():
    network, x = tiny(), torch.randn(1, 4, 12, 4)
    assert network(x, torch.tensor([3]), torch.tensor([1])).shape == (1, 8, 12, 4)
    seen = []
    network.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    network(torch.randn(1, 4, 16, 8), torch.tensor([3]), torch.tensor([1]))
    positions = grid_positions((8, 4), (4, 4))
    assert positions[:, 1].max() == 3.5 and positions[:, 0].max() == 3  # twice as many rows on the same range
    assert torch.equal(seen[0].rope.cos, network.rotary(positions).cos)


def test_state_dict_holds_nothing_positional():
    small, large = tiny(anchor=8), tiny(anchor=16, **PLAIN)
    assert {k: v.shape for k, v in small.state_dict().items() if 'ffn' not in k} == {
        k: v.shape for k, v in large.state_dict().items() if 'ffn' not in k
    }
    assert not [key for key in small.state_dict() if 'pos' in key]


def test_sincos_embedding():
    """Against the table of the DiT paper's reference, written out: [sin x, cos x, sin y, cos y]."""
    table = sincos_embedding(grid_positions((2, 3)), 8)
    for n, (y, x) in enumerate((y, x) for y in range(2) for x in range(3)):
        expected = [f(p * w) for p in (x, y) for f in (math.sin, math.cos) for w in (1, 0.01)]
        assert table[n].tolist() == pytest.approx(expected, abs=1e-6)


def test_position_matters_only_through_rope_or_sincos():
    x, t, y = inputs(batch=1)
    swapped = x.transpose(2, 3)
    for network in (tiny(), tiny(**PLAIN)):
        assert not torch.allclose(network(swapped, t, y), network(x, t, y).transpose(2, 3), atol=1e-3)
    shifted = torch.roll(x, 2, dims=2)  # whole patches: without positions only the order of the tokens changes
    no_position = tiny()
    no_position.rotary.frequencies = lambda *args: torch.zeros(1, 3)
    assert torch.allclose(no_position(shifted, t, y), torch.roll(no_position(x, t, y), 2, dims=2), atol=1e-4)


def test_label_dropout():
    network = tiny(label_drop_prob=0.5)
    embed = network.label_embed
    labels = torch.zeros(2000, dtype=torch.int64)
    embed.train()
    dropped = (embed(labels) == embed.weight[5]).all(dim=1)
    kept = (embed(labels) == embed.weight[0]).all(dim=1)
    assert 0.4 < dropped.float().mean() < 0.6 and 0.4 < kept.float().mean() < 0.6
    embed.eval()
    assert (embed(labels) == embed.weight[0]).all()


def test_guidance_formula():
    cond, uncond = torch.randn(2, 1, 8, 2, 2).double()
    out = guide(cond, uncond, 4.0, 3)
    assert torch.allclose(out[:, :3], uncond[:, :3] + 4 * (cond - uncond)[:, :3])
    assert torch.equal(out[:, 3:], cond[:, 3:])


def test_forward_with_cfg():
    network = tiny()
    x, t, _ = inputs(batch=2)
    y = torch.tensor([1, 2])
    cond, uncond = network(x, t, y), network(x, t, torch.tensor([5, 5]))
    mixed = uncond + 1.5 * (cond - uncond)
    for channels, count in (('all', 4), ('released', 3)):
        out = network.forward_with_cfg(x, t, y, 1.5, channels)
        expected = torch.cat((mixed[:, :count], cond[:, count:]), dim=1)
        assert (out - expected).abs().max() < 1e-5 * expected.abs().max()
        assert (mixed - cond)[:, count:].abs().max() > 0.1  # guiding more channels would show
    assert torch.equal(network.forward_with_cfg(x, t, y, 1.0), cond)
    grey = tiny(in_channels=1)  # the second channel is the variance, which no choice guides
    out = [grey.forward_with_cfg(x[:, :1], t, y, 1.5, channels) for channels in ('all', 'first_three')]
    assert torch.equal(*out)


@pytest.mark.parametrize('kwargs', [{}, PLAIN])
def test_compiles(kwargs):
    network = tiny(**kwargs)
    args = inputs()
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(*args), network(*args), atol=1e-4, rtol=1e-4)


def test_bf16_autocast_and_checkpointing():
    network = tiny()
    args = inputs()
    reference = network(*args)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low = network(*args)
    assert low.dtype == torch.bfloat16
    assert (low - reference).abs().max() < 0.1 * reference.abs().max()
    plain, saving = tiny().train(), tiny(with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    for model in (plain, saving):
        torch.manual_seed(1)
        model(*args).square().mean().backward()
    for one, two in zip(plain.parameters(), saving.parameters()):
        assert torch.allclose(one.grad, two.grad, atol=1e-6)


def test_errors():
    network = tiny()
    with pytest.raises(ValueError, match='patch size 2x2 does not divide the latent size 9x8'):
        network(torch.randn(1, 4, 9, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match='expected images of shape'):
        network(torch.randn(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match='does not divide the latent size 32x32'):
        DiTLLaMA(TINY, patch_size=3)
    with pytest.raises(ValueError, match="unknown arch 'huge'"):
        DiTLLaMA('huge')
    with pytest.raises(ValueError, match='unknown position'):
        tiny(position='learned')
    with pytest.raises(ValueError, match='no null class'):
        tiny(label_drop_prob=0).forward_with_cfg(*inputs(batch=1), 2.0)
    with pytest.raises(ValueError, match='unknown cfg_channels'):
        network.forward_with_cfg(*inputs(batch=1), 2.0, 'first')


def test_dit_itself_against_a_plain_implementation(monkeypatch):
    """The baseline equals the DiT of the benchmark, which uses torch alone in its blocks."""
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    spec = importlib.util.spec_from_file_location('benchmark_generation', ROOT / 'benchmarks' / 'generation.py')
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    plain = benchmark.PlainDiT(dims=48, layers=2, heads=4).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    names = (
        ('blocks.', 'layers.'),
        ('mlp.0.', 'ffn.up.'),
        ('mlp.2.', 'ffn.down.'),
        ('ada.1.', 'ada.'),
        ('.qkv.', '.attn.qkv.'),
        ('.proj.', '.attn.proj.'),
    )
    state_dict = {}
    for key, value in plain.state_dict().items():
        if key == 'pos_embed':
            continue
        for old, new in names:
            key = key.replace(old, new)
        key = key.replace('embed.', 'patch_embed.projection.') if key.startswith('embed.') else key
        state_dict['head_' + key if key.startswith('ada.') else key] = value
    network = tiny(anchor=32, num_classes=1000, **PLAIN)
    network.load_state_dict(state_dict)
    args = (torch.randn(2, 4, 32, 32), torch.tensor([5, 700]), torch.tensor([3, 1000]))
    with torch.no_grad():
        expected = plain(*args)
        assert torch.allclose(network(*args), expected, atol=1e-4 * expected.abs().max().item())
