"""Rank of attention maps against numpy on written-out weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmvisionllama.analysis.attention_rank import (
    AttentionRecorder,
    RankMeter,
    effective_rank,
    numerical_rank,
    singular_values,
)
from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.visualization.analyses import draw_ranks

TINY = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)


def slow_weights(q, k, causal):
    """One row of softmax after another, float64."""
    q, k = q.double().numpy(), k.double().numpy()
    out = np.zeros((*q.shape[:-1], k.shape[-2]))
    for index in np.ndindex(q.shape[:-1]):
        scores = np.array([q[index] @ k[index[:-1]][m] / np.sqrt(q.shape[-1]) for m in range(k.shape[-2])])
        if causal:
            scores[index[-1] + 1 :] = -np.inf
        weights = np.exp(scores - scores.max())
        out[index] = weights / weights.sum()
    return out


@pytest.mark.parametrize('causal', [False, True])
def test_ranks_equal_numpys_of_the_written_out_weights(causal):
    q, k = torch.randn(2, 3, 7, 4) * 2, torch.randn(2, 3, 7, 4) * 2
    meter = RankMeter(rtol=0.05)
    with meter.record():
        F.scaled_dot_product_attention(q, k, k, is_causal=causal)
    maps = slow_weights(q, k, causal).reshape(-1, 7, 7)
    ranks, effective, cumulative = [], [], []
    for weights in maps:
        values = np.linalg.svd(weights, compute_uv=False)
        ranks.append(np.linalg.matrix_rank(weights, tol=0.05 * values[0]))
        part = values / values.sum()
        effective.append(np.exp(-sum(p * np.log(p) for p in part if p > 0)))
        cumulative.append(np.cumsum(part))
    (layer,) = meter.result()
    assert (layer.layer, layer.queries, layer.keys) == (0, 7, 7)
    assert layer.rank == pytest.approx(np.mean(ranks), abs=1e-6)
    assert layer.effective_rank == pytest.approx(np.mean(effective), rel=1e-5)
    np.testing.assert_allclose(layer.cumulative, np.mean(cumulative, axis=0), rtol=1e-5)


def test_ranks_of_known_matrices():
    uniform = torch.full((1, 1, 6, 6), 1 / 6)
    values = singular_values(torch.cat((uniform, torch.eye(6).expand(1, 1, 6, 6))))
    assert numerical_rank(values).flatten().tolist() == [1, 6]
    assert effective_rank(values).flatten().tolist() == pytest.approx([1, 6], abs=1e-4)


@torch.no_grad()
def test_every_layer_of_a_model_is_recorded_and_the_output_stays_the_same():
    image = torch.rand(2, 3, 32, 32)
    for model, tokens in ((iLLaMA(TINY, img_size=32), 5), (VisionLLaMA(TINY), 5)):
        model.eval()
        maps = []
        expected = model(image)[0]
        with AttentionRecorder(maps.append):
            torch.testing.assert_close(model(image)[0], expected)
        assert [m.shape for m in maps] == [(2, 2, tokens, tokens)] * 2
        torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 2, tokens))
        causal = (maps[0].triu(1) == 0).all()
        assert causal == isinstance(model, iLLaMA)
        model(image)
        assert len(maps) == 2  # recording ends with the context


@torch.no_grad()
def test_windowed_and_sub_sampled_attention_is_recorded():
    arch = dict(embed_dims=(8, 8, 8, 8), depths=(2, 2, 2, 2), num_heads=(2, 2, 2, 2))
    maps = []
    with AttentionRecorder(maps.append):
        PyramidVisionLLaMA(arch).eval()(torch.rand(1, 3, 64, 64))
    assert [m.shape[-2:] for m in maps[:2]] == [(49, 49), (256, 4)] and len(maps) == 8
    for weights in maps:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@torch.no_grad()
def test_mmpretrain_s_own_vit_is_recorded():
    vit = pytest.importorskip('mmpretrain.models').VisionTransformer(TINY, img_size=32)
    vit.eval()
    maps = []
    with AttentionRecorder(maps.append):
        vit(torch.rand(2, 3, 32, 32))
    assert [m.shape for m in maps] == [(2, 2, 5, 5)] * 2
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 2, 5))


@torch.no_grad()
def test_weights_that_are_written_out_are_recorded_once():
    image = torch.rand(1, 3, 32, 32)
    fused, eager = [], []
    model = iLLaMA(TINY, img_size=32).eval()
    with AttentionRecorder(fused.append):
        model(image)
    for layer in model.layers:
        layer.attn.backend = 'eager'
    with AttentionRecorder(eager.append):
        model(image)
    assert len(eager) == 2
    torch.testing.assert_close(eager, fused)
    released = []
    with AttentionRecorder(released.append):
        iLLaMA(TINY, img_size=32, mask_mode='released').eval()(image)
    assert released[0].sum(-1).min() < 0.9  # not renormalised


def test_a_scale_of_its_own_is_respected():
    q, k = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8)
    maps = []
    with AttentionRecorder(maps.append):
        F.scaled_dot_product_attention(q, k, k, scale=1.0)
    torch.testing.assert_close(maps[0], (q @ k.transpose(-2, -1)).softmax(-1))


def test_means_go_over_batches_and_sizes_must_agree(tmp_path):
    meter = RankMeter()
    for n in (1, 3):
        with meter.record():
            meter.add(torch.eye(5).expand(n, 2, 5, 5))
    assert meter.layers[0]['maps'] == 8 and meter.result()[0].rank == 5
    with pytest.raises(ValueError, match='one size'), meter.record():
        meter.add(torch.eye(6)[None, None])
    draw_ranks(meter.result(), str(tmp_path / 'ranks.png'))
    assert (tmp_path / 'ranks.png').stat().st_size > 1000
