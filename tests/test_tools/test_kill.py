"""Trainings that are killed and resumed end with the weights of one that was left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the script forks')
@pytest.mark.parametrize(
    'options',
    [('--processes=1',), pytest.param(('--processes=2', '--parts'), marks=pytest.mark.nightly)],
    ids=['one process', 'parts of two'],
)
def test_three_kills(options):
    """SIGKILL, SIGTERM, and SIGKILL while a checkpoint is written; by epoch, in the middle of one."""
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'dev' / 'kill_test.py'), '--kills=3', '--by=epoch', *options],
        env=dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(': resumed') == 3
