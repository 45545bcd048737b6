"""Every config loads, says what it must in its head, builds at a tiny size through the Runner and trains a step.

What a head says, in a comment (lines may be wrapped)::

    # Paper (Table 2): top-1 81.6 %. ...
    # Model: 21.96 M parameters, 4.60 GMACs at 224. ...
    # Schedule (Table 13): 8 GPUs x 256 [x 4 accumulated] = 2048 images;
    # floor(1,281,167 / 2048) = 625 iterations x 800 epochs. ...
    #
    #     tools/dist_train.sh configs/... 8

Another library: its folder in ``DATA``, its backbones, necks and heads in the tables of what is shrunk.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmvisionllama.engine import flops, launch

ROOT = Path(__file__).parents[1]

DIM = 32
#: backbone -> the tiny arch
PLAIN = dict(embed_dims=DIM, num_layers=2, num_heads=2)
PYRAMID = dict(embed_dims=(8, 8, 16, DIM), depths=(1, 2, 1, 1), num_heads=(2, 2, 2, 2))
BACKBONES = {'VisionLLaMA': PLAIN, 'MAEVisionLLaMA': PLAIN, 'iLLaMA': PLAIN, 'PyramidVisionLLaMA': PYRAMID}
#: height and width of the pictures of a segmentation
SIZES = ((64, 100), (90, 64))
#: neck or head -> settings that go with the tiny backbone
PARTS = {
    'ClsBatchNormNeck': dict(input_features=DIM),
    'FCNHead': dict(in_channels=DIM, channels=8),
    'Feature2Pyramid': dict(embed_dim=DIM),
    'LinearClsHead': dict(in_channels=DIM),
    'MAEPretrainDecoder': dict(embed_dim=DIM, decoder_embed_dim=DIM, decoder_depth=1, decoder_num_heads=2),
    'MAEPretrainHead': dict(),
    'UPerHead': dict(in_channels=[DIM] * 4, channels=8),
    'VisionTransformerClsHead': dict(in_channels=DIM),
}


def shrink_model(model):
    """A model of the same kind and a few thousand parameters, without pre-trained weights."""
    backbone = model.backbone
    assert backbone.type in BACKBONES, f'say in BACKBONES how to shrink {backbone.type}'
    frozen = backbone.get('frozen_stages', -1) > 0
    arch = BACKBONES[backbone.type]
    backbone.arch = dict(arch)
    backbone.pop('init_cfg', None)
    if frozen:
        backbone.frozen_stages = arch['num_layers']
    dense = len(backbone.get('out_indices', ())) == 4
    parts = dict(PARTS)
    if backbone.type == 'PyramidVisionLLaMA':
        backbone.out_indices = (0, 1, 2, 3) if dense else (3,)
        dims = arch['embed_dims']
        parts.update(UPerHead=dict(in_channels=dims, channels=8), FCNHead=dict(in_channels=dims[2], channels=8))
    elif dense:
        backbone.arch.num_layers = 4
        backbone.out_indices = (0, 1, 2, 3)
    for name in ('neck', 'head', 'decode_head', 'auxiliary_head'):
        part = model.get(name)
        if part:
            assert part.type in parts, f'say in PARTS how to shrink {part.type}'
            part.update(parts[part.type])


def folder_of_images(cfg, root):
    """mmpretrain: two classes of noise in folders instead of ImageNet."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('a', 'b'):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(root / split / name / '0.png')
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            prefix = 'train' if split == 'train' else 'val'
            pipeline = loader.dataset.pipeline
            if pipeline[0].type != 'LoadImageFromFile':  # CIFAR's images are in memory
                pipeline = [dict(type='LoadImageFromFile'), *pipeline]
            loader.dataset = dict(
                type='CustomDataset',
                data_root=str(root),
                data_prefix=prefix,
                pipeline=pipeline,
                serialize_data=False,
            )


def folder_of_label_maps(cfg, root):
    """mmseg: images of noise and of two aspect ratios in ADE20K's layout; crops of 64 x 64 instead of 512 x 512."""
    from PIL import Image

    rng = np.random.default_rng(0)
    labels = cfg.model.decode_head.num_classes + 1  # 0 is unlabelled
    for split in ('training', 'validation'):
        for folder, suffix in (('images', 'jpg'), ('annotations', 'png')):
            (root / folder / split).mkdir(parents=True)
            for i, size in enumerate(SIZES):
                shape, top = (size, labels) if suffix == 'png' else ((*size, 3), 256)
                pixels = rng.integers(0, top, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / split / f'{i}.{suffix}')
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(root)
        for step in dataset.pipeline:
            if 'scale' in step:
                step.scale = (256, 64)
            if 'crop_size' in step:
                step.crop_size = (64, 64)
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.test_cfg.update(crop_size=(64, 64), stride=(43, 43))


#: training images of ImageNet-1K, ImageNet-21K (winter 2021, processed) and CIFAR
IMAGES = ('1,281,167', '11,060,223', '50,000')

#: folder of configs -> what makes its data
DATA = {'mmpretrain': folder_of_images, 'mmseg': folder_of_label_maps}

CONFIGS = sorted(path for library in DATA for path in (ROOT / 'configs' / library).glob('*/*.py'))
RECIPES = [path for path in CONFIGS if path.parent.name != 'quickstart']


def name(path):
    return str(path.relative_to(ROOT / 'configs'))


def head_of(path):
    """The comment on top, in one line."""
    return ' '.join(line.lstrip('# ') for line in path.read_text().split('_base_ =')[0].splitlines())


def shrink(cfg, path, tmp_path):
    """The config with a tiny model, two generated images and one iteration."""
    shrink_model(cfg.model)
    DATA[path.relative_to(ROOT / 'configs').parts[0]](cfg, tmp_path / 'data')
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            loader.update(batch_size=min(loader.batch_size, 2), num_workers=0, persistent_workers=False)
    cfg.train_cfg['max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'] = 1
    if cfg.get('val_cfg') is not None:
        cfg.train_cfg.val_interval = 1
    cfg.load_from = None
    cfg.work_dir = str(tmp_path / 'work')
    return cfg


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_trains_a_step(path, tmp_path, monkeypatch):
    """Loads, builds, trains one step that reaches every parameter, evaluates."""
    monkeypatch.setattr(Config, 'pretty_text', property(str))  # formatting takes longer than training
    pytest.importorskip(Config.fromfile(path).default_scope)
    cfg = launch.prepare_train(shrink(launch.load_config(str(path)), path, tmp_path))
    runner = Runner.from_cfg(cfg)
    assert sum(p.numel() for p in runner.model.parameters()) < 1e6
    reached = set()
    for key, param in runner.model.named_parameters():
        if param.requires_grad:
            param.register_post_accumulate_grad_hook(lambda _, key=key: reached.add(key))
    runner.train()
    assert runner.iter == 1
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert np.isfinite(float(loss)) and float(loss) > 0
    assert reached == {key for key, param in runner.model.named_parameters() if param.requires_grad}
    if cfg.get('val_cfg') is not None:
        assert any(key.startswith('val/') for key in runner.message_hub.log_scalars)
    if cfg.default_scope == 'mmseg':
        check_segments(runner)


def check_segments(runner):
    """Whole pictures and sliding windows of several aspect ratios, each prediction of its picture's size."""
    runner.model.eval()
    for mode in ('whole', 'slide'):
        runner.model.test_cfg.mode = mode
        seen = set()
        hook = runner.model.backbone.register_forward_pre_hook(lambda _, args, seen=seen: seen.add(args[0].shape[2:]))
        for batch, size in zip(runner.val_dataloader, SIZES):
            assert batch['data_samples'][0].ori_shape == size
            (result,) = runner.model.test_step(batch)
            assert result.pred_sem_seg.data.shape == (1, *size)
        hook.remove()
        # the test pipelines scale a short side to 64, or leave pictures as they are
        assert (seen == {(64, 64)}) == (mode == 'slide'), seen


@pytest.mark.parametrize('path', RECIPES, ids=name)
def test_head(path):
    """The comment on top labels the paper's number, and gives the model's real size and the config's own command."""
    head = head_of(path)
    assert re.search(r'Paper\b.*\d', head), "the paper's number, labelled"
    assert f'tools/dist_train.sh configs/{name(path)} ' in head
    params, macs, size = re.search(r'Model: ([\d.]+) M parameters, ([\d.]+) GMACs at (\d+)', head).groups()
    found = flops.count_config(launch.load_config(str(path)), (int(size), int(size)))
    assert f'{found.params / 1e6:.2f}' == params
    assert f'{found.macs / 1e9:.2f}' == macs


@pytest.mark.parametrize('path', RECIPES, ids=name)
def test_schedule(path):
    """The head's arithmetic is the config's; loaded weights are another config's; quirks stand where they belong."""
    cfg = launch.load_config(str(path))
    assert cfg.custom_imports.imports == ['mmvisionllama'] and cfg.default_hooks.reseed.type == 'ReseedHook'
    pattern = r'Schedule[^:]*: (\d+) GPUs x (\d+)(?: x (\d+) accumulated)? = (\d+) images; (.*)'
    schedule = re.search(pattern, head_of(path))
    gpus, batch, accumulated, total = (int(number or 1) for number in schedule.groups()[:4])
    assert batch == cfg.train_dataloader.batch_size
    assert accumulated == cfg.optim_wrapper.get('accumulative_counts', 1)
    assert total == gpus * batch * accumulated == cfg.auto_scale_lr.base_batch_size
    epochs = cfg.train_cfg.get('max_epochs')
    if epochs:
        images = re.search(r'floor\(([\d,]+) / ', schedule.group(5)).group(1)
        assert images in IMAGES
        assert f' {int(images.replace(",", "")) // total} iterations x {epochs} epochs' in schedule.group(5)
    for scheduler in cfg.param_scheduler:
        assert scheduler.get('end', 1) <= (epochs or cfg.train_cfg.max_iters), 'a schedule outlasts the training'
    source = cfg.get('load_from') or (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    if source:
        stem = Path(source).parent.name
        assert list((ROOT / 'configs').glob(f'*/*/{stem}.py')), f'{source} is written by no config'
    assert path.stem.endswith('_released') or "'released'" not in str(cfg.model), 'quirks of the release by default'


def test_multi_scale(tmp_path, monkeypatch):
    """tools/test.py --tta on a segmentation: six sizes, each as it is and flipped, merged to one prediction."""
    pytest.importorskip('mmseg')
    monkeypatch.setattr(Config, 'pretty_text', property(str))
    path = next(path for path in RECIPES if path.parent.name == 'pyramid_vision_llama' and 'upernet' in path.name)
    cfg = shrink(launch.load_config(str(path)), path, tmp_path)
    checkpoint = tmp_path / 'weights.pth'
    init_default_scope('mmseg')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), checkpoint)
    cfg = launch.prepare_test(cfg, str(checkpoint), tta=True)
    runner = Runner.from_cfg(cfg)
    widths = []
    runner.model.module.backbone.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[3]))
    metrics = runner.test()
    assert 0 <= metrics['mIoU'] <= 100
    assert len(widths) == 12 * len(SIZES)
    assert sorted(set(widths[:12])) == [50, 75, 100, 125, 150, 175]
