"""The notebooks: their cells run in order, and the outputs kept in the files are whole.

Their cells are plain Python, so no Jupyter is needed here. New outputs: ``jupyter nbconvert --to notebook --execute
--inplace notebooks/any_resolution.ipynb``.
"""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip('sklearn')
NOTEBOOK = Path(__file__).parents[1] / 'notebooks' / 'any_resolution.ipynb'


def code_cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text())['cells'] if cell['cell_type'] == 'code']


def table_of(text):
    """Accuracies by the name of the model."""
    rows = re.findall(r'^(AS2DRoPE|2D RoPE, unscaled) +([\d.]+) +([\d.]+) +([\d.]+)$', text, flags=re.M)
    return {name: [float(value) for value in values] for name, *values in rows}


@pytest.mark.nightly  # a training
def test_the_notebook_runs_and_scaling_pays(monkeypatch, capsys):
    """A shorter training than the one kept in the file."""
    plt = pytest.importorskip('matplotlib.pyplot')
    plt.switch_backend('Agg')
    monkeypatch.setenv('NOTEBOOK_EPOCHS', '5')
    names = {'__name__': '__main__'}
    for cell in code_cells():
        exec(compile(''.join(cell['source']), str(NOTEBOOK), 'exec'), names)
    assert len(names['figure'].axes) == 30
    plt.close('all')
    table = table_of(capsys.readouterr().out)
    scaled, unscaled = table['AS2DRoPE'], table['2D RoPE, unscaled']
    assert scaled[0] == unscaled[0] > 70, 'one model at the size it was trained at'
    assert all(a > b + 20 for a, b in zip(scaled[1:], unscaled[1:])), table


def test_the_outputs_in_the_file_are_those_of_one_run():
    cells = code_cells()
    assert [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell['outputs']]
    assert {output['output_type'] for output in outputs} <= {'stream', 'execute_result', 'display_data'}
    assert all(output.get('name') != 'stderr' for output in outputs), 'warnings'
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 1
    printed = ''.join(''.join(output.get('text', '')) for output in outputs)
    assert min(table_of(printed)['AS2DRoPE']) > 90 > 50 > max(table_of(printed)['2D RoPE, unscaled'][1:])


def test_the_file_names_no_folder_of_the_machine_it_was_run_on():
    assert not re.search(r'(?<![\w.:/])/(root|home|Users|tmp|work|usr|opt)/', NOTEBOOK.read_text())
