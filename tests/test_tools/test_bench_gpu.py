"""``make bench-gpu`` at toy sizes, so that it works when a card is there."""

import csv
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('timm')
pytest.importorskip('mmpretrain')
ROOT = Path(__file__).parents[2]


@pytest.mark.nightly  # a minute
def test_every_case_has_rows(tmp_path):
    auto = tmp_path / 'auto.csv'
    auto.write_text(
        (ROOT / 'mmvisionllama' / 'layers' / 'attention_table.csv').read_text() + '0.0,bfloat16,64,49,0,old\n'
    )
    command = [sys.executable, ROOT / 'benchmarks' / 'gpu.py', '--tiny', '--device', 'cpu', '--out', tmp_path]
    command += ['--table', auto]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ, OMP_NUM_THREADS='1')
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / 'gpu_cpu.csv') as file:
        rows = list(csv.DictReader(file))
    sys.path.insert(0, str(ROOT / 'benchmarks'))
    try:
        from gpu import SHAPES
        from gpu_cases import cases
    finally:
        sys.path.pop(0)
    titles = {row['case'] for row in rows}
    for case in cases():
        for work in case.works:
            end = f'{work}, compiled' if case.compiled else work
            (title,) = {title for title in titles if title.startswith(f'{case.name} ') and title.endswith(end)}
            names = [row['contender'] for row in rows if row['case'] == title]
            assert set(names) >= set(case.contenders)
    attention = [row for row in rows if row['case'].startswith('attention')]
    assert len(attention) >= 2 * 2 * len(SHAPES)
    chosen = auto.read_text().splitlines()
    assert chosen[1].startswith('9.0,') and not any(line.endswith('old') for line in chosen)
    assert sum(line.startswith('0.0,bfloat16,') for line in chosen) == 2 * len(SHAPES)
    models = [row for row in rows if row['case'] != 'peaks' and row not in attention]
    assert all(row['peak_fraction'] and row['peak_mib'] for row in models)
    table = (tmp_path / 'gpu_cpu.md').read_text()
    assert 'Not measured' not in table and table.count('\n| ') >= len(rows)


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    return importlib.import_module


def test_a_part_keeps_the_other_rows(benchmark, tmp_path):
    device = torch.device('cpu')
    first, second = (dict(case=case, contender='a', median_s='1', ratio='1') for case in ('plain', 'attention'))
    first.update(torch='2', date='today', command='all', ratio_low='1', ratio_high='1')
    second.update(first, case='attention')
    report = benchmark('gpu').Report(tmp_path, device)
    report.add([first])
    report.add([second])
    report = benchmark('gpu').Report(tmp_path, device)
    for contender in 'ab':  # a case may come in several parts
        report.add([dict(first, contender=contender, median_s='2', command='part')])
    with open(tmp_path / 'gpu_cpu.csv') as file:
        found = [(row['case'], row['contender'], row['median_s']) for row in csv.DictReader(file)]
    assert found == [('attention', 'a', '1'), ('plain', 'a', '2'), ('plain', 'b', '2')]
    table = (tmp_path / 'gpu_cpu.md').read_text()
    assert 'Command: `all`' in table and 'Command: `part`' in table


def test_a_run_cut_short_leaves_its_table(benchmark, tmp_path, monkeypatch):
    gpu, table = benchmark('gpu'), tmp_path / 'auto.csv'
    measured = []

    def run_attention(shape, report, args, device):
        if measured:
            raise KeyboardInterrupt
        measured.append(shape)
        report.fastest[shape[2], shape[0], True] = 'sdpa'

    monkeypatch.setattr(gpu, 'run_attention', run_attention)
    argv = ['gpu.py', '--tiny', '--device=cpu', f'--out={tmp_path}', f'--table={table}', '--cases', 'attention']
    monkeypatch.setattr(sys, 'argv', argv)
    with pytest.raises(KeyboardInterrupt):
        gpu.main()
    assert table.read_text().splitlines()[1:] == ['0.0,bfloat16,64,49,1,sdpa']


def test_compiled_cases_begin_while_there_is_time_to_compile(benchmark, tmp_path, monkeypatch):
    gpu, begun = benchmark('gpu'), []
    monkeypatch.setattr(gpu, 'run_case', lambda case, *_: begun.append(case))
    argv = ['gpu.py', '--tiny', '--device=cpu', f'--out={tmp_path}', '--cases', 'plain B', f'--budget={gpu.COMPILING}']
    monkeypatch.setattr(sys, 'argv', argv)
    gpu.main()
    assert begun and not any(case.compiled for case in begun)
    assert 'the time was up: plain B compiled' in (tmp_path / 'gpu_cpu.md').read_text()


def test_short_times_keep_their_digits(benchmark):
    (row,) = benchmark('harness').compare('', {'a': lambda: None}, rounds=3)
    assert 0 < float(row['median_s']) < 1e-4


def test_a_gpus_rows_have_a_file_of_their_own(benchmark):
    harness = benchmark('harness')
    parser = harness.arguments('', 'plain', gpu=True)
    for options, name in (([], 'plain_cpu.csv'), (['--device', 'cuda'], 'plain_cuda.csv'), (['--out', 'a'], 'a')):
        assert harness.results_of(parser.parse_args(options)).name == name
    with pytest.raises(SystemExit):
        harness.arguments('', 'pyramid').parse_args(['--device', 'cuda'])


def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, ROOT / 'benchmarks' / 'gpu.py', '--out', tmp_path]
    env = dict(os.environ, CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith('error: no GPU')
