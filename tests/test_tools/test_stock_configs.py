"""Our backbones in configs that the libraries ship: a few of them, or all; in the nightly run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools/dev/stock_configs.py'


@pytest.fixture
def libraries():
    for library in ('mmpretrain', 'mmdet', 'mmseg'):
        pytest.importorskip(library)
    pytest.importorskip('mmcv.ops')


def try_configs(*options):
    env = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, options)], env=env, capture_output=True, text=True, cwd=TOOL.parents[2]
    )


def load_cases():
    spec = importlib.util.spec_from_file_location('stock_cases', TOOL.with_name('stock_cases.py'))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.CASES


@pytest.mark.nightly
@pytest.mark.parametrize('library', ['mmseg', 'mmpretrain', 'mmdet'])
def test_the_fast_subset_trains_and_predicts(libraries, tmp_path, library):
    """RetinaNet and PSPNet leave outputs out, which only two processes notice; DPT takes the class token."""
    out = tmp_path / 'table.md'
    done = try_configs('--fast', '--library', library, '--processes', 2, '--out', out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = [line for line in out.read_text().splitlines() if line.startswith('| ') and '.py |' in line]
    assert len(rows) == sum(case.fast and case.library == library for case in load_cases()) > 0
    assert all('| works |' in row for row in rows), rows


@pytest.mark.nightly
def test_a_config_that_fails_is_a_failure(libraries, tmp_path):
    """A RetinaNet whose backbone has other widths than its neck expects."""
    broken = tmp_path / 'dev'
    broken.mkdir()
    for name in ('stock_configs.py', 'stock_cases.py'):
        text = TOOL.with_name(name).read_text().replace('R50 = (256, 512, 1024, 2048)', 'R50 = (32, 64, 96, 128)')
        (broken / name).write_text(text)
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(TOOL.parents[2]), os.environ.get('PYTHONPATH', '')]))
    done = subprocess.run(
        [sys.executable, str(broken / 'stock_configs.py'), '--library', 'mmdet', '--only', 'retinanet_r50_fpn_1x'],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert '1 configs tried, 0 work, 1 fail' in done.stdout, done.stdout + done.stderr


def test_the_matrix_is_wide():
    cases = load_cases()
    assert len(cases) == len({(case.library, case.path, case.backbone['type']) for case in cases}) >= 60
    assert sum(case.library != 'mmpretrain' for case in cases) == 84


@pytest.mark.nightly
@pytest.mark.parametrize('library', ['mmpretrain', 'mmdet', 'mmseg'])
def test_all_stock_configs_train_and_predict(libraries, library):
    done = try_configs('--library', library, '--processes', 1 if library == 'mmpretrain' else 2, '--timeout', 900)
    assert done.returncode == 0, '\n'.join(line for line in done.stdout.splitlines() if not line.startswith('works'))
