"""tools/visualization/resolutions.py: photographs at several resolutions, classified."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from mmvisionllama.errors import LaunchError

pytest.importorskip('matplotlib')
pytest.importorskip('mmpretrain')
Image = pytest.importorskip('PIL.Image')
SCRIPT = Path(__file__).parents[2] / 'tools' / 'visualization' / 'resolutions.py'


def test_a_row_for_a_picture_and_a_column_for_a_size(tmp_path, capsys):
    for name in ('a', 'b'):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8)).save(tmp_path / f'{name}.png')
    out = tmp_path / 'new' / 'figure.png'
    main = runpy.run_path(str(SCRIPT))['main']
    main(
        [
            'vision_llama_digits',
            str(tmp_path / 'a.png'),
            str(tmp_path / 'b.png'),
            '--sizes',
            '24',
            '32',
            '48',
            '--out',
            str(out),
        ]
    )
    found = [re.fullmatch(r'.*([ab])\.png at (\d+): \d (\d+) %', line) for line in capsys.readouterr().out.splitlines()]
    found = [match.groups() for match in found if match]
    assert [match[:2] for match in found] == [(name, size) for name in 'ab' for size in ('24', '32', '48')]
    assert all(10 <= int(percent) <= 100 for *_, percent in found), 'the best of ten classes'
    with Image.open(out) as figure:
        assert figure.width / figure.height == pytest.approx(3 * 2.6 / (2 * 2.9), abs=0.01)


def test_a_wrong_ending_is_refused_before_any_work(tmp_path):
    Image.new('RGB', (32, 32)).save(tmp_path / 'a.png')
    args = ['vision_llama_digits', str(tmp_path / 'a.png'), '--sizes', '24', '--out', str(tmp_path / 'x.foo')]
    with pytest.raises(LaunchError, match='expected a name that ends with'):
        runpy.run_path(str(SCRIPT))['main'](args)
