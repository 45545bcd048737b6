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


def test_a_port_that_is_not_used():
    """Machines that meet at RDZV_ENDPOINT do not open PORT."""
    command = f'. {TOOLS}/setup/check_processes.sh; check_processes 2 $PORT {__file__}'
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        environment = dict(os.environ, PYTHON=sys.executable, PORT=str(taken.getsockname()[1]))
        assert subprocess.run(['bash', '-c', command], env=environment).returncode == 1
        environment['RDZV_ENDPOINT'] = 'elsewhere:29400'
        assert subprocess.run(['bash', '-c', command], env=environment).returncode == 0


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_a_config_that_does_not_exist(script):
    assert run(script, '2', config='nowhere.py') == (1, "error: config 'nowhere.py' does not exist: check the path\n")
