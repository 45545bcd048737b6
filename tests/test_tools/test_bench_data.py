"""benchmarks/data.py at a tiny size."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


def test_every_part_of_a_pipeline_is_measured(tmp_path):
    pytest.importorskip('mmpretrain')
    command = [
        sys.executable,
        'data.py',
        '--count',
        '1',
        '--rounds',
        '1',
        '--cases',
        'MAE',
        '--out',
        tmp_path / 'a.csv',
    ]
    subprocess.run(command, cwd=BENCHMARKS, check=True, capture_output=True)
    rows = {row['contender']: row for row in csv.DictReader((tmp_path / 'a.csv').open())}
    assert {'whole pipeline', 'to LoadImageFromFile', 'decoded with pillow', 'resized with cv2'} <= set(rows)
    assert all(int(row['images_per_second']) > 0 for row in rows.values())
