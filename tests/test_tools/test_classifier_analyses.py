"""The analysis tools on a tiny classifier and generated images."""

import csv
import json
import runpy
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmpretrain')
from mmvisionllama import launch  # noqa: E402
from mmvisionllama.checkpoints import CheckpointError  # noqa: E402

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools' / 'analysis_tools'


#: quickstart config -> the tiny arch; the kinds of classifiers that there are
KINDS = {
    'illama_digits': dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
    'vision_llama_digits': dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
    'mae_digits_scratch': dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
    'pyramid_vision_llama_digits': dict(
        embed_dims=(8, 8, 16),
        depths=(2, 1, 1),
        num_heads=(2, 2, 2),
        patch_sizes=(2, 2, 2),
        window_sizes=(4, 4, 4),
        sr_ratios=(4, 2, 1),
    ),
}
EVERY_KIND = [
    'vision_llama_digits',
    *(pytest.param(k, marks=pytest.mark.nightly) for k in ('mae_digits_scratch', 'pyramid_vision_llama_digits')),
]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes config and checkpoint of a model for four classes, run in a folder of its own."""
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, count in (('train', 8), ('test', 4)):
        for label in range(4):
            folder = tmp_path / 'images' / split / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f'{i}.png')
    monkeypatch.chdir(tmp_path)

    def write(kind):
        config = tmp_path / 'tiny.py'
        base = ROOT / 'configs' / 'mmpretrain' / 'quickstart' / f'{kind}.py'
        by_epoch = Config.fromfile(base).train_cfg.by_epoch
        config.write_text(
            f'_base_ = [{str(base)!r}]\n'
            f'model = dict(backbone=dict(arch=dict(_delete_=True, **{KINDS[kind]!r})))\n'
            'model["head"] = dict(num_classes=4, in_channels=16)\n'
            'data_preprocessor = dict(num_classes=4)\n'
            f'train_cfg = dict({"max_epochs=1" if by_epoch else "max_iters=1"})\n'
            'param_scheduler = []\n'
            + ''.join(
                f'{split}_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, '
                f'dataset=dict(data_root={str(tmp_path / "images")!r}))\n'
                for split in ('train', 'val', 'test')
            )
        )
        cfg = launch.load_config(str(config))
        init_default_scope('mmpretrain')
        checkpoint = tmp_path / 'tiny.pth'
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, checkpoint)
        return str(config), str(checkpoint)

    return write


@pytest.fixture
def classifier(make):
    """Config and checkpoint of an iLLaMA."""
    return make('illama_digits')


def run(monkeypatch, tool, *args):
    """Runs a tool's main() with these arguments."""
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
    runpy.run_path(str(TOOLS / tool), run_name='tool')['main']()


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_calibration(classifier, tmp_path, monkeypatch, capsys):
    run(monkeypatch, 'calibration.py', *classifier, '--bins', 5, '--out', tmp_path / 'out' / 'bins.csv')
    rows = read(tmp_path / 'out' / 'bins.csv')
    assert len(rows) == 5 and sum(float(row['count']) for row in rows) == 16
    assert (tmp_path / 'out' / 'bins.png').exists()
    out = capsys.readouterr().out
    top1 = float(out.split('top-1 ')[1].split(' %')[0])
    right = sum(float(row['count']) * float(row['accuracy']) for row in rows)
    assert top1 == pytest.approx(100 * right / 16, abs=0.01)
    assert 'expected calibration error' in out


def test_attention_rank(classifier, tmp_path, monkeypatch):
    run(monkeypatch, 'attention_rank.py', *classifier, '--images', 8)
    (written,) = (tmp_path / 'work_dirs').glob('*/attention_rank.csv')
    rows = read(written)
    assert [row['layer'] for row in rows] == ['0', '1']
    assert {(row['queries'], row['keys'], row['images']) for row in rows} == {('65', '65', '8')}
    assert all(1 <= float(row['effective_rank']) <= 65 for row in rows)
    assert written.with_suffix('.png').exists()


def test_shape_texture(classifier, tmp_path, monkeypatch, capsys):
    from PIL import Image

    for shape, texture in (('star', 'fur'), ('star', 'star'), ('fur', 'star')):
        folder = tmp_path / 'stimuli' / shape
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8), 100).save(folder / f'{shape}1-{texture}2.png')
    categories = tmp_path / 'categories.json'
    categories.write_text(json.dumps(dict(star=[0, 1], fur=[2, 3])))
    out = tmp_path / 'bias.csv'
    run(monkeypatch, 'shape_texture.py', *classifier, tmp_path / 'stimuli', '--categories', categories, '--out', out)
    # the images look alike: one of the two conflicts is decided for its shape, the other for its texture
    assert 'shape bias 50.00 %' in capsys.readouterr().out
    assert sum(int(row['shape_decisions']) + int(row['texture_decisions']) for row in read(out)) == 2
    with pytest.raises(launch.LaunchError, match='4 classes'):
        categories.write_text(json.dumps(dict(star=[0, 1], fur=[2, 7])))
        run(monkeypatch, 'shape_texture.py', *classifier, tmp_path / 'stimuli', '--categories', categories)


@pytest.mark.parametrize('mode', ['post-training', 'training-aware'])
def test_quantize(classifier, tmp_path, monkeypatch, mode):
    pytest.importorskip('torchao')
    out = tmp_path / 'out' / 'int8.pth'
    run(monkeypatch, 'quantize.py', *classifier, '--out', out, *(['--training-aware'] * (mode == 'training-aware')))
    fp32, int8 = read(out.with_suffix('.csv'))
    assert (fp32['model'], int8['model']) == ('fp32', f'int8 {mode}')
    assert int(int8['bytes']) == out.stat().st_size

    from mmvisionllama import quantization
    from mmvisionllama.analysis import classification
    from mmvisionllama.launch import classifier as opening

    cfg = launch.load_config(classifier[0])
    cfg.work_dir = str(tmp_path / 'work')
    model, dataloader = opening.open_classifier(cfg, classifier[1])
    quantization.load_quantised(model, str(out))
    assert classification.predict(model, dataloader).accuracy == pytest.approx(float(int8['top1']), abs=1e-3)


@pytest.mark.parametrize('kind', EVERY_KIND)
def test_every_kind_of_classifier(make, kind, monkeypatch, tmp_path):
    """Class token and mean of the patches, plain and pyramid, by epoch and by iteration."""
    files = make(kind)
    run(monkeypatch, 'calibration.py', *files, '--out', tmp_path / 'bins.csv')
    assert sum(float(row['count']) for row in read(tmp_path / 'bins.csv')) == 16
    run(monkeypatch, 'attention_rank.py', *files, '--out', tmp_path / 'rank.csv')
    assert len(read(tmp_path / 'rank.csv')) == (4 if kind.startswith('pyramid') else 2)
    pytest.importorskip('torchao')
    for options in ([], ['--training-aware']):
        run(monkeypatch, 'quantize.py', *files, '--out', tmp_path / 'int8.pth', *options)
        assert len(read(tmp_path / 'int8.csv')) == 2


def test_ranks_are_those_of_images_of_all_classes(classifier, tmp_path, monkeypatch):
    """The first images of a folder would be of one class."""
    from mmpretrain.models import ImageClassifier

    labels = []

    def test_step(self, data):
        labels.extend(int(sample.gt_label) for sample in data['data_samples'])

    monkeypatch.setattr(ImageClassifier, 'test_step', test_step)
    for _ in range(2):
        with pytest.raises(launch.LaunchError, match='no attention'):
            run(monkeypatch, 'attention_rank.py', *classifier, '--images', 8)
    assert len(labels) == 16 and len(set(labels)) > 2
    assert labels[:8] == labels[8:], 'the same images every time'


def test_shape_texture_of_a_model_of_images_in_memory(monkeypatch, tmp_path):
    """CIFAR's images are RGB, files are read as BGR."""
    tool = runpy.run_path(str(TOOLS / 'shape_texture.py'), run_name='tool')
    cfg = Config.fromfile(ROOT / 'configs/mmpretrain/illama/illama-tiny-p16_in1k-pre_8xb128-300e_cifar10.py')
    assert not cfg.data_preprocessor.to_rgb
    tool['use_stimuli'](cfg, str(tmp_path))
    assert cfg.data_preprocessor.to_rgb and cfg.test_dataloader.dataset.pipeline[0].type == 'LoadImageFromFile'


def test_pure_python_configs(classifier, tmp_path, monkeypatch):
    """Their types are classes: a second soft mask would make a causal checkpoint bidirectional again."""
    pytest.importorskip('torchao')
    from mmcv.transforms import LoadImageFromFile

    from mmvisionllama.engine import SoftMaskHook

    cfg, built = launch.load_config(classifier[0]), []
    cfg.work_dir = str(tmp_path)
    cfg.custom_hooks = [dict(type=SoftMaskHook, end=1)]
    monkeypatch.setattr(launch, 'train', lambda cfg: built.append(cfg) or Mock())
    runpy.run_path(str(TOOLS / 'quantize.py'), run_name='tool')['train_aware'](cfg, classifier[1], False)
    assert [hook['type'] for hook in built[0].custom_hooks] == ['QuantizationAwareTrainingHook']
    cfg.test_dataloader.dataset.pipeline[0].type = LoadImageFromFile
    runpy.run_path(str(TOOLS / 'shape_texture.py'), run_name='tool')['use_stimuli'](cfg, str(tmp_path))
    assert cfg.test_dataloader.dataset.pipeline[0].type is LoadImageFromFile


def test_training_aware_quantisation_leaves_the_work_directory_alone(classifier, tmp_path, monkeypatch):
    """It may hold the very checkpoint that is quantised."""
    pytest.importorskip('torchao')
    folder = tmp_path / 'work_dirs' / 'tiny'
    folder.mkdir(parents=True)
    checkpoint = folder / 'epoch_1.pth'
    checkpoint.write_bytes(Path(classifier[1]).read_bytes())
    run(monkeypatch, 'quantize.py', classifier[0], checkpoint, '--training-aware')
    assert checkpoint.read_bytes() == Path(classifier[1]).read_bytes()
    assert not (folder / 'last_checkpoint').exists() and (folder / 'training_aware' / 'epoch_1.pth').exists()


def test_training_aware_quantisation_goes_on(classifier, tmp_path, monkeypatch):
    pytest.importorskip('torchao')
    aware = (*classifier, '--training-aware')
    run(monkeypatch, 'quantize.py', *aware)
    first = tmp_path / 'work_dirs' / 'tiny' / 'training_aware' / 'epoch_1.pth'
    written = first.stat().st_mtime_ns
    longer = ('--cfg-options', 'train_cfg.max_epochs=2')
    run(monkeypatch, 'quantize.py', *aware, '--resume', *longer)
    assert first.with_name('epoch_2.pth').exists() and first.stat().st_mtime_ns == written
    with pytest.raises(launch.LaunchError, match='give --training-aware'):
        run(monkeypatch, 'quantize.py', *classifier, '--resume')
    with pytest.raises(launch.LaunchError, match='ends with .pth'):
        run(monkeypatch, 'quantize.py', *classifier, '--out', tmp_path / 'table.csv')


def test_ranks_of_pictures_of_several_sizes_are_refused(classifier, monkeypatch):
    from mmpretrain.models import ImageClassifier

    monkeypatch.setattr(ImageClassifier, 'test_step', lambda self, data: None)
    loader = [dict(inputs=[torch.zeros(3, 32, 32), torch.zeros(3, 48, 32)])]
    monkeypatch.setattr(launch.classifier, 'open_classifier', lambda *args: (None, loader))
    with pytest.raises(launch.LaunchError, match='several sizes .32 x 32, 48 x 32.: resize them'):
        run(monkeypatch, 'attention_rank.py', *classifier)


@pytest.mark.parametrize(
    'options, message',
    [
        (['--metric', 'top5'], "unknown metric 'top5': the evaluator gives top1; all of them are in"),
        (['--batch-size', '0'], '--batch-size must be at least 1'),
        (['--device', 'nowhere'], '--device .* cannot be used'),
        (['--plot', 'x.foo'], "--plot 'x.foo': expected a name that ends"),
    ],
)
def test_a_slip_does_not_cost_the_study(classifier, tmp_path, monkeypatch, options, message):
    table = tmp_path / 'table.csv'
    with pytest.raises(launch.LaunchError, match=message):
        args = (*classifier, '--sizes', 32, '--variants', 'config', '--out', table, *options)
        run(monkeypatch, 'resolution_transfer.py', *args)
    assert table.exists() == (options[0] == '--metric')


def test_sizes_that_are_no_squares_have_no_picture(classifier, tmp_path, monkeypatch, capsys):
    table, size = tmp_path / 'table.csv', '32x48'
    run(monkeypatch, 'resolution_transfer.py', *classifier, '--sizes', size, '--variants', 'config', '--out', table)
    assert [row['size'] for row in read(table)] == [size] and not table.with_suffix('.png').exists()
    assert 'no picture' in capsys.readouterr().out


@pytest.mark.parametrize('tool', ['calibration.py', 'attention_rank.py', 'resolution_transfer.py'])
def test_a_picture_does_not_take_the_place_of_the_numbers(classifier, tmp_path, monkeypatch, tool):
    options = ('--sizes', '32', '--variants', 'config') if tool == 'resolution_transfer.py' else ()
    with pytest.raises(launch.LaunchError, match='expected a name that ends with .csv'):
        run(monkeypatch, tool, *classifier, *options, '--out', tmp_path / 'result.png')


def arguments(tool, *files):
    return (tool, *files, 'stimuli') if tool == 'shape_texture.py' else (tool, *files)


@pytest.mark.parametrize('tool', ['calibration.py', 'attention_rank.py', 'shape_texture.py', 'quantize.py'])
def test_what_does_not_fit_is_refused(classifier, tmp_path, monkeypatch, tool):
    if tool == 'quantize.py':
        pytest.importorskip('torchao')
    from PIL import Image

    (tmp_path / 'stimuli' / 'cat').mkdir(parents=True)
    Image.new('L', (8, 8), 100).save(tmp_path / 'stimuli' / 'cat' / 'cat1-dog1.png')
    config, checkpoint = classifier
    for name in ('mmpretrain/quickstart/mae_digits.py', 'generation/quickstart/dit_llama_digits.py'):
        with pytest.raises(launch.LaunchError, match='takes classification configs'):
            run(monkeypatch, *arguments(tool, ROOT / 'configs' / name, checkpoint))
    with pytest.raises(launch.LaunchError, match='no test_dataloader'):
        run(monkeypatch, *arguments(tool, config, checkpoint), '--cfg-options', 'test_dataloader=None')
    with pytest.raises(CheckpointError, match='none.pth.*does not exist'):
        run(monkeypatch, *arguments(tool, config, 'none.pth'))
    # the Runner would only warn about these and go on with random weights
    state = torch.load(checkpoint)['state_dict']
    torch.save({'state_dict': {f'x.{key}': value for key, value in state.items()}}, 'other.pth')
    with pytest.raises(CheckpointError, match='does not fit the config.*backbone.cls_token'):
        run(monkeypatch, *arguments(tool, config, 'other.pth'))


def test_quantisation_without_its_library(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchao.quantization', None)
    with pytest.raises(launch.LaunchError, match=r"pip install 'mmvisionllama\[quantization\]'"):
        run(monkeypatch, 'quantize.py', *classifier)


def test_bad_options_are_refused(classifier, tmp_path, monkeypatch):
    (tmp_path / 'stimuli').mkdir()
    wrong = tmp_path / 'wrong.json'
    wrong.write_text('{"star": 3}')
    broken = tmp_path / 'broken.json'
    broken.write_text('{')
    for match, tool, *args in (
        ('--bins must be at least 1', 'calibration.py', '--bins', 0),
        ('--images must be at least 1', 'attention_rank.py', '--images', 0),
        ("stimuli 'nowhere' does not exist", 'shape_texture.py', 'nowhere'),
        ('expected {"category"', 'shape_texture.py', 'stimuli', '--categories', wrong),
        ('broken.json.* cannot be read', 'shape_texture.py', 'stimuli', '--categories', broken),
        ('none.json.* cannot be read', 'shape_texture.py', 'stimuli', '--categories', 'none.json'),
    ):
        with pytest.raises(launch.LaunchError, match=match):
            run(monkeypatch, tool, *classifier, *args)


def test_images_without_conflicting_cues_are_refused(classifier, tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / 'stimuli' / 'star').mkdir(parents=True)
    Image.new('L', (8, 8), 100).save(tmp_path / 'stimuli' / 'star' / 'star1-star2.png')
    categories = tmp_path / 'categories.json'
    categories.write_text(json.dumps(dict(star=[0, 1])))
    with pytest.raises(launch.LaunchError, match='conflicting cues'):
        run(monkeypatch, 'shape_texture.py', *classifier, 'stimuli', '--categories', categories)
