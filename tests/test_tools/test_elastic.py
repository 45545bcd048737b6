"""tools/dist_train.sh stops at a signal, resumes, and starts its processes again when one dies."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HOOK = """
import os, signal
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class DiesOnce(Hook):
    def __init__(self, at, note):
        self.at, self.note = at, note

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.at and get_rank() == 1 and not os.path.exists(self.note):
            open(self.note, 'w').close()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def rows(folder, rank):
    path = folder / f'rank{rank}.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return [(row[1], row[2]) for row in map(json.loads, lines) if row[0] == 'iter']


@pytest.mark.nightly  # three starts of two processes, a minute and a half
@pytest.mark.skipif(os.name == 'nt', reason='a shell script')
def test_stopped_then_killed_then_done(tmp_path, monkeypatch):
    """SIGTERM: status 75, nothing lost. One process dies at iteration 32: all go on from iteration 30 by themselves."""
    work, path = tmp_path / 'work', tmp_path / 'config.py'
    work.mkdir()
    (tmp_path / 'dies_once.py').write_text(HOOK)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = dict(os.environ, PYTHON=sys.executable, PORT=str(port), CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    env['PYTHONPATH'] = os.pathsep.join([str(tmp_path), str(ROOT / 'tools' / 'dev'), str(ROOT)])
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'dev'))
    cfg = importlib.import_module('kill_test').make_config(work, True, 2)
    cfg.custom_imports = dict(imports=['mmvisionllama', 'kill_test', 'dies_once'], allow_failed_imports=False)
    cfg.custom_hooks.append(dict(type='DiesOnce', at=32, note=str(tmp_path / 'died')))
    cfg.dump(path)
    command = ['bash', str(ROOT / 'tools' / 'dist_train.sh'), str(path), '2', '--work-dir', str(work)]
    with open(tmp_path / 'log', 'w') as log:
        script = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        while len(rows(work, 0)) < 7 and script.poll() is None:
            time.sleep(0.01)
        script.send_signal(signal.SIGTERM)
        assert script.wait(100) == 75, (tmp_path / 'log').read_text()[-3000:]
    done = rows(work, 0)
    assert len(done) < 32 and [i for i, _ in done] == list(range(len(done)))

    env['MAX_RESTARTS'] = '1'
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert (tmp_path / 'died').exists() and (work / 'epoch_8.pth').exists()
    for rank in (0, 1):
        seen = rows(work, rank)
        numbers = [i for i, _ in seen]
        restart = numbers.index(30, numbers.index(30) + 1)
        assert numbers[restart:] == list(range(30, 40)) and numbers[: numbers.index(30)] == list(range(30))
        assert len(set(seen)) == 40, 'an iteration done again has the loss that it had'


@pytest.mark.nightly  # three starts, half a minute
@pytest.mark.skipif(os.name == 'nt', reason='a shell script')
def test_two_machines_as_one_of_two_processes(tmp_path, monkeypatch):
    """Two agents on loopback with NNODES=2; the second one finds the port of the first in use, as it has to."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'dev'))
    kill_test = importlib.import_module('kill_test')
    port = importlib.import_module('processes').free_port()
    env = dict(os.environ, PYTHON=sys.executable, PORT=str(port), CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    env['PYTHONPATH'] = os.pathsep.join([str(ROOT / 'tools' / 'dev'), str(ROOT)])

    def agents(name, processes, ranks):
        work = tmp_path / name
        work.mkdir()
        cfg = kill_test.make_config(work, True, 2)
        cfg.custom_imports = dict(imports=['mmvisionllama', 'kill_test'], allow_failed_imports=False)
        cfg.dump(tmp_path / f'{name}.py')
        script = ['bash', str(ROOT / 'tools' / 'dist_train.sh'), str(tmp_path / f'{name}.py'), processes]
        places = [dict(env, NNODES=str(len(ranks)), NODE_RANK=rank, MASTER_ADDR='127.0.0.1') for rank in ranks]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        running = [subprocess.Popen([*script, '--work-dir', str(work)], env=place, **pipes) for place in places]
        outputs = [process.communicate(timeout=200)[0] for process in running]
        assert [process.returncode for process in running] == [0] * len(ranks), outputs[0][-3000:]
        return [rows(work, rank) for rank in (0, 1)], kill_test.weights(work, True)

    curves, weights = agents('one', '2', ['0'])
    curves_of_two, weights_of_two = agents('two', '1', ['0', '1'])
    assert len(curves[0]) == 40 and curves_of_two == curves
    assert all((weights[key] == weights_of_two[key]).all() for key in weights)
