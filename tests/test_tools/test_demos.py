"""What the demos share; the demos themselves train for minutes and run by hand."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'tools' / 'demo'
DEMOS = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != 'common')


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield runpy.run_path(str(FOLDER / 'common.py'), run_name='common')
    sys.modules.pop('common', None)


@pytest.mark.parametrize('name', DEMOS)
def test_no_demo_imports_another(name):
    tree = ast.parse((FOLDER / f'{name}.py').read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert 'common' in imported and not imported & set(DEMOS)


@pytest.mark.parametrize('name', DEMOS)
def test_every_demo_says_what_it_does(common, monkeypatch, capsys, name):
    """Its imports and names are there, and --help is its docstring's first line."""
    for module in {'detection': ['pycocotools']}.get(name, []):
        pytest.importorskip(module)
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', '--help'])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(FOLDER / f'{name}.py'), run_name='__main__')
    assert stopped.value.code == 0 and '--work-dir' in capsys.readouterr().out


def test_output_goes_to_the_log_and_what_matters_to_the_terminal(common, tmp_path, capsys):
    script = tmp_path / 'tool.py'
    script.write_text('print("2026 - mmengine - INFO - Epoch(val) 1")\nprint("chatter")\n')
    common['run']([script], tmp_path / 'new' / 'tool.log', r'Epoch\(val\)')
    assert capsys.readouterr().out.splitlines() == [f'    {script}', '    Epoch(val) 1']
    assert 'chatter' in (tmp_path / 'new' / 'tool.log').read_text()


def test_a_failed_step_ends_the_demo_with_the_end_of_its_log(common, tmp_path):
    script = tmp_path / 'tool.py'
    script.write_text('for i in range(30): print(f"line {i}")\nraise SystemExit("no data")\n')
    with pytest.raises(SystemExit) as stopped:
        common['run']([script], tmp_path / 'tool.log', 'x')
    message = str(stopped.value.code)
    assert message.startswith('ERROR: ') and 'line 29' in message and 'line 5\n' not in message


def test_checkpoint_of_a_training_is_named_from_the_folder_one_is_in(common, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_5.pth\n')
    assert common['last_checkpoint'](tmp_path) == Path('epoch_5.pth')
