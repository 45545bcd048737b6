"""Data and model that do not fit each other, and files that cannot be read, in a real training."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.hooks import Hook
from PIL import Image
from torch import nn
from torch.utils.data import IterableDataset

from mmvisionllama import launch
from mmvisionllama.backbones import PyramidVisionLLaMA
from mmvisionllama.errors import DataError, OptionError
from mmvisionllama.generation import ImageGenerator, LabelledImages, LatentShards
from mmvisionllama.generation.latents import META
from mmvisionllama.launch.checked_runner import CheckedRunner, check_classes, check_head, check_image_size

pytest.importorskip('mmpretrain')


@pytest.fixture
def root(tmp_path):
    """Three classes of two pictures each."""
    for name in 'abc':
        (tmp_path / 'data' / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(tmp_path / 'data' / name / f'{i}.png')
    return tmp_path / 'data'


def config(root, workers=0, **options):
    dataset = dict(
        type='CustomDataset', data_root=str(root), pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    )
    loader = dict(
        batch_size=2, num_workers=workers, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False)
    )
    backbone = dict(
        type='VisionLLaMA',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2),
        img_size=8,
        anchor=8,
        patch_size=4,
    )
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['mmvisionllama']),
            work_dir=str(root.parent / 'work'),
            model=dict(
                type='ImageClassifier',
                backbone=backbone,
                head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
            ),
            data_preprocessor=dict(num_classes=3, mean=[0.0] * 3, std=[255.0] * 3),
            train_dataloader=dict(loader, drop_last=True),
            test_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=1),
            test_cfg=dict(),
            test_evaluator=dict(type='Accuracy'),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            log_level='WARNING',
            launcher='none',
        )
    )
    cfg.merge_from_dict(options)
    launch.prepare_dataloaders(cfg)
    return cfg


def train(root, **options):
    return launch.build_runner(config(root, **options)).train()


def test_heads_of_other_backbones_are_theirs(root):
    """mmpretrain's RevViT and MixMIM give other channels than their embed_dims."""
    backbone = nn.Identity()
    backbone.embed_dims = 384
    check_head(SimpleNamespace(backbone=backbone, head=SimpleNamespace(in_channels=768)))


def test_a_head_fits_the_last_output_of_a_pyramid():
    """The next `arch` has other channels in every stage."""
    backbone = PyramidVisionLLaMA(
        dict(
            embed_dims=(8, 16),
            depths=(1, 1),
            num_heads=(1, 2),
            patch_sizes=(2, 2),
            window_sizes=(2, 2),
            sr_ratios=(2, 1),
        ),
        out_indices=(1,),
        out_type='avg_featmap',
    )
    check_head(SimpleNamespace(backbone=backbone, head=SimpleNamespace(in_channels=16)))
    with pytest.raises(
        OptionError, match='takes 96 channels and the backbone gives 16: set model.head.in_channels to 16'
    ):
        check_head(SimpleNamespace(backbone=backbone, head=SimpleNamespace(in_channels=96)))


def test_a_data_set_without_a_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    loader = CheckedRunner.build_dataloader(dict(batch_size=2, num_workers=0, dataset=Stream(), sampler=None))
    assert [len(batch) for batch in loader] == [2, 1]


def test_a_good_config_trains(root):
    train(root)


@pytest.mark.parametrize(
    'options, error, message',
    [
        ({'train_dataloader.batch_size': 7}, OptionError, 'batch_size 7 is larger than the 6 samples'),
        ({'train_dataloader.batch_size': 'abc'}, OptionError, "batch_size must be a positive whole number, got 'abc'"),
        ({'train_dataloader.batch_size': 0}, OptionError, 'batch_size must be a positive whole number, got 0'),
        ({'train_dataloader.dataset.indices': 0}, DataError, 'a data set of the config has no samples'),
        ({'train_cfg.max_epoch': 1}, OptionError, 'train_cfg of the config does not fit its loop: .*max_epoch'),
        ({'optim_wrapper.optimizer.lr': 'abc'}, OptionError, 'optim_wrapper.optimizer.lr must be a finite number'),
        (
            {'model.head.num_classes': 2},
            OptionError,
            r'train_dataloader has 3 classes \(a, b, c\) and the model has 2',
        ),
        ({'model.head.num_classes': 4}, OptionError, 'has 3 classes .* set model.head.num_classes to 3'),
        ({'model.head.in_channels': 17}, OptionError, 'takes 17 channels and the backbone gives 16'),
        ({'broken_pictures': 'ignore'}, OptionError, "unknown broken_pictures 'ignore'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_before_the_first_iteration(root, options, error, message):
    with pytest.raises(error, match=message) as caught:
        train(root, **options)
    assert '\n' not in str(caught.value)


def test_an_evaluation_of_other_classes_is_refused(root):
    (root / 'd').mkdir()
    (root / 'a' / '0.png').rename(root / 'd' / '0.png')
    with pytest.raises(OptionError, match='the data set of test_dataloader has 4 classes'):
        launch.build_runner(config(root)).test()


def head(classes, **kwargs):
    module = nn.Identity()
    module.num_classes = classes
    vars(module).update(kwargs)
    return module


class EncoderDecoder(SimpleNamespace):
    """mmsegmentation's segmentor; others compare pictures with texts."""


class RPN(SimpleNamespace):
    """mmdetection's name of the detector whose head has one class, object or not."""


@pytest.mark.parametrize(
    'model, named',
    [
        (SimpleNamespace(bbox_head=head(80)), ['bbox_head']),
        (SimpleNamespace(bbox_head=head(2)), ['bbox_head']),
        (
            SimpleNamespace(roi_head=SimpleNamespace(bbox_head=head(80), mask_head=head(80))),
            ['roi_head.bbox_head', 'mask_head'],
        ),
        (SimpleNamespace(roi_head=SimpleNamespace(bbox_head=head(3), mask_head=head(80))), ['roi_head.mask_head']),
        (
            SimpleNamespace(roi_head=SimpleNamespace(bbox_head=nn.ModuleList([head(80), head(3)]))),
            ['roi_head.bbox_head'],
        ),
        (SimpleNamespace(roi_head=SimpleNamespace(bbox_head=head(3), mask_head=head(80, class_agnostic=True))), []),
        (SimpleNamespace(rpn_head=head(1), bbox_head=head(3), mask_head=None), []),
        (SimpleNamespace(bbox_head=head(256), language_model='BERT'), []),
        (RPN(bbox_head=head(1)), []),
        (EncoderDecoder(decode_head=head(150), auxiliary_head=head(3)), ['decode_head']),
        (EncoderDecoder(decode_head=head(3), auxiliary_head=nn.ModuleList([head(150)])), ['auxiliary_head']),
        (EncoderDecoder(decode_head=head(3), auxiliary_head=head(2, boundary_threshold=0.1)), []),
        (SimpleNamespace(decode_head=head(20)), []),
    ],
)
def test_classes_of_detectors_and_segmentors(model, named):
    """A number in one head that was forgotten is silent in mmdetection, or an index out of bounds."""
    data = SimpleNamespace(metainfo=dict(classes=('a', 'b', 'c')))
    if named:
        with pytest.raises(OptionError, match=r'.*'.join(['3 classes', *named, 'num_classes to 3'])):
            check_classes(model, data, 'train_dataloader')
        data.metainfo['thing_classes'] = ('a',)  # panoptic
    check_classes(model, data, 'train_dataloader')


def test_latents_of_another_size_or_other_classes(tmp_path):
    meta = dict(images=2, shard_size=2, shards=1, views=2, size=16, classes=3, class_names=['a', 'b', 'c'])
    (tmp_path / META).write_text(json.dumps(meta))
    np.save(tmp_path / 'moments_00000.npy', np.ones((2, 2, 8, 8, 8), np.float16))
    np.save(tmp_path / 'labels_00000.npy', np.array([0, 2]))
    data = LatentShards(str(tmp_path))

    def model(**options):
        arch = dict(embed_dims=16, num_layers=1, num_heads=2)
        network = dict(type='DiTLLaMA', arch=arch, num_classes=options.pop('num_classes', 3), anchor=4)
        codec = dict(type='VAECodec', downsample=2)
        return ImageGenerator(network, dict(type='GaussianDiffusion'), 'ddim', codec, **options)

    check_classes(model(), data, 'train_dataloader')
    with pytest.raises(OptionError, match=r'has 3 classes \(a, b, c\) and the model has 1000'):
        check_classes(model(num_classes=1000), data, 'train_dataloader')
    with pytest.raises(OptionError, match=r'from 16x16 pixels and the model is for 8x8: .*anchor to 8 \(or .* to 16'):
        check_image_size(model(), data, 'train_dataloader')
    check_image_size(model(image_size=16), data, 'train_dataloader')
    data.meta['size'] = 8
    check_image_size(model(image_size=(8, 12)), data, 'train_dataloader')
    for name in 'abc':
        (tmp_path / 'pictures' / name).mkdir(parents=True)
        (tmp_path / 'pictures' / name / '0.png').touch()
    data = LabelledImages(str(tmp_path / 'pictures'), 16)
    with pytest.raises(OptionError, match='images of train_dataloader have 16x16 pixels and the model is for 8x8'):
        check_image_size(model(), data, 'train_dataloader')
    check_image_size(model(image_size=16), data, 'train_dataloader')


@pytest.mark.parametrize('policy', ['raise', 'skip'])
def test_broken_pictures_of_what_reads_files_itself(root, policy):
    """Of folders for generation, and of the sampler that asks pictures for their sizes."""
    (root / 'b' / '1.png').write_bytes(b'')
    folders = dict(dataset=dict(_delete_=True, type='LabelledImages', data_root=str(root), size=8))
    sampler = dict(type='TokenBudgetBatchSampler', max_tokens=64, patch_size=4, image_tokens=(1, 4))
    for loader in (folders, dict(batch_sampler=sampler, drop_last=False)):
        cfg = config(root, broken_pictures=policy)
        cfg.merge_from_dict(dict(train_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False))))
        runner = launch.build_runner(cfg)
        with pytest.raises(DataError, match='b/1.png') if policy == 'raise' else contextlib.nullcontext():
            loop = runner.build_train_loop(runner._train_loop)
            assert list(loop.dataloader)


def test_classes_of_joined_data_sets():
    """Where their metainfo differs, mmdetection's ConcatDataset has a list of it: VOC 2007 and 2012, for one."""
    metainfo = [dict(classes=('a', 'b'), palette=[]), {}, dict(classes=('a', 'b'))]
    check_classes(SimpleNamespace(bbox_head=head(2)), SimpleNamespace(metainfo=metainfo), 'train_dataloader')
    metainfo.append(dict(classes=('a', 'b', 'c')))
    with pytest.raises(OptionError, match='has 3 classes .* the model has 2'):
        check_classes(SimpleNamespace(bbox_head=head(2)), SimpleNamespace(metainfo=metainfo), 'train_dataloader')


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('content', [b'', b'<html>', 'truncated'])
def test_a_broken_picture_is_named(root, workers, content, capsys):
    path = root / 'b' / '1.png'
    path.write_bytes(path.read_bytes()[:50] if content == 'truncated' else content)
    with pytest.raises(SystemExit):
        launch.run_cli(lambda: train(root, workers=workers))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f'error: picture {path} cannot be read (')


def test_a_fault_of_a_transform_is_not_a_broken_picture(root):
    cfg = {'train_dataloader.dataset.pipeline': [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(0, 0))]}
    with pytest.raises(Exception) as error:  # OpenCV's own
        train(root, **cfg)
    assert not isinstance(error.value, DataError)


@pytest.mark.parametrize('workers', [0, 1])
def test_broken_pictures_can_be_skipped_and_are_counted(root, workers, monkeypatch):
    # another broken one would be counted again
    monkeypatch.setattr('mmengine.dataset.BaseDataset._rand_another', lambda self: 0)
    (root / 'b' / '1.png').write_bytes(b'')
    runner = launch.build_runner(config(root, workers=workers, broken_pictures='skip'))
    runner.train()
    assert runner.train_loop.dataloader.dataset.pipeline.skipped == 1
    with pytest.raises(DataError, match='b/1.png'):
        runner.test()


class Switch(Hook):
    """As mmdet's PipelineSwitchHook and mmpretrain's SwitchRecipeHook."""

    def before_train_epoch(self, runner):
        compose = pytest.importorskip('mmcv.transforms').Compose
        dataset = runner.train_dataloader.dataset
        dataset.pipeline = compose([dict(type='LoadImageFromFile'), dict(type='PackInputs')])
        runner.train_dataloader._iterator = None


@pytest.mark.parametrize('workers', [0, 1])
def test_broken_pictures_of_an_exchanged_pipeline(root, workers, monkeypatch):
    monkeypatch.setattr('mmengine.dataset.BaseDataset._rand_another', lambda self: 0)
    (root / 'b' / '1.png').write_bytes(b'')
    runner = launch.build_runner(config(root, workers=workers, broken_pictures='skip', **{'train_cfg.max_epochs': 2}))
    runner.register_hook(Switch())
    runner.train()
    assert runner.train_dataloader.dataset.pipeline.skipped == 2  # over all epochs
    runner = launch.build_runner(config(root, workers=workers))
    runner.register_hook(Switch())
    with pytest.raises(DataError, match='b/1.png'):
        runner.train()


def test_endings_are_compared_in_lower_case(root):
    """As mmpretrain's CustomDataset compares them."""
    cfg = config(root)
    cfg.train_dataloader.dataset.extensions = ('.PNG',)
    launch.check_data(cfg, ('train',))


@pytest.mark.parametrize('layout', ['flat', 'empty', 'no pictures'])
def test_folders_without_classes_or_pictures(root, layout):
    for path in sorted(root.rglob('*'), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    if layout == 'flat':
        (root / '0.png').touch()
    elif layout == 'no pictures':
        (root / 'a').mkdir()
        (root / 'a' / 'notes.txt').touch()
    with pytest.raises(DataError, match=f'{root}.* has no class folders with pictures'):
        launch.check_data(config(root), ('train',))


def test_predictions_are_written(root, tmp_path):
    launch.build_runner(config(root)).train()
    cfg = launch.prepare_test(config(root), str(root.parent / 'work' / 'epoch_1.pth'))
    launch.test(cfg, out=str(tmp_path / 'predictions.pkl'))
    predictions = load(str(tmp_path / 'predictions.pkl'))
    assert len(predictions) == 6 and all(len(prediction['pred_score']) == 3 for prediction in predictions)


def test_broken_pictures_inside_of_a_wrapper_are_named(root):
    (root / 'b' / '1.png').write_bytes(b'')
    cfg = config(root)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=cfg.train_dataloader.dataset)
    with pytest.raises(DataError, match='b/1.png'):
        launch.build_runner(cfg).train()
