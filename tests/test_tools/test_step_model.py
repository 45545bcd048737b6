"""The arithmetic of memory per GPU and of predicted steps."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    pytest.importorskip('mmpretrain')
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'dev'))
    monkeypatch.chdir(ROOT)
    return importlib.import_module('step_model')


def test_ring(tool):
    """Simulated: n - 1 rounds that reduce and n - 1 that gather, each sends an n-th of the bytes."""
    for processes in (2, 3, 8, 64):
        rounds = sum(1e9 / processes / 1e8 for _ in range(2 * (processes - 1)))
        assert tool.ring_seconds(1e9, processes, 1e8) == pytest.approx(rounds)
    assert tool.ring_seconds(1e9, 1, 1e8) == 0


def test_bounds(tool):
    assert tool.bounds(3.0, 1.0) == (3.0, 4.0) and tool.bounds(1.0, 3.0) == (3.0, 4.0)


def test_the_document_has_what_the_tool_prints(tool):
    text = (ROOT / 'docs' / 'scaling.md').read_text()
    lines = list(tool.table())
    assert len(lines) == 2 + 3 * 3
    assert '\n'.join(lines) in text


def test_the_document_has_what_a_block_keeps(tool):
    """Measured, so that it changes with the kernels."""
    pytest.importorskip('mmdet')
    text = (ROOT / 'docs' / 'scaling.md').read_text()
    kept, _, *tables = importlib.import_module('scaling_model').lines()
    large, dit = re.findall(r'[\d.]+ C', kept)
    assert f'{large} numbers per token for a block of `large` and {dit} for one of DiT-XL' in text
    assert len(tables) == 2 + 2 * 4 + 2 and all(line in text for line in tables)
