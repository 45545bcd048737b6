"""FSDP2 trains as one process does, and its checkpoints are everyone's."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmvisionllama.checkpoints import read_checkpoint
from mmvisionllama.engine import sharding
from mmvisionllama.engine.hooks.quantization_aware import QuantizationAwareTrainingHook
from mmvisionllama.engine.sharding import FullyShardedModel
from mmvisionllama.errors import OptionError

ROOT = Path(__file__).parents[2]
needs_fsdp2 = pytest.mark.skipif(sharding.fully_shard is None, reason='torch before 2.6')


#: runs of 20 steps, the first whole
NAMES = ('one', 'two', 'then_one', 'then_three')


def run(folder, *runs):
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tools' / 'dev')])
    env = dict(os.environ, PYTHONPATH=path, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    script = Path(__file__).with_name('sharded_training.py')
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *runs], env=env, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder):
    """Mean over the processes, by iteration."""
    ranks = [dict(map(json.loads, path.read_text().splitlines())) for path in folder.glob('rank*.jsonl')]
    return {i: sum(rank[i] for rank in ranks) / len(ranks) for i in ranks[0]}


def assert_same(actual, expected, tolerance):
    assert actual and max(abs(actual[i] - expected[i]) for i in actual) <= tolerance


@pytest.mark.nightly  # checkpoints in parts train the same way
@needs_fsdp2
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the processes are forked')
def test_sharded_as_whole(tmp_path):
    """20 steps: layer decay, clipping, averaged weights, checkpointed blocks; on 2, then on 1, then on 3 processes."""
    run(tmp_path, 'one:none:1:4', 'two:fsdp:2:2', 'then_one:none:1:3:two', 'then_three:fsdp:3:4:then_one')
    expected = losses(tmp_path / 'one')
    assert sorted(expected) == list(range(20)) and expected[19] < 0.7 * expected[0]
    curves = [losses(tmp_path / name) for name in NAMES[1:]]
    assert [sorted(curve) for curve in curves] == [list(range(*ends)) for ends in ((0, 10), (10, 15), (15, 20))]
    for curve in curves:
        assert_same(curve, expected, 1e-6)
    metrics = [dict(map(json.loads, (tmp_path / name / 'metrics0.jsonl').read_text().splitlines())) for name in NAMES]
    for found in metrics[1:]:
        assert_same(found, metrics[0], 1e-5)
    copies = json.loads((tmp_path / 'then_three' / 'copies1.json').read_text())
    assert copies == pytest.approx(json.loads((tmp_path / 'one' / 'copies0.json').read_text()), abs=1e-5)
    whole = int((tmp_path / 'one' / 'elements0').read_text())
    parts = [int((tmp_path / 'then_three' / f'elements{rank}').read_text()) for rank in range(3)]
    assert sum(parts) == whole and max(parts) < 0.4 * whole
    one, three = (torch.load(tmp_path / name / 'epoch_4.pth', weights_only=False) for name in ('one', 'then_three'))
    for part in ('state_dict', 'ema_state_dict'):
        assert one[part].keys() == three[part].keys()
        for key, value in one[part].items():
            torch.testing.assert_close(three[part][key], value, rtol=0, atol=1e-5, check_dtype=True)
    for index, state in one['optimizer']['state'].items():
        for key, value in state.items():
            assert type(three['optimizer']['state'][index][key]) is torch.Tensor
            torch.testing.assert_close(three['optimizer']['state'][index][key], value, rtol=1e-3, atol=1e-5)


@needs_fsdp2
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the processes are forked')
def test_checkpoints_in_parts(tmp_path):
    """Written by 2 processes, read and written by 3, read by one that is not sharded; the same curve and content."""
    run(
        tmp_path,
        'one:none:1:4',
        'two:fsdp_parts:2:2',
        'then_three:fsdp_parts:3:3:two',
        'then_one:none:1:4:then_three',
    )
    expected = losses(tmp_path / 'one')
    for name, steps in (('two', range(10)), ('then_three', range(10, 15)), ('then_one', range(15, 20))):
        curve = losses(tmp_path / name)
        assert sorted(curve) == list(steps)
        assert_same(curve, expected, 1e-6)
    folder = tmp_path / 'then_three' / 'epoch_3.pth'
    assert len(list(folder.glob('*.distcp'))) == 3 and not list((tmp_path / 'then_three').glob('*.part'))
    whole, parts = (read_checkpoint(str(tmp_path / name / 'epoch_3.pth')) for name in ('one', 'then_three'))
    assert list(whole) == list(parts)
    for part in ('state_dict', 'ema_state_dict'):
        assert list(whole[part]) == list(parts[part])
        for key, value in whole[part].items():
            torch.testing.assert_close(parts[part][key], value, rtol=0, atol=1e-5)
    for index, state in whole['optimizer']['state'].items():
        for key, value in state.items():
            torch.testing.assert_close(parts['optimizer']['state'][index][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.nightly  # nine processes, half a minute
@needs_fsdp2
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the processes are forked')
@pytest.mark.parametrize('model', ['mae', 'dit'])
def test_other_models_sharded_as_copied_as_whole(tmp_path, model):
    """FSDP2, DDP and one process over 20 steps."""
    run(tmp_path, f'one:none+{model}:1:4', f'copied:none+{model}:2:4', f'sharded:fsdp+{model}:2:4')
    expected = losses(tmp_path / 'one')
    assert sorted(expected) == list(range(20)) and expected[19] < expected[0]
    for name in ('copied', 'sharded'):
        assert_same(losses(tmp_path / name), expected, 1e-5)


@pytest.mark.nightly
@needs_fsdp2
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the processes are forked')
def test_compiled_blocks_are_units_too(tmp_path):
    run(tmp_path, 'one:none:1:4', 'sharded:fsdp+compiled:2:4')
    assert_same(losses(tmp_path / 'sharded'), losses(tmp_path / 'one'), 1e-5)


@needs_fsdp2
def test_evaluation_and_copies_amid_gradients(tmp_path):
    """In a test the optimizer wrapper stays a config; a model with gradients can be copied, and keeps them."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tools' / 'dev')])
    env = dict(os.environ, PYTHONPATH=path, CUDA_VISIBLE_DEVICES='', RANK='0', WORLD_SIZE='1', LOCAL_RANK='0')
    env.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    script = Path(__file__).with_name('sharded_alone.py')
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.stdout.endswith('ok\n'), done.stderr[-3000:]


@needs_fsdp2
def test_simulated_8_bits_refuse_it(monkeypatch):
    hook, model = QuantizationAwareTrainingHook(), FullyShardedModel.__new__(FullyShardedModel)
    with pytest.raises(OptionError, match='MMDistributedDataParallel'):
        hook.before_train(SimpleNamespace(model=model))


@needs_fsdp2
def test_kinds_of_checkpoints():
    with pytest.raises(OptionError, match='whole.*parts'):
        FullyShardedModel(nn.Linear(2, 2), checkpoint='pieces')


@pytest.mark.nightly
@needs_fsdp2
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the processes are forked')
def test_bfloat16_is_near_float32(tmp_path):
    """Parameters are gathered in bfloat16 and kept in float32."""
    run(tmp_path, 'one:none:1:2', 'half:fsdp_bf16:2:2')
    expected, half = losses(tmp_path / 'one'), losses(tmp_path / 'half')
    assert half != expected
    assert_same(half, expected, 0.05 * expected[0])


@needs_fsdp2
def test_what_it_cannot_shard(monkeypatch):
    with pytest.raises(OptionError, match='several processes'):
        FullyShardedModel(nn.Linear(2, 2))
    monkeypatch.setattr(sharding.distributed, 'is_initialized', lambda: True)
    with pytest.raises(OptionError, match='no TransformerBlock or AdaLNBlock: .* blocks='):
        FullyShardedModel(nn.Linear(2, 2))
    generator = nn.Sequential(nn.Linear(2, 2))
    generator.objective = object()
    with pytest.raises(OptionError, match='image generators make noise and steps in float32'):
        FullyShardedModel(generator, blocks=['Linear'], param_dtype='bfloat16')
    with pytest.raises(OptionError, match="'bf16' is no dtype"):
        FullyShardedModel(nn.Linear(2, 2), blocks=['Linear'], param_dtype='bf16')
