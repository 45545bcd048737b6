"""Models by name."""

import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

import mmvisionllama
from mmvisionllama.errors import CheckpointError, MissingExtraError
from mmvisionllama.model_zoo import config_path, list_configs
from mmvisionllama.zoo import _configs

DIGITS = 'vision_llama_digits'


def test_names_are_many_and_unique():
    assert len(mmvisionllama.list_models('*visionllama*')) >= 56
    assert mmvisionllama.list_models() == sorted(set(mmvisionllama.list_models()))
    assert len(mmvisionllama.list_models()) == len(list_configs())


def test_a_pattern_selects_and_shared_names_say_their_task():
    assert mmvisionllama.list_models('illama-tiny*') and not mmvisionllama.list_models('tiny')
    assert len(mmvisionllama.list_models('pyramid_vision_llama_digit_scenes_mm*')) == 2


def first_of_each_folder():
    return sorted({config.rpartition('/')[0]: config for config in reversed(list_configs())}.values())


@pytest.mark.parametrize(
    'config',
    [*first_of_each_folder(), *(pytest.param(config, marks=pytest.mark.nightly) for config in list_configs())],
)
def test_every_name_builds(config):
    (name,) = (name for name, own in _configs().items() if own == config)
    scope = Config.fromfile(config_path(config)).default_scope
    if scope != 'mmengine':
        pytest.importorskip(scope)
    with torch.device('meta'):
        model = mmvisionllama.get_model(name)
    assert not model.training and any(True for _ in model.parameters())


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match=DIGITS):
        mmvisionllama.get_model('visionllama_digits')


def test_weights_come_back_and_foreign_ones_are_refused(tmp_path):
    pytest.importorskip('mmpretrain')
    model, other = mmvisionllama.get_model(DIGITS), mmvisionllama.get_model(DIGITS)
    torch.save(model.state_dict(), tmp_path / 'digits.pth')
    images = torch.randn(2, 3, 32, 32)
    loaded = mmvisionllama.get_model(DIGITS, pretrained=str(tmp_path / 'digits.pth'))
    torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)
    assert not torch.equal(other(images)[-1], model(images)[-1])
    with pytest.raises(CheckpointError):
        mmvisionllama.get_model('illama_digits', pretrained=str(tmp_path / 'digits.pth'))


def test_the_backbone_needs_no_other_library():
    code = (
        "import sys, mmvisionllama; assert 'mmvisionllama.zoo' not in sys.modules\n"
        "sys.modules['mmpretrain'] = None\n"
        f"print(type(mmvisionllama.get_model('{DIGITS}', backbone_only=True)).__name__)\n"
        f"try: mmvisionllama.get_model('{DIGITS}')\n"
        'except mmvisionllama.errors.MissingExtraError as error: print(error)\n'
    )
    said = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout
    assert said.startswith('VisionLLaMA') and 'mmvisionllama[onedl]' in said
    assert issubclass(MissingExtraError, ImportError)


def test_models_without_a_backbone_say_so():
    with pytest.raises(ValueError, match='no backbone'):
        mmvisionllama.get_model('sit-s-2_8xb32-400k_imagenet-256', backbone_only=True)


def test_mmpretrain_knows_the_names():
    mmpretrain = pytest.importorskip('mmpretrain')
    from mmvisionllama.zoo import register_in_mmpretrain

    register_in_mmpretrain()
    register_in_mmpretrain()
    assert len(mmpretrain.list_models('*visionllama*')) >= 56
    model = mmpretrain.get_model('visionllama-small-p16_8xb256-800e_in1k')
    assert type(model.backbone).__name__ == 'VisionLLaMA'
