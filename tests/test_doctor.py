"""The doctor calls ready only what it has tried."""

import importlib.util
import sys

import pytest

from mmvisionllama import doctor
from mmvisionllama.doctor import Check


def libraries(**states):
    found = {name: Check(name, True, f'onedl-{name} 2.3.6') for name in doctor.MM_LIBRARIES}
    return {**found, **{name: Check(name, ok, 'x') for name, ok in states.items()}}


READY = Check('mmcv operators', True, 'compiled')
MISSING = Check('mmcv operators', None, 'not compiled')


def checks(monkeypatch, errors=None, not_installed=(), operators=READY, **states):
    """Task -> check, with imports that fail as ``errors`` says."""
    errors = errors or {}
    monkeypatch.setattr(doctor, 'import_error', lambda name: errors.get(name))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in not_installed else object())
    return {check.name: check for check in doctor.check_tasks(libraries(**states), operators)}


def test_everything_is_there(monkeypatch):
    assert all(check.ok and check.text == 'ready' for check in checks(monkeypatch).values())


def test_an_import_that_fails_is_not_called_ready(monkeypatch):
    found = checks(monkeypatch, {'mmpretrain.models': "No module named 'torchvision'"})
    for task in ('classification', 'MAE'):
        assert found[task].ok is False
        assert found[task].text == (
            "mmpretrain.models does not import (No module named 'torchvision'): pip install 'mmvisionllama[onedl]'"
        )
    assert found['segmentation'].ok


def test_what_is_not_installed_is_not_wrong(monkeypatch):
    error = {'diffusers:AutoencoderKL': 'x', 'torch_fidelity': 'x'}
    found = checks(monkeypatch, error, ('diffusers', 'torch_fidelity'), MISSING, mmseg=None)
    assert found['generation'].ok is None
    assert found['generation'].text == "needs diffusers, torch_fidelity: pip install 'mmvisionllama[generation]'"
    assert found['segmentation'].text == "needs mmseg: pip install 'mmvisionllama[onedl]'"
    assert found['detection'].text == 'needs mmcv.ops (the operators: see above)'


def test_advice_is_of_the_line_in_use(monkeypatch):
    """The other line's packages would be installed over these."""
    error = {'mmseg.models': "No module named 'mmcv._ext'", 'mmpretrain.models': "No module named 'torchvision'"}
    monkeypatch.setattr(doctor, 'import_error', error.get)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())
    states = {name: Check(name, True, f'{name} 2.1.0') for name in doctor.MM_LIBRARIES}
    found = {check.name: check for check in doctor.check_tasks(states, MISSING)}
    assert found['classification'].text.endswith("pip install 'mmvisionllama[openmmlab]'")
    assert found['segmentation'] == Check(
        'segmentation', None, 'mmseg.models needs mmcv.ops (the operators: see above)'
    )


def test_a_mixture_is_named_although_one_of_its_halves_does_not_fit(monkeypatch):
    """mmdet of OpenMMLab refuses the other line's mmcv, and its advice would add a second one."""
    there = {'onedl-mmengine': '0.11.0', 'onedl-mmcv': '2.3.6', 'mmdet': '3.3.0', 'torch': '2.11.0'}
    monkeypatch.setattr(doctor, '_version', there.get)
    monkeypatch.setattr(doctor, 'import_error', lambda name: 'mmcv is not compatible' if name == 'mmdet' else None)
    (mixed,) = (check for check in dict(doctor.examine())['Libraries'] if check.name == 'mm libraries')
    assert mixed.ok is False and 'are mixed' in mixed.text
    monkeypatch.setitem(there, 'onedl-mmdet', there.pop('mmdet'))
    assert 'mm libraries' not in [check.name for check in dict(doctor.examine())['Libraries']]


def test_attributes_are_tried_and_greetings_swallowed(capsys, tmp_path, monkeypatch):
    (tmp_path / 'loud.py').write_text("import sys\nprint('hello')\nprint('warning', file=sys.stderr)\nthere = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'loud', raising=False)
    assert doctor.import_error('loud:there') is None
    assert doctor.import_error('loud:other') == "module 'loud' has no attribute 'other'"
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize('torch, advice', [('2.11.0', '--no-build-isolation'), ('2.15.1+cu128', 'torch < 2.14')])
def test_operators_are_advised_where_they_compile(monkeypatch, torch, advice):
    monkeypatch.setattr(doctor, 'import_error', lambda name: 'not compiled')
    monkeypatch.setattr(doctor, '_version', lambda name: torch)
    check = doctor.check_operators(libraries())
    assert check.ok is None and advice in check.text


def test_mmcv_lite_is_mmcv_without_operators(monkeypatch):
    """OpenMMLab's wheel of that name, which the demos use on its line."""
    monkeypatch.setattr(doctor, '_version', {'mmcv-lite': '2.1.0', 'torch': '2.5.1'}.get)
    monkeypatch.setattr(doctor, 'import_error', lambda name: None if name == 'mmcv' else "No module named 'mmcv._ext'")
    found = doctor.check_library('mmcv')
    assert found == Check('mmcv', True, 'mmcv-lite 2.1.0')
    advice = doctor.check_operators(libraries() | {'mmcv': found}).text
    assert 'pip uninstall mmcv-lite' in advice and '--no-deps mmcv==2.1.0' in advice
    monkeypatch.setattr(doctor, '_version', {'mmcv-lite': '2.1.0', 'mmcv': '2.1.0'}.get)
    assert 'overwrite each other' in doctor.check_library('mmcv').text


def test_the_screen_ends_with_the_tasks(capsys):
    doctor.main()
    screen = capsys.readouterr().out
    assert screen.index('Attention') < screen.index('Tasks')
    assert 'sdpa' not in screen.splitlines()[-1]


def test_attention_backends_say_why_not(monkeypatch):
    monkeypatch.setitem(sys.modules, 'flash_attn', None)
    monkeypatch.setitem(sys.modules, 'flash_attn_interface', None)
    found = {check.name: check for check in doctor.check_attention()}
    assert found['sdpa'].ok and found['eager'].ok and found['sdpa'].text == 'usable'
    assert found['flash-attn'].ok is None and 'pip install flash-attn' in found['flash-attn'].text
