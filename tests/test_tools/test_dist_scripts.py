"""What dist_train.sh and dist_test.sh say before they start any process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


def run(script, *args, config=__file__, **environment):
    """Exit status and standard error."""
    before = [config] if script == 'dist_train.sh' else [config, 'nowhere.pth']
    environment = dict(os.environ, PYTHON=sys.executable, **environment)
    done = subprocess.run(['bash', TOOLS / script, *before, *args], env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
@pytest.mark.parametrize(
    'processes, port, message',
    [
        ('0', '29613', 'PROCESSES must be a positive whole number'),
        ('-1', '29613', 'PROCESSES must be a positive whole number'),
        ('abc', '29613', "got 'abc'"),
        ('2', '99999', "PORT must be in 1 ... 65535, got '99999'"),
        ('2', 'x', 'PORT must be in 1 ... 65535'),
    ],
)
def test_numbers_that_mean_nothing(script, processes, port, message):
    status, error = run(script, processes, PORT=port)
    assert status == 1 and error.startswith('error: ') and message in error and error.count('\n') == 1


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_a_port_in_use(script):
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, error = run(script, '2', PORT=port)
    assert (
        status == 1
        and error == f'error: port {port} cannot be opened, another run may be using it: set PORT to a free one\n'
    )


@pytest.mark.parametrize(
    'script, environment, opens',
    [
        ('dist_train.sh', {}, True),
        # torchrun gets it with restarts or a range of machines alone
        ('dist_train.sh', dict(RDZV_ENDPOINT='elsewhere:29400'), True),
        ('dist_test.sh', dict(RDZV_ENDPOINT='elsewhere:29400'), True),
        ('dist_train.sh', dict(RDZV_ENDPOINT='elsewhere:29400', MAX_RESTARTS='1'), False),
        ('dist_train.sh', dict(RDZV_ENDPOINT='elsewhere:29400', NNODES='2:4'), False),
        ('dist_train.sh', dict(MAX_RESTARTS='1'), True),
    ],
)
def test_a_port_that_is_not_used(tmp_path, script, environment, opens):
    """Machines that meet at RDZV_ENDPOINT do not open PORT."""
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\n[ "$1" != -c ] && exit 3\nexit 1\n')  # no port can be opened, torchrun ends with 3
    python.chmod(0o755)
    before = [__file__] if script == 'dist_train.sh' else [__file__, 'nowhere.pth']
    environment = dict(os.environ, PYTHON=str(python), **environment)
    assert subprocess.run(['bash', TOOLS / script, *before, '2'], env=environment).returncode == (1 if opens else 3)


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_a_config_that_does_not_exist(script):
    assert run(script, '2', config='nowhere.py') == (1, "error: config 'nowhere.py' does not exist: check the path\n")
