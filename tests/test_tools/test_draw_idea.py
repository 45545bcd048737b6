"""tools/visualization/draw_idea.py: the figure of the README."""

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip('matplotlib')
Image = pytest.importorskip('PIL.Image')
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools' / 'visualization' / 'draw_idea.py'


def test_the_figure_is_drawn_in_any_folder(tmp_path, monkeypatch):
    """By default where the README looks for it, twice as wide as shown there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['draw_idea.py'])
    runpy.run_path(str(SCRIPT), run_name='__main__')
    with Image.open(tmp_path / 'docs' / 'figures' / 'visionllama.png') as image:
        assert image.size == (1800, 900)
        drawn = {colour for count, colour in image.convert('RGB').getcolors(maxcolors=1 << 20) if count > 500}
    tool = runpy.run_path(str(SCRIPT), run_name='tool')
    colours = {tuple(bytes.fromhex(colour[1:])) for _, colour in tool['IMAGES']}
    assert colours <= drawn, 'tokens of every image'


def test_tokens_are_drawn_where_the_layers_place_them(monkeypatch):
    """160 x 352: columns 14/22 apart, rows 14/10, all on the anchor's 14 x 14 grid."""
    import matplotlib.pyplot as plt

    tool = runpy.run_path(str(SCRIPT), run_name='tool')
    figure, ax = plt.subplots()
    tool['draw_positions'](ax, (160, 352), 'black')
    x, y = ax.collections[-1].get_offsets().T
    plt.close(figure)
    assert sorted(set(x.round(4))) == [round(14 / 22 * i, 4) for i in range(22)]
    assert sorted(set(y.round(4))) == [round(14 / 10 * i, 4) for i in range(10)]


def test_the_ending_chooses_the_format(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['draw_idea.py', '--out', str(tmp_path / 'new' / 'idea.svg')])
    runpy.run_path(str(SCRIPT), run_name='__main__')
    assert '<svg' in (tmp_path / 'new' / 'idea.svg').read_text()
