"""Multi-GPU training of a pyramid whose neck or head leaves some of its outputs out."""

import copy
import os
import socket

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from mmvisionllama.backbones import PyramidVisionLLaMA
from mmvisionllama.layers import keep_in_graph

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_heads=(2,) * 4, feedforward_channels=(8,) * 4)
ALL = (0, 1, 2, 3)


def build(**options):
    torch.manual_seed(0)
    return PyramidVisionLLaMA(ARCH, **{'out_indices': ALL, **options})


def loss_of(model, x, used=(2, 3)):
    outs = model(x)
    return sum(outs[i].float().square().mean() for i in used)


def train_two_processes(rank, port):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=2)
    runs = {
        'plain': {},
        'with_cp': dict(with_cp=True),
        'norms of stages that are no output': dict(norm_after_stage=[True] * 4, out_indices=(2, 3)),
        'norms in the trunk': dict(norm_after_stage='in_trunk', out_indices=(2, 3)),
    }
    for name, options in runs.items():
        for amp in (False, True):
            alone = build(**options)
            ddp = DistributedDataParallel(copy.deepcopy(alone))
            optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (alone, ddp)]
            used = (2, 3) if len(alone.out_indices) == 4 else (0, 1)
            for step in range(3):
                torch.manual_seed(step)
                x = torch.rand(2, 3, 32, 64)
                for model, optimizer in zip((alone, ddp), optimizers):
                    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
                        loss_of(model, x, used).backward()
                    optimizer.step()
                for (key, ours), theirs in zip(alone.named_parameters(), ddp.parameters()):
                    assert ours.grad is not None, (name, key)
                    # both processes saw the same images
                    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6), (name, amp, step, key)
                for optimizer in optimizers:
                    optimizer.zero_grad()
    dist.destroy_process_group()


def test_two_processes_train_though_two_outputs_go_unused():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(train_two_processes, args=(port,), nprocs=2)


def without_ties(monkeypatch):
    monkeypatch.setattr('mmvisionllama.backbones.pyramid_vision_llama.keep_in_graph', lambda x, module: x)


def test_changes_no_output_and_no_gradient_of_a_used_norm(monkeypatch):
    x = torch.rand(2, 3, 64, 32)
    ours = build()
    outs = ours(x)
    sum(out.square().mean() for out in outs).backward()
    without_ties(monkeypatch)
    plain = build()
    expected = plain(x)
    sum(out.square().mean() for out in expected).backward()
    assert all(torch.equal(a, b) for a, b in zip(outs, expected))
    for (name, a), b in zip(ours.named_parameters(), plain.parameters()):
        assert torch.equal(a.grad, b.grad), name


def test_unused_norms_have_zero_gradients_and_none_without_the_tie(monkeypatch):
    x = torch.rand(1, 3, 32, 32)
    model = build()
    loss_of(model, x).backward()
    assert all(param.grad is not None for param in model.parameters())
    unused = {name for name, param in model.named_parameters() if not param.grad.any()}
    assert unused == {f'norms.{i}.{kind}' for i in (0, 1) for kind in ('weight', 'bias')}
    without_ties(monkeypatch)
    model = build()
    loss_of(model, x).backward()
    assert {name for name, param in model.named_parameters() if param.grad is None} == unused


def test_frozen_norms_and_evaluation_are_left_alone():
    norm = torch.nn.LayerNorm(4)
    x = torch.rand(2, 4, requires_grad=True)
    assert keep_in_graph(x, norm) is not x
    with torch.no_grad():
        assert keep_in_graph(x, norm) is x
    assert keep_in_graph(x, norm.requires_grad_(False)) is x


@pytest.mark.nightly  # half a minute each
@pytest.mark.parametrize('fullgraph', [True, False])
def test_compiled_training_keeps_every_gradient(fullgraph):
    x = torch.rand(2, 3, 64, 64)
    eager = build()
    loss_of(eager, x).backward()
    torch._dynamo.reset()
    compiled = build()
    loss_of(torch.compile(compiled, backend='aot_eager', fullgraph=fullgraph), x).backward()
    for (name, a), b in zip(eager.named_parameters(), compiled.parameters()):
        assert b.grad is not None, name
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), name
