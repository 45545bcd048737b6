"""The resolution study: scaled pipelines, rotary variants, one evaluation from config to CSV and picture."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmvisionllama import launch
from mmvisionllama.analysis import resolution_transfer as study
from mmvisionllama.errors import CheckpointError, OptionError

ROOT = Path(__file__).parents[2]
PYRAMID = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), sr_ratios=(2, 1), feedforward_channels=(16, 16))
PLAIN = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
BACKBONES = {
    'plain': dict(type='VisionLLaMA', arch=PLAIN, patch_size=4, anchor=16),
    'pyramid': dict(
        type='PyramidVisionLLaMA',
        arch=PYRAMID,
        anchor=16,
        out_indices=(1,),
        out_type='avg_featmap',
        key_position='released',
        gap_norm='released',
        mask_padding='released',
    ),
}


def pipeline(*sized):
    return [dict(type='LoadImageFromFile'), *sized, dict(type='PackInputs')]


def test_numbers_alone_under_their_short_names():
    """Evaluators give lists for each class and matrices as well; two with one last name keep the whole one."""
    found = study.short_scalars(
        {
            'accuracy/top1': torch.tensor(50.123456),
            'single-label/f1-score': [1.0, 2.0],
            'matrix': torch.eye(2),
            'a/recall': np.float32(1),
            'b/recall': 2,
        }
    )
    assert found == {'top1': 50.1235, 'a/recall': 1.0, 'b/recall': 2.0}
    with pytest.raises(OptionError, match='gives no number: matrix'):
        study.short_scalars(dict(matrix=torch.eye(2)))


def test_pipeline_keeps_its_proportions():
    steps = pipeline(
        dict(type='ResizeEdge', scale=256, edge='short'), dict(type='CenterCrop', crop_size=224)
    )  # what the release evaluates with: 512 is resized to 585
    for size, edge in ((224, 256), (448, 512), (512, 585), (160, 183)):
        scaled = study.scale_pipeline(steps, size)
        assert [scaled[1]['scale'], scaled[2]['crop_size']] == [edge, size]
    assert steps[1]['scale'] == 256, 'the given pipeline stays as it was'


def test_pipeline_with_pairs():
    for kind in ('mmcv.transforms.Resize', type('Resize', (), {})):  # in configs of pure Python
        assert study.scale_pipeline([dict(type=kind, scale=32)], (16, 48)) == [dict(type=kind, scale=(48, 16))]
    (step,) = study.scale_pipeline([dict(type='Resize', scale=(64, 32))], 48)
    assert step['scale'] == (96, 48)
    with pytest.raises(OptionError, match='sets no size'):
        study.scale_pipeline(pipeline(), 64)


@pytest.mark.parametrize(
    ('variant', 'expected'),
    [
        ('as2d', dict(base=100, scale='per_axis')),
        ('2d', dict(base=100, scale='none')),
        ('ntk:2.5', dict(base=100, scale='none', ntk_alpha=2.5)),
        ('1d', dict(base=100, kind='1d', scale='none')),
        ('yarn:0.1:0.9', dict(base=100, scale='per_axis', yarn_range=(0.1, 0.9))),
        ('anchor:96', dict(base=100, scale='per_axis')),
    ],
)
def test_variants(variant, expected):
    backbone = dict(type='VisionLLaMA', cls_position='released', rope_cfg=dict(base=100, kind='1d', ntk_alpha=7))
    changed = study.rotary_variant(backbone, variant)
    assert changed['rope_cfg'] == expected
    assert changed.get('cls_position') == (None if variant == '1d' else 'released')


def test_variants_with_a_temperature_or_another_anchor():
    backbone = dict(type='VisionLLaMA', anchor=32)
    assert study.rotary_variant(backbone, 'as2d+log_n')['logit_scale'] == 'log_n'
    changed = study.rotary_variant(backbone, 'anchor:96+inverse_log_n')
    assert (changed['anchor'], changed['logit_scale']) == (96, 'inverse_log_n')
    assert 'logit_scale' not in study.rotary_variant(backbone, 'as2d')
    with pytest.raises(OptionError, match='has no logit_scale'):
        study.rotary_variant(dict(type='PyramidVisionLLaMA'), 'as2d+log_n')
    with pytest.raises(OptionError, match="unknown temperature 'warm'"):
        study.rotary_variant(backbone, 'as2d+warm')
    for variant in ('anchor', 'anchor:0', 'anchor:1.5', 'yarn:1', 'yarn:1:x', 'ntk:1:2'):
        with pytest.raises(OptionError, match='unknown variant'):
            study.rotary_variant(backbone, variant)


def test_backbones_of_pure_python_configs():
    from mmengine.config import ConfigDict

    from mmvisionllama.backbones import VisionLLaMA

    assert study.rotary_variant(dict(type=VisionLLaMA), 'ntk:2')['rope_cfg'] == dict(scale='none', ntk_alpha=2.0)
    assert study.training_size(ConfigDict(type=VisionLLaMA)) == 224
    with pytest.raises(OptionError, match='backbone Linear has no rope_cfg'):
        study.rotary_variant(dict(type=torch.nn.Linear), '2d')


def test_config_leaves_any_backbone_as_it_is():
    backbone = dict(type='VisionTransformer', arch='b')
    assert study.rotary_variant(backbone, 'config') == backbone


@pytest.mark.parametrize('variant', ['as2d', '2d', '1d', 'ntk:2', 'anchor:96'])
def test_positions_of_illama_have_no_variants(variant):
    backbone = dict(type='iLLaMA', arch='tiny')
    assert study.rotary_variant(backbone, 'config') == backbone
    with pytest.raises(OptionError, match=f"variant '{variant}' is none of iLLaMA, .* evaluate config"):
        study.rotary_variant(backbone, variant)


def test_height_and_width():
    pipeline = [dict(type='ResizeEdge', scale=80), dict(type='CenterCrop', crop_size=72)]
    scaled = study.scale_pipeline(pipeline, (72, 144))
    assert scaled == [dict(type='ResizeEdge', scale=160), dict(type='CenterCrop', crop_size=(144, 72))]
    assert study.scale_pipeline([dict(type='Resize', scale=32)], (16, 48)) == [dict(type='Resize', scale=(48, 16))]
    with pytest.raises(OptionError, match='ResizeEdge at the end.*no height and width'):
        study.scale_pipeline([dict(type='ResizeEdge', scale=32)], (16, 48))


@pytest.mark.parametrize('key_position', ['flat_index', 'released'])
def test_variants_of_a_released_model(key_position):
    backbone = dict(type='PyramidVisionLLaMA', key_position=key_position, rope_cfg=dict(scale='none'))
    variants = {name: study.rotary_variant(backbone, name) for name in ('as2d', '2d', 'ntk:5', '1d')}
    assert variants['as2d']['rope_cfg'] == dict(scale='height', anchor_grid=(14, 14))
    assert variants['2d'] == backbone
    assert variants['ntk:5']['rope_cfg'] == dict(scale='none', ntk_alpha=5, ntk_keys='plain_base')
    assert 'key_position' not in variants['1d']
    for config in variants.values():
        MODELS.build({**config, 'arch': PYRAMID, 'out_indices': 1})


@pytest.mark.parametrize('variant', ['ntk', 'ntk:0', 'ntk:x', '3d'])
def test_unknown_variant(variant):
    with pytest.raises(OptionError, match='unknown variant'):
        study.rotary_variant(dict(type='VisionLLaMA'), variant)


@pytest.fixture
def experiment(tmp_path):
    """Writes a config with generated images and a checkpoint of a backbone; returns their paths."""
    pytest.importorskip('mmpretrain')
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in 'ab':
        (tmp_path / 'data' / label).mkdir(parents=True)
        for i in range(3):
            image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / 'data' / label / f'{i}.png')

    def write(name):
        head = dict(type='LinearClsHead', num_classes=2, in_channels=16)
        if name == 'plain':
            head['type'] = 'VisionTransformerClsHead'
        steps = pipeline(dict(type='ResizeEdge', scale=18, edge='short'), dict(type='CenterCrop', crop_size=16))
        loader = dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='CustomDataset', data_root=str(tmp_path / 'data'), pipeline=steps),
        )
        cfg = Config(
            dict(
                custom_imports=dict(imports=['mmvisionllama']),
                default_scope='mmpretrain',
                model=dict(type='ImageClassifier', backbone=BACKBONES[name], head=head),
                data_preprocessor=dict(num_classes=2, mean=[127.5] * 3, std=[127.5] * 3),
                test_dataloader=loader,
                test_evaluator=dict(type='Accuracy', topk=(1,)),
            )
        )
        config, checkpoint = tmp_path / f'{name}.py', tmp_path / f'{name}.pth'
        cfg.dump(config)
        from mmpretrain.registry import MODELS as CLASSIFIERS

        model = CLASSIFIERS.build(cfg.model)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        return str(config), str(checkpoint)

    return write


def accuracy_by_hand(config, checkpoint, variant, size):
    """Top-1 of one variant at one size with a model and data set built on their own."""
    from mmpretrain.registry import DATASETS
    from mmpretrain.registry import MODELS as CLASSIFIERS

    cfg = Config.fromfile(config)
    cfg.model.backbone = study.rotary_variant(cfg.model.backbone, variant)
    model = CLASSIFIERS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
    model.load_state_dict(torch.load(checkpoint)['state_dict'])
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline[1].scale = round(18 / 16 * size)
    dataset.pipeline[2].crop_size = size
    dataset = DATASETS.build(dataset)
    right = 0
    for i in range(len(dataset)):
        sample = dataset[i]
        data = dict(inputs=sample['inputs'][None], data_samples=[sample['data_samples']])
        (out,) = model.test_step(data)
        right += (out.pred_label == out.gt_label).item()
    return 100 * right / len(dataset)


@pytest.mark.parametrize('name', BACKBONES)
def test_evaluate(experiment, name):
    config, checkpoint = experiment(name)
    variants, sizes = ['as2d', '2d', 'ntk:5', '1d'], [16, 24]
    rows = study.evaluate(launch.load_config(config), checkpoint, sizes, variants, device='cpu')
    assert [(row['size'], row['variant']) for row in rows] == [(s, v) for s in sizes for v in variants]
    for row in rows:
        assert row['images'] == 6
        expected = accuracy_by_hand(config, checkpoint, row['variant'], row['size'])
        assert row['top1'] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_variants_share_one_copy_of_the_weights(experiment, dtype):
    """In the model's dtypes, whatever the file's."""
    config, checkpoint = experiment('pyramid')
    weights = torch.load(checkpoint)['state_dict']
    weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    torch.save(dict(state_dict=weights), checkpoint)
    models = study.build_variants(launch.load_config(config), checkpoint, ['as2d', '2d'], torch.device('cpu'))
    a, b = (dict(model.named_parameters()) for model in models.values())
    assert all(a[key].data_ptr() == b[key].data_ptr() and a[key].dtype == torch.float32 for key in a)
    for model in models.values():
        model.extract_feat(torch.rand(1, 3, 16, 16))


def test_command_line(experiment, tmp_path):
    config, checkpoint = experiment('plain')
    script = ROOT / 'tools' / 'analysis_tools' / 'resolution_transfer.py'
    command = [sys.executable, script, config, checkpoint, '--sizes', '16', '32', '16x48', '--out', tmp_path / 'r.csv']
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / 'r.csv') as file:
        rows = list(csv.DictReader(file))
    assert [(row['variant'], row['size']) for row in rows] == [
        (v, s) for s in ('16', '32', '16x48') for v in ('as2d', '2d')
    ]
    assert rows[0]['top1'] == rows[1]['top1'], 'AS2DRoPE is 2D RoPE at the training size'
    assert rows[0]['config'] == config
    assert (tmp_path / 'r.png').read_bytes().startswith(b'\x89PNG')
    failed = subprocess.run([*command, '--variants', '3d'], capture_output=True, text=True, cwd=tmp_path)
    assert failed.returncode == 1 and 'error: unknown variant' in failed.stderr


def test_errors(experiment, tmp_path):
    config, checkpoint = experiment('plain')
    cfg = launch.load_config(config)
    with pytest.raises(OptionError, match='positive'):
        study.evaluate(cfg, checkpoint, [0])
    with pytest.raises(CheckpointError, match='does not exist'):
        study.evaluate(cfg, str(tmp_path / 'none.pth'), [16])
    other_config, _ = experiment('plain')
    cfg = launch.load_config(other_config, {'model.backbone.arch.embed_dims': 32})
    with pytest.raises(CheckpointError, match='does not fit the config'):
        study.evaluate(cfg, checkpoint, [16])
    with pytest.raises(OptionError, match='classification configs'):
        study.evaluate(Config(dict(default_scope='mmseg', model=dict(backbone=dict()))), checkpoint, [16])


def test_models_are_built_twice_with_batch_augmentations(tmp_path):
    """mmpretrain appends to ``probs``, so that lists of one config may not be shared."""
    pytest.importorskip('mmpretrain')
    cfg = launch.load_config(str(ROOT / 'configs' / 'mmpretrain' / 'quickstart' / 'vision_llama_digits.py'))
    cfg.model.train_cfg = dict(augments=[dict(type='Mixup', alpha=0.8)], probs=[0.5])
    from mmvisionllama.deploy.models import load_model, model_config

    study.init_default_scope('mmpretrain')
    torch.save(MODELS.build(model_config(cfg)).state_dict(), tmp_path / 'model.pth')
    models = study.build_variants(cfg, str(tmp_path / 'model.pth'), ['as2d', '2d'], torch.device('cpu'))
    models.update({number: load_model(cfg, str(tmp_path / 'model.pth')) for number in range(2)})
    assert all(model.data_preprocessor.batch_augments.probs == [0.5, 0.5] for model in models.values())
    assert cfg.model.train_cfg.probs == [0.5]
