"""What tools/setup/environment.sh installs as mmcv, with an interpreter that notes pip's arguments."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# everything is there but mmcv, whose operators import once their wheel was installed
PYTHON = """#!/bin/sh
case "$*" in
*"-m pip wheel"*)
    echo "wheel for ${{CUDA_VISIBLE_DEVICES-all}}" >>"{log}"
    while [ "$1" != -w ]; do shift; done
    touch "$2/mmcv.whl" ;;
*"-m pip"*) echo "$*" >>"{log}" ;;
*"import mmcv.ops"*) grep -q "[.]whl" "{log}" ;;
*"import mmcv"*) exit 1 ;;
*"%d%d"*) echo 311 ;;
*find_spec*) echo "{root}/mmvisionllama/__init__.py" ;;
esac
"""


@pytest.mark.parametrize(
    'line, stage, expected',
    [
        ('onedl', 'demo', ['install --no-cache-dir --no-deps -r requirements/mmcv.txt']),
        ('onedl', 'segmentation', ['install --no-cache-dir --no-deps -r requirements/mmcv.txt']),
        ('onedl', 'test', ['install --force-reinstall --no-deps mmcv.whl']),
        # the archive of mmcv 2.1.0 compiles next to torch, or fails in an isolated build
        ('openmmlab', 'demo', ['install --no-deps mmcv-lite==2.1.0']),
        ('openmmlab', 'generation', ['install --no-deps mmcv-lite==2.1.0']),
        # mmseg 1.2.2 imports mmcv.ops
        ('openmmlab', 'segmentation', ['uninstall --yes mmcv-lite', 'install --force-reinstall --no-deps mmcv.whl']),
        ('openmmlab', 'test', ['uninstall --yes mmcv-lite', 'install --force-reinstall --no-deps mmcv.whl']),
        ('latest', 'test', ['install --no-cache-dir --no-deps -r requirements/latest/mmcv.txt']),
    ],
)
def test_mmcv_fits_line_and_stage(tmp_path, line, stage, expected):
    log, stub = tmp_path / 'log', tmp_path / 'venv/bin/python'
    stub.parent.mkdir(parents=True)
    stub.write_text(PYTHON.format(log=log, root=ROOT))
    stub.chmod(0o755)
    for pin in ('onedl-mmcv==2.3.6-torch2.11.0', 'mmcv==2.1.0-torch2.5.1'):
        wheel = tmp_path / 'wheels' / f'{pin}-py311' / 'mmcv.whl'
        wheel.parent.mkdir(parents=True)
        wheel.touch()
    names = {'LINE': line, 'VENV': str(tmp_path / 'venv'), 'WHEELS': str(tmp_path / 'wheels'), 'PYTHON': sys.executable}
    subprocess.run([ROOT / 'tools/setup/environment.sh', stage], env={**os.environ, **names}, check=True, stdout=-3)
    calls = [call for call in log.read_text().splitlines() if 'mmcv' in call.replace(str(ROOT), '')]
    for option in ('-m pip ', '--disable-pip-version-check ', '--quiet ', '--progress-bar off '):
        calls = [call.replace(option, '') for call in calls]
    assert [
        ' '.join(word.split('/')[-1] if word.endswith('.whl') else word for word in c.split()) for c in calls
    ] == expected


def setup(tmp_path, stage, **names):
    """Calls the script with the environment in ``tmp_path``."""
    names = {'LINE': 'onedl', 'VENV': tmp_path / 'venv', 'WHEELS': tmp_path / 'wheels', **names}
    env = {**os.environ, **{name: str(value) for name, value in names.items()}}
    script = names.pop('SCRIPT', ROOT) / 'tools/setup/environment.sh'
    return subprocess.run([script, stage], env=env, capture_output=True, text=True)


def test_an_environment_without_pip_is_made_again(tmp_path):
    """Debian without python3-venv leaves an interpreter behind; nothing in the folder is removed."""
    log, broken, right = tmp_path / 'log', tmp_path / 'broken', tmp_path / 'right'
    venv = tmp_path / 'venv'
    broken.write_text(f'#!/bin/sh\n[ "$2" != venv ] || {{ mkdir -p {venv}/bin; touch {venv}/pyvenv.cfg; exit 1; }}\n')
    stub = PYTHON.format(log=log, root=ROOT)
    made = f'echo "$*" >>{log}; mkdir -p {venv}/bin; cp {tmp_path}/stub {venv}/bin/python'
    right.write_text(f'#!/bin/sh\n[ "$2" != venv ] || {{ {made}; }}\n')
    (tmp_path / 'stub').write_text(stub)
    for path in (broken, right, tmp_path / 'stub'):
        path.chmod(0o755)
    first = setup(tmp_path, 'demo', PYTHON=broken)
    assert first.returncode == 1 and 'apt-get install python3-venv' in first.stderr
    second = setup(tmp_path, 'demo', PYTHON=right)
    assert second.returncode == 0, second.stderr
    assert log.read_text().splitlines()[0] == f'-m venv {tmp_path}/venv' and (venv / 'pyvenv.cfg').exists()


def test_what_a_list_has_installed_is_known_only_until_another_was(tmp_path):
    """A list that comes back is installed again, and so is mmcv when its version changes."""
    log, stub, copy = tmp_path / 'log', tmp_path / 'venv/bin/python', tmp_path / 'copy'
    for folder in ('tools/setup', 'requirements'):
        shutil.copytree(ROOT / folder, copy / folder)
    stub.parent.mkdir(parents=True)
    text = PYTHON.format(log=log, root=copy).replace(
        '*"import mmcv"*) exit 1', f'*"import mmcv"*) grep -q "$(cat {copy}/requirements/mmcv.txt)" "{log}"'
    )
    stub.write_text(text)
    stub.chmod(0o755)
    lists = copy / 'requirements'

    def installed():
        log.write_text(log.read_text() if log.exists() else '')
        before = len(log.read_text().splitlines())
        result = setup(tmp_path, 'test', SCRIPT=copy, PYTHON=sys.executable)
        assert result.returncode == 0, result.stderr
        return ' '.join(log.read_text().splitlines()[before:])

    for pin in ('onedl-mmcv==2.3.6', 'onedl-mmcv==2.3.7'):
        wheel = tmp_path / 'wheels' / f'{pin}-torch2.11.0-py311' / f'{pin}.whl'
        wheel.parent.mkdir(parents=True)
        wheel.touch()
    assert '-r requirements/demo.txt' in installed()
    assert '-r ' not in installed()
    old = (lists / 'demo.txt').read_text()
    for text in (old + '# more\n', old):
        (lists / 'demo.txt').write_text(text)
        assert '-r requirements/demo.txt' in installed()
    assert 'whl' not in installed()
    (lists / 'mmcv.txt').write_text('onedl-mmcv==2.3.7\n')
    assert 'onedl-mmcv==2.3.7.whl' in installed()


@pytest.mark.skipif(shutil.which('nvcc', path='/usr/bin:/bin') is not None, reason='takes a path without nvcc')
@pytest.mark.parametrize('with_nvcc', [False, True])
def test_operators_are_compiled_for_what_there_are_compilers(tmp_path, with_nvcc):
    """Where mmcv sees a GPU it asks for CUDA's compiler, which torch's packages do not bring."""
    log, stub, nvcc = tmp_path / 'log', tmp_path / 'venv/bin/python', tmp_path / 'cuda/bin/nvcc'
    for path in (stub, nvcc, tmp_path / 'bin/g++'):
        path.parent.mkdir(parents=True)
        path.write_text(PYTHON.format(log=log, root=ROOT))
        path.chmod(0o755)
    if not with_nvcc:
        nvcc.unlink()
    env = dict(os.environ, VENV=str(tmp_path / 'venv'), WHEELS=str(tmp_path / 'wheels'), PYTHON=sys.executable)
    env.update(
        PATH=f'{tmp_path / "bin"}:/usr/bin:/bin',
        LINE='onedl',
        CUDA_HOME=str(tmp_path / 'cuda'),
        CUDA_VISIBLE_DEVICES='3',
    )
    subprocess.run([ROOT / 'tools/setup/environment.sh', 'test'], env=env, check=True, stdout=-3)
    (seen,) = (line for line in log.read_text().splitlines() if line.startswith('wheel for'))
    assert seen == ('wheel for 3' if with_nvcc else 'wheel for ')
