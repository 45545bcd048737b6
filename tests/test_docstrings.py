"""The examples in the docstrings of every module run and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmvisionllama'
MODULES = sorted(
    '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts)
    for path in PACKAGE.rglob('*.py')
    if '>>>' in path.read_text()
)


@pytest.mark.parametrize('name', MODULES)
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


def test_there_are_some_in_every_room_with_models():
    rooms = {name.split('.')[1] for name in MODULES}
    assert {'backbones', 'generation', 'layers', 'necks', 'pretraining'} <= rooms
