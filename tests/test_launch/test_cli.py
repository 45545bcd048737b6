"""Options and endings of the command-line tools."""

import argparse
import os
import re
import runpy
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from urllib.error import URLError

import pytest
from mmengine.registry import Registry
from torch import distributed

from mmvisionllama import launch
from mmvisionllama.errors import DataError, MissingExtraError, OptionError
from mmvisionllama.launch.cli import PLACES, TRACEBACK


def options(*items):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=launch.CfgOptions)
    return parser.parse_args(['--cfg-options', *items]).cfg_options


@pytest.mark.parametrize(
    'item, value',
    [
        ("a.b='/data/my pictures'", '/data/my pictures'),
        ('a.b=/data/ü x', '/data/ü x'),
        ('a.b=[1, 2]', [1, 2]),
        ('a.b=(1, (2, x))', (1, (2, 'x'))),
        ('a.b=1,2', [1, 2]),
        ('a.b=1e-3', 1e-3),
        ('a.b=x=y', 'x=y'),
        ('a.b=None', None),
        ('a.b={:05d}.png', '{:05d}.png'),
    ],
)
def test_values_of_cfg_options(item, value):
    """Spaces of a path survive; everything else is read as mmengine reads it."""
    assert options(item) == {'a.b': value}


@pytest.mark.parametrize('item', ['foo', '=3', 'a=[1,2', 'compile=dict(backend=eager)', "compile={'backend': 'eager'}"])
def test_cfg_options_that_cannot_be_read(item, capsys):
    with pytest.raises(SystemExit) as stop:
        options(item)
    assert stop.value.code == 2 and 'error: --cfg-options: ' in capsys.readouterr().err


TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.mark.parametrize(
    'tool',
    ['generation/encode_latents', 'generation/evaluate', 'generation/sample', 'visualization/mae_reconstruction'],
)
def test_help_gives_each_option_one_default(tool, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', [tool, '--help'])
    monkeypatch.setenv('COLUMNS', '1000')
    with pytest.raises(SystemExit):
        runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='tool')['parse_args']()
    text = capsys.readouterr().out
    assert (
        '(default: cuda if there is one)' in text and '(default: None)' not in text and '(default: False)' not in text
    )
    assert all(line.count('default: ') < 2 for line in text.splitlines())
    assert re.search(r'\(default: \d+\)', text)


@pytest.mark.parametrize('status', [None, 0, 1])
def test_what_a_tool_returns_is_its_exit_status(status):
    assert launch.run_cli(lambda: status) is status


def test_missing_operators_are_no_package():
    """``pip install mmcv._ext`` finds nothing."""
    error = ModuleNotFoundError("No module named 'mmcv._ext'", name='mmcv._ext')
    assert launch.explain(error).startswith("mmcv._ext is not installed: 'python -m mmvisionllama.doctor' says how")
    assert launch.explain(ModuleNotFoundError(name='other.part')) == 'other.part is not installed: pip install other'


def test_a_download_that_fails_is_one_line():
    assert launch.explain(URLError('no route')) == (
        'a download failed (no route): put the files there by hand, or say where they are (data_root)'
    )


def raiser(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    'error, line',
    [
        (OptionError('anchor must be positive'), 'anchor must be positive'),
        (MissingExtraError('install it'), 'install it'),
        (DataError('Caught DataError in worker\nmmvisionllama.errors.DataError: picture x'), 'picture x'),
        (OSError(30, 'Read-only file system', '/x/y'), "'/x/y' cannot be used (Read-only file system): check the path"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(error, line, capsys):
    with pytest.raises(SystemExit) as stop:
        launch.run_cli(raiser(error))
    message = capsys.readouterr().err
    assert stop.value.code == 1 and message.startswith(f'error: {line}') and message.count('\n') == 1


@pytest.mark.parametrize(
    'error',
    [
        ValueError('need at least one array to concatenate'),
        AssertionError('failed to load image: x'),
        ImportError("pip install 'mmvisionllama[x]'"),
        KeyError('x'),
        OSError('no file'),
    ],
    ids=repr,
)
def test_errors_are_told_by_their_type_not_by_their_words(error):
    with pytest.raises(type(error)):
        launch.run_cli(raiser(error))


@pytest.mark.parametrize(
    'environment, speaks',
    [
        (dict(RANK='0', LOCAL_RANK='0'), 'error: '),
        (dict(RANK='3', LOCAL_RANK='1'), None),
        (dict(RANK='2', LOCAL_RANK='0'), 'error on far: '),
        (dict(RANK='2', LOCAL_RANK='1', SLURM_PROCID='1', SLURM_LOCALID='0'), None),  # torchrun under srun
        (dict(SLURM_PROCID='0', SLURM_LOCALID='0'), 'error: '),
        (dict(SLURM_PROCID='3', SLURM_LOCALID='1'), None),
        (dict(SLURM_PROCID='2', SLURM_LOCALID='0'), 'error on far: '),
        (dict(OMPI_COMM_WORLD_RANK='1', OMPI_COMM_WORLD_LOCAL_RANK='1'), None),
        (dict(RANK='1'), None),
        (dict(), 'error: '),
    ],
    ids=str,
)
def test_the_first_process_of_each_machine_speaks(environment, speaks, monkeypatch, capsys):
    """A folder can be missing on one of them alone."""
    for key in chain(*PLACES):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr('socket.gethostname', lambda: 'far')
    monkeypatch.setattr('sys.argv', ['train.py', 'config.py', '--launcher', 'any'])

    def main():
        monkeypatch.setenv('LOCAL_RANK', os.environ.get('LOCAL_RANK', '0'))  # as tools do
        raise OptionError('no data')

    with pytest.raises(SystemExit, match='1'):
        launch.run_cli(main)
    assert capsys.readouterr().err == (f'{speaks}no data\n' if speaks else '')


@pytest.mark.parametrize('options', [[], ['--launcher', 'none'], ['--launch=none', '--amp']])
@pytest.mark.parametrize('rank', ['SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'])
def test_every_run_of_a_sweep_speaks(rank, options, monkeypatch, capsys):
    """Tasks of srun and mpirun that no launcher joins."""
    for key in chain(*PLACES):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv(rank, '3')
    monkeypatch.setattr('sys.argv', ['train.py', 'config.py', *options])
    with pytest.raises(SystemExit):
        launch.run_cli(raiser(OptionError('no data')))
    assert capsys.readouterr().err == 'error: no data\n'


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setitem(os.environ, TRACEBACK, '1')
    with pytest.raises(OptionError):
        launch.run_cli(raiser(OptionError('x')))


THINGS = Registry('thing')


@THINGS.register_module()
class Thing:
    def __init__(self, size, deep=False):
        if deep:
            self.fail()
        if size < 0:
            raise ValueError('size is negative')

    def fail(self):
        raise ValueError('a fault of the code')


@pytest.mark.parametrize(
    'cfg, line',
    [
        (dict(type='Thng'), "the config asks for 'Thng', which is not registered (similar: Thing): check its spelling"),
        (dict(type='THING', size=1), "the config asks for 'THING', which is not registered (similar: Thing)"),
        (dict(type='Other'), "the config asks for 'Other', which is not registered: check its spelling"),
        (dict(size=1), "a part of the config has no type: {'size': 1}"),
        (dict(type='Thing', width=1), 'Thing of the config cannot be made: Thing.__init__() got an unexpected keyword'),
        (dict(type='Thing'), 'Thing of the config cannot be made: Thing.__init__() missing 1 required positional'),
        (dict(type='Thing', size=-1), 'Thing of the config cannot be made: size is negative'),
    ],
    ids=str,
)
def test_what_a_config_cannot_build(cfg, line, capsys):
    with pytest.raises(SystemExit):
        launch.run_cli(lambda: THINGS.build(cfg))
    message = capsys.readouterr().err
    assert message.startswith(f'error: {line}') and message.count('\n') == 1


def test_faults_of_the_code_keep_their_traceback():
    with pytest.raises(ValueError, match='a fault of the code'):
        launch.run_cli(lambda: THINGS.build(dict(type='Thing', size=1, deep=True)))


@pytest.mark.parametrize('status', [None, 75])
def test_leaves_the_process_group(status, tmp_path):
    def main():
        distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
        if status is not None:
            raise SystemExit(status)

    with nullcontext() if status is None else pytest.raises(SystemExit, match='75'):
        launch.run_cli(main)
    assert not distributed.is_initialized()
