"""Earlier import paths still lead to the same objects."""

import importlib
import subprocess
import sys

import pytest

from mmvisionllama import moved

#: what users and configs of earlier versions imported: module -> names
EARLIER = {
    'analysis.attention_rank': ('RankMeter', 'draw_ranks'),
    'analysis.calibration': ('reliability', 'draw_reliability'),
    'analysis.predictions': ('Predictions', 'predict', 'load_config', 'open_classifier'),
    'analysis.quantization': ('simulate_int8', 'quantise', 'load_quantised'),
    'analysis.resolution_transfer': ('evaluate', 'rotary_variant'),
    'checkpoints': ('CheckpointError', 'convert_released', 'find_state_dict', 'load_pretrained', 'read_checkpoint'),
    'checkpoints.dit': ('FAMILY', 'SIT_FAMILY'),
    'checkpoints.family': ('ConvertedCheckpoint', 'Family'),
    'checkpoints.illama': ('FAMILY',),
    'checkpoints.mae': ('FAMILY', 'PLAIN_FAMILY'),
    'checkpoints.plain': ('FAMILY',),
    'checkpoints.pyramid': ('FAMILY',),
    'checkpoints.reading': ('CheckpointError', 'load_pretrained'),
    'checkpoints.released': ('FAMILIES', 'convert_released', 'recognise'),
    'data': ('CheckSegFiles', 'DataError', 'ThreeAugment'),
    'data.coco_files': ('check_categories',),
    'data.digit_scenes': ('write_scenes',),
    'data.digits': ('write_digits',),
    'data.seg_files': ('CheckSegFiles', 'DataError', 'check_pictures', 'read'),
    'data.transforms': ('ThreeAugment',),
    'engine.autocast': ('AutocastOptimWrapper',),
    'engine.flops': ('Complexity', 'input_size'),
    'engine.full_precision': ('FullPrecisionOutputHook',),
    'engine.launch': ('LaunchError', 'build_runner', 'coco_classes', 'load_config', 'prepare_train', 'run_cli', 'test'),
    'engine.layer_decay': ('LayerDecayOptimWrapperConstructor',),
    'engine.quantization': ('QuantizationAwareTrainingHook',),
    'engine.reseed': ('ReseedHook',),
    'engine.soft_mask': ('SoftMaskHook', 'soft_mask_at'),
    'generation': ('SampleHook',),
    'generation.data': ('LabelledImages', 'center_crop'),
    'generation.dit_llama': ('DiTLLaMA', 'sinusoid', 'sincos_embedding'),
    'generation.hooks': ('SampleHook',),
    'generation.sampling': ('sample_set', 'batches'),
    'layers': ('CausalAttention', 'CausalContext', 'RotaryEmbedding', 'SubsampledContext', 'WindowContext'),
    'layers.causal': ('CausalAttention', 'CausalContext', 'soft_mask_matrix'),
    'layers.local_global': ('GSAPositionCalibration', 'GlobalSubsampledAttention', 'SubsampledContext', 'cell_centres'),
    'layers.rotary': ('RotaryEmbedding', 'RotaryTable', 'axis_scales', 'grid_positions', 'to_2tuple', 'at_least_fp32'),
    'layers.window': ('WindowAttention', 'WindowContext', 'window_context', 'partition_windows'),
    'pretraining': ('MAEReconstructionHook',),
    'pretraining.hooks': ('MAEReconstructionHook', 'preserved_random_state'),
    'visualization.predictions': ('plot_predictions',),
    'visualization.reconstruction': ('draw', 'fixed_noise', 'reconstruct', 'reconstruction_picture', 'to_uint8'),
}


@pytest.mark.parametrize('name', EARLIER)
def test_names_are_there(name):
    module = importlib.import_module(f'mmvisionllama.{name}')
    for attribute in EARLIER[name]:
        assert getattr(module, attribute).__name__ if attribute[0].islower() else getattr(module, attribute) is not None
    with pytest.raises(AttributeError, match='nothing_of_that_name'):
        _ = module.nothing_of_that_name


def test_every_moved_module_is_tried():
    assert set(moved.MODULES) <= set(EARLIER)


def test_they_are_the_same_objects_and_say_so():
    code = (
        'import warnings\n'
        'with warnings.catch_warnings(record=True) as caught:\n'
        '    warnings.simplefilter("always")\n'
        '    from mmvisionllama.data.seg_files import CheckSegFiles as earlier\n'
        '    import mmvisionllama.engine.launch as launch\n'
        'from mmvisionllama.datasets.transforms import CheckSegFiles\n'
        'from mmvisionllama.launch import load_config\n'
        'assert earlier is CheckSegFiles and launch.load_config is load_config\n'
        'said = {str(w.message): w.filename for w in caught if "is an earlier name" in str(w.message)}\n'
        'assert any("mmvisionllama.launch" in text for text in said), said\n'
        'assert set(said.values()) == {"<string>"}, said\n'  # the line with the import: Python shows a script's own
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_scripts_run_under_their_earlier_names(tmp_path):
    command = [sys.executable, '-m', 'mmvisionllama.data.digits', str(tmp_path / 'digits')]
    pytest.importorskip('sklearn')
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert '1437 training and 360 test images' in out and (tmp_path / 'digits' / 'train' / '3').is_dir()


@pytest.mark.parametrize('error', ['ImportError("no LIBRARY here", name="LIBRARY")', 'OSError("no LIBRARY here")'])
def test_the_doctor_runs_without_torch_and_mmengine_and_the_rest_says_what_is_missing(tmp_path, error):
    """An OSError is what torch raises without its CUDA libraries."""
    for library in ('torch', 'mmengine'):
        (tmp_path / f'{library}.py').write_text(f'raise {error.replace("LIBRARY", library)}')
    env = dict(PYTHONPATH=f'{tmp_path}:{moved.__file__.rsplit("/", 2)[0]}', PATH='')
    doctor = subprocess.run([sys.executable, '-m', 'mmvisionllama.doctor'], env=env, capture_output=True, text=True)
    assert 'Traceback' not in doctor.stderr and doctor.returncode == 1
    assert 'no torch here' in doctor.stdout
    code = 'import mmvisionllama; print(mmvisionllama.__version__); import mmvisionllama.backbones'
    other = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert other.stdout.strip() and other.returncode == 1
    last = other.stderr.strip().splitlines()[-1]
    assert "pip install 'mmvisionllama[onedl]'" in last and '(no mmengine here)' in last


def test_an_earlier_module_is_an_attribute_of_the_package():
    """As it was where ``import mmvisionllama`` had imported it."""
    import mmvisionllama
    from mmvisionllama.datasets import digits

    assert mmvisionllama.data.digits.write_digits is digits.write_digits
