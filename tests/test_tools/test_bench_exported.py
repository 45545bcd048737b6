"""benchmarks/exported.py and benchmarks/runtimes.py with tiny models."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


def rows_of(folder, script, *options):
    for package in ('onnx', 'onnxruntime', 'openvino'):
        pytest.importorskip(package)
    file = folder / 'rows.csv'
    command = [sys.executable, f'{script}.py', '--out', file, *options]
    subprocess.run(list(map(str, command)), cwd=BENCHMARKS, check=True, capture_output=True)
    return list(csv.DictReader(file.open()))


@pytest.mark.nightly
def test_a_file_is_compared_at_every_size(tmp_path):
    rows = rows_of(tmp_path, 'exported', '--models', 'tiny plain', '--largest', 256)
    assert [row['contender'] for row in rows] == ['ONNX Runtime', 'OpenVINO f32']
    assert all(0 < float(row['largest_difference']) < 1e-5 for row in rows)
    assert all(int(row['nodes']) > 0 and row['branches_and_loops'] == row['complex_tensors'] == '0' for row in rows)


@pytest.mark.nightly
def test_every_runtime_is_measured_beside_timm(tmp_path):
    pytest.importorskip('timm')
    rows = rows_of(tmp_path, 'runtimes', '--cases', 'plain tiny 224 batch 1', '--rounds', 1)
    ours = [row for row in rows if row['case'] == 'plain tiny 224 batch 1']
    assert {row['contender'] for row in ours} >= {
        'eager',
        'compiled',
        'ONNX Runtime',
        'OpenVINO f32',
        'ONNX Runtime, 8 bits',
        'OpenVINO, 8 bits',
    }
    assert all(float(row['median_s']) > 0 for row in rows)
    size = {row['contender']: float(row['mib']) for row in ours if row['mib']}
    assert size['ONNX Runtime, 8 bits'] < size['ONNX Runtime']
    against = {row['case'] for row in rows} - {'plain tiny 224 batch 1'}
    assert {'plain tiny 224 batch 1, eager', 'plain tiny 224 batch 1, OpenVINO f32'} <= against
