"""The rotation of queries and keys: memory layouts, packed projections, gathered tables, derivatives."""

import pytest
import torch
from paper import rotated_by_paper

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.layers import RotaryEmbedding, RotaryTable, apply_rotary, gather_table, rotate_qkv
from mmvisionllama.layers.options import exporting

ANCHOR = (14, 14)


def table_of(rotary: RotaryEmbedding, grid, anchor=None, dtype=torch.float32):
    return rotary(rotary.positions(grid, anchor, dtype=dtype))


class TestRotation:
    def test_plain_formula_and_packed_projection_agree(self):
        grid = (5, 7)
        qkv = torch.randn(2, 35, 3, 2, 16, dtype=torch.float64)
        rotary = RotaryEmbedding(16)
        expected = rotated_by_paper(qkv[:, :, :2].flatten(2, 3), grid, ANCHOR).unflatten(2, (2, 2))
        q, k, v = rotate_qkv(qkv, table_of(rotary, grid, ANCHOR, torch.float64))
        torch.testing.assert_close(torch.stack((q, k), dim=2), expected, atol=1e-12, rtol=0)
        assert torch.equal(v, qkv[:, :, 2])
        # a learned table takes the path that compilers see
        learned = RotaryTable(*(t.requires_grad_() for t in table_of(rotary, grid, ANCHOR, torch.float64)))
        plain = apply_rotary(qkv[:, :, 0], learned)
        torch.testing.assert_close(plain, expected[:, :, 0], atol=1e-12, rtol=0)
        # the wider of two dtypes is used
        mixed = apply_rotary(qkv[:, :, 0], table_of(rotary, grid, ANCHOR))
        assert mixed.dtype == torch.float64
        torch.testing.assert_close(mixed, expected[:, :, 0], atol=1e-5, rtol=0)

    @pytest.mark.parametrize('batch', [1, 3])
    @pytest.mark.parametrize('head_dim, ratio', [(8, 1.0), (12, 2 / 3), (9, 8 / 9)])
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    def test_any_memory_layout(self, batch, head_dim, ratio, dtype):
        """Views with odd offsets and strides, transposed tensors, odd head dims: values and gradients."""
        grid, rotary = (3, 5), RotaryEmbedding(head_dim, ratio=ratio)
        rotated, tokens = rotary.rotary_dim, grid[0] * grid[1]
        table = table_of(rotary, grid, ANCHOR, dtype)
        x = torch.randn(batch, tokens, 2, head_dim, dtype=dtype)
        expected = x.to(torch.float64, copy=True)
        expected[..., :rotated] = rotated_by_paper(x[..., :rotated].contiguous(), grid, ANCHOR)
        wide = torch.empty(batch, tokens, 2, head_dim + 1, dtype=dtype)
        odd_offset = torch.empty(x.numel() + 1, dtype=dtype)[1:].view_as(x)
        layouts = (
            x.clone(),
            wide[..., 1:],
            odd_offset,
            torch.empty_like(x.transpose(1, 2)).transpose(1, 2),
            x.mT.contiguous().mT,
        )
        rounding = dict(atol=1e-12, rtol=0) if dtype == torch.float64 else dict(atol=1e-5, rtol=torch.finfo(dtype).eps)
        for given in layouts:
            given = given.copy_(x).detach().requires_grad_()
            out = apply_rotary(given, table)
            assert out.dtype == dtype
            torch.testing.assert_close(out.double(), expected, **rounding)
            # a rotation: the gradient of |out|^2 / 2 is the input
            (grad,) = torch.autograd.grad(out.double().square().sum() / 2, given)
            torch.testing.assert_close(grad, x, atol=8 * torch.finfo(dtype).eps, rtol=0)

    def test_gathered_rows_are_rows_of_the_full_table(self):
        rotary = RotaryEmbedding(16, 2, share_heads=False)
        table = table_of(rotary, (4, 5))
        index = torch.stack((torch.randperm(20)[:6], torch.randperm(20)[:6]))
        part = gather_table(table, index)
        assert part.cos.shape == (2, 6, 2, 8)
        for sample in range(2):
            for place in range(6):
                assert torch.equal(part.cos[sample, place], table.cos[index[sample, place]])
                assert torch.equal(part.sin[sample, place], table.sin[index[sample, place]])
        x = torch.randn(2, 20, 2, 16)
        kept = x.gather(1, index[..., None, None].expand(-1, -1, 2, 16))
        full = apply_rotary(x, table).gather(1, index[..., None, None].expand(-1, -1, 2, 16))
        torch.testing.assert_close(apply_rotary(kept, part), full)


class TestGradients:
    @pytest.mark.parametrize('rope_cfg', [{}, dict(ratio=0.5), dict(share_heads=False)])
    def test_first_and_second_derivative(self, rope_cfg):
        rotary = RotaryEmbedding(8, 2, **rope_cfg)
        table = table_of(rotary, (1, 2), dtype=torch.float64)
        own = gather_table(table, torch.tensor([[1, 0]]))  # a table for each sample
        qkv = torch.randn(1, 2, 3, 2, 8, dtype=torch.float64, requires_grad=True)
        for rows in (table, own):
            for function, given in ((rotate_qkv, qkv), (apply_rotary, qkv[:, :, 0].detach().requires_grad_())):
                assert torch.autograd.gradcheck(lambda x, f=function, t=rows: f(x, t), (given,))
                assert torch.autograd.gradgradcheck(lambda x, f=function, t=rows: f(x, t), (given,))

    def test_gradient_is_that_of_the_plain_formula(self):
        table = table_of(RotaryEmbedding(16), (3, 3))
        x = torch.randn(2, 9, 2, 16, requires_grad=True)
        weight = torch.randn_like(x)
        (fast,) = torch.autograd.grad((apply_rotary(x, table) * weight).sum(), x)
        double = x.detach().double().requires_grad_()
        (plain,) = torch.autograd.grad((apply_rotary(double, table) * weight).sum(), double)
        torch.testing.assert_close(fast.double(), plain, atol=1e-6, rtol=0)

    def test_learned_positions_get_a_gradient(self):
        positions = torch.rand(3, 2, requires_grad=True)
        q, k, _ = rotate_qkv(torch.randn(1, 3, 3, 1, 8), RotaryEmbedding(8)(positions))
        (q * k.roll(1, dims=1)).sum().backward()
        assert positions.grad.abs().max() > 0


class Asks(torch.nn.Module):
    def forward(self, x):
        return x + 1 if exporting() else x - 1


def test_compiled_graphs_are_not_exported_ones():
    """In both ``torch.compiler.is_exporting`` is true; what runtimes like is slower in a compiled graph."""
    x = torch.zeros(2)
    torch.compiler.reset()
    assert torch.equal(torch.compile(Asks(), backend='eager', fullgraph=True)(x), x - 1)
    assert torch.equal(torch.export.export(Asks(), (x,), strict=False).module()(x), x + 1)


def windowed():
    arch = dict(embed_dims=16, num_layers=1, num_heads=2)
    options = dict(window_size=4, window_block_indexes=(0,), out_type='featmap', with_cls_token=False)
    return VisionLLaMA(arch, img_size=32, patch_size=4, **options).eval()


def test_windows_of_any_size_are_one_graph():
    """Whole ones, and partial ones below, at the right and on both sides."""
    model, graphs = windowed(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for size in ((32, 48), (32, 40), (40, 32), (36, 44)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x)[0], model(x)[0], atol=1e-5, rtol=1e-5)
    assert len(graphs) == 1


def test_compiled_whole_windows_need_no_mask():
    seen = []

    def backend(graph, inputs):
        seen.extend(node for node in graph.graph.nodes if 'scaled_dot_product' in str(node.target))
        return graph

    model = windowed()
    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(model, backend=backend, fullgraph=True)(torch.randn(1, 3, 32, 32))
    (attention,) = seen
    assert attention.kwargs.get('attn_mask') is None and len(attention.args) <= 3
