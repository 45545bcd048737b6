"""Every config loads, says what it must in its head, builds at a tiny size through the Runner and trains a step.

What a head says, in a comment (lines may be wrapped)::

    # Paper (Table 2): top-1 81.6 %. ...
    # Model: 21.96 M parameters, 4.60 GMACs at 224. ...
    # Schedule (Table 13): 8 GPUs x 256 = 2048 images; floor(1,281,167 / 2048) = 625 iterations x 800 epochs. ...
    # Schedule: 8 GPUs x 128 x 4 accumulated = 4096 images; floor(1,281,167 / 1024) = 1251 iterations x 300 epochs. ...
    # 375,300 iterations are 93,825 steps of the optimizer ...
    #
    #     tools/dist_train.sh configs/... 8

Another library: its folder in ``DATA``, its backbones, necks and heads in the tables of what is shrunk.
"""

import json
import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmvisionllama import launch
from mmvisionllama.analysis import flops

ROOT = Path(__file__).parents[2]

DIM = 32
#: backbone -> the tiny arch
PLAIN = dict(embed_dims=DIM, num_layers=2, num_heads=2)
PYRAMID = dict(embed_dims=(8, 8, 16, DIM), depths=(1, 2, 1, 1), num_heads=(2, 2, 2, 2))
BACKBONES = {'VisionLLaMA': PLAIN, 'MAEVisionLLaMA': PLAIN, 'iLLaMA': PLAIN, 'PyramidVisionLLaMA': PYRAMID}
# mmpretrain's, the study's baselines
BACKBONES['VisionTransformer'] = dict(PLAIN, feedforward_channels=2 * DIM)
BACKBONES['MAEViT'] = BACKBONES['VisionTransformer']
BACKBONES['SVT'] = dict(
    embed_dims=[8, 16, DIM],
    depths=[1, 2, 1],
    num_heads=[2, 2, 2],
    patch_sizes=[4, 2, 2],
    strides=[4, 2, 2],
    mlp_ratios=[2, 2, 2],
    sr_ratios=[4, 2, 1],
    window_sizes=[6, 6, 6],
)
#: mmdet's, which have no arch; their levels double in width
WIDENING = {
    'ResNet': dict(base_channels=8),
    'SwinTransformer': dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2)),
}
#: height and width of the pictures of a segmentation
SIZES = ((64, 100), (90, 64))
#: neck or head -> settings that go with the tiny backbone
PARTS = {
    'ClsBatchNormNeck': dict(input_features=DIM),
    'FCNHead': dict(in_channels=DIM, channels=8),
    'FPN': dict(in_channels=[*PYRAMID['embed_dims']], out_channels=8),
    'Feature2Pyramid': dict(embed_dim=DIM),
    'GlobalAveragePooling': dict(),
    'LinearClsHead': dict(in_channels=DIM),
    'MAEPretrainDecoder': dict(embed_dim=DIM, decoder_embed_dim=DIM, decoder_depth=1, decoder_num_heads=2),
    'MAEPretrainHead': dict(),
    'RPNHead': dict(in_channels=8, feat_channels=8),
    'StandardRoIHead': dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=8),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8),
    ),
    'UPerHead': dict(in_channels=[DIM] * 4, channels=8),
    'VisionLLaMASimpleFPN': dict(in_channels=DIM, out_channels=8),
    'VisionTransformerClsHead': dict(in_channels=DIM),
}


def shrink_model(model):
    """A model of the same kind and a few thousand parameters, without pre-trained weights."""
    backbone = model.backbone
    if backbone.type in WIDENING:
        backbone.update(WIDENING[backbone.type])
        shrink_parts(model, dict(PARTS, FPN=dict(in_channels=[8, 16, 32, 64], out_channels=8)))
        return
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
    if backbone.get('window_block_indexes'):
        backbone.update(window_size=3, window_block_indexes=(0,))
    shrink_parts(model, parts)


def shrink_parts(model, parts):
    """Necks and heads that go with a tiny backbone."""
    for name in ('neck', 'head', 'decode_head', 'auxiliary_head', 'rpn_head', 'roi_head'):
        part = model.get(name)
        if part:
            assert part.type in parts, f'say in PARTS how to shrink {part.type}'
            update(part, parts[part.type])


def update(part, settings):
    """Settings of the part, and of the parts in it."""
    for key, value in settings.items():
        if isinstance(value, dict):
            update(part[key], value)
        else:
            part[key] = value
    if part.get('type') == 'Shared4Conv1FCBBoxHead':
        part.conv_out_channels = part.in_channels


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


def folder_of_objects(cfg, root):
    """mmdet: COCO's layout, images of several aspect ratios, a crowd, an image without objects; an eighth in size."""
    from mmdet.datasets import CocoDataset
    from PIL import Image

    rng = np.random.default_rng(0)
    classes = cfg.train_dataloader.dataset.get('metainfo', CocoDataset.METAINFO)['classes']
    images, annotations = [], []
    (root / 'images').mkdir(parents=True)
    for number, (width, height) in enumerate(((96, 64), (48, 90), (20, 20))):  # the last is smaller than a window
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / f'images/{number}.jpg')
        images.append(dict(id=number, file_name=f'{number}.jpg', height=height, width=width))
    for image, category, crowd, (x, y, w, h) in (
        (0, 0, 0, (10, 5, 60, 40)),
        (0, 3, 0, (50, 20, 30, 30)),
        (0, 3, 1, (0, 0, 20, 10)),
        (1, 9, 0, (4, 30, 40, 50)),
    ):
        segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if crowd:  # in a box that starts at the image's corner
            runs = [0, *[h, 64 - h] * w]
            segmentation = dict(size=[64, 96], counts=[*runs[:-1], 64 * 96 - sum(runs[:-1])])
        category_id = category % len(classes) + 1
        annotation = dict(id=len(annotations) + 1, image_id=image, category_id=category_id, iscrowd=crowd)
        annotations.append(dict(annotation, area=w * h, bbox=[x, y, w, h], segmentation=segmentation))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(classes)]
    (root / 'coco.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.update(data_root=str(root), ann_file='coco.json', data_prefix=dict(img='images/'))
        if split == 'train':
            dataset.filter_cfg.min_size = 0
        dataset.pipeline = [smaller(step) for step in dataset.pipeline]
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(root / 'coco.json')
    preprocessor = cfg.model.data_preprocessor
    preprocessor.pad_size_divisor = max(preprocessor.pad_size_divisor // 8, 32)
    cfg.model.train_cfg.rpn_proposal.max_per_img = cfg.model.test_cfg.rpn.max_per_img = 20


def smaller(step):
    """A pipeline step whose sizes, and those of the steps in it, are an eighth."""
    step = step.copy()
    for key in ('scale', 'crop_size', 'size'):
        if key in step:
            step[key] = tuple(side // 8 for side in step[key])
    if 'scales' in step:
        step.scales = [tuple(side // 8 for side in scale) for scale in step.scales]
    if 'transforms' in step:
        step.transforms = [[smaller(inner) for inner in branch] for branch in step.transforms]
    return step


#: training images of ImageNet-1K, ImageNet-21K (winter 2021, processed), CIFAR, and those of COCO that show an object
IMAGES = ('1,281,167', '11,060,223', '50,000', '117,266')

#: folder of configs -> what makes its data
DATA = {'mmpretrain': folder_of_images, 'mmseg': folder_of_label_maps, 'mmdet': folder_of_objects}

CONFIGS = sorted(path for library in DATA for path in (ROOT / 'configs' / library).glob('*/*.py'))
RECIPES = [path for path in CONFIGS if path.parent.name not in ('quickstart', 'study')]


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
    if cfg.get('compile'):
        cfg.compile = dict(
            backend='eager'
        )  # captured as a graph; what a compiler makes of it is tested with the backbones
    cfg.work_dir = str(tmp_path / 'work')
    return cfg


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_trains_a_step(path, tmp_path, monkeypatch):
    """Loads, builds, trains one step that reaches every parameter, evaluates."""
    monkeypatch.setattr(Config, 'pretty_text', property(str))  # formatting takes longer than training
    pytest.importorskip(Config.fromfile(path).default_scope)
    if 'qat' in path.stem:
        pytest.importorskip('torchao')
    if Config.fromfile(path).get('compile') and torch.__version__ < '2.6':
        pytest.skip("torch 2.5 does not compile mmengine's training step")
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
    elif cfg.default_scope == 'mmdet':
        check_objects(runner)


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


def check_objects(runner):
    """A landscape, a portrait and one smaller than a window in one batch, each prediction of its picture's size."""
    runner.model.eval()
    runner.model.test_cfg.rcnn.score_thr = 0.0
    dataset = runner.val_dataloader.dataset
    padded = any(step.type == 'Pad' for step in runner.cfg.val_dataloader.dataset.pipeline)
    results = runner.model.test_step(runner.val_dataloader.collate_fn([dataset[i] for i in range(3)]))
    for result, (height, width) in zip(results, ((64, 96), (90, 48), (20, 20))):
        found = result.pred_instances
        assert len(found) and found.masks.shape == (len(found), height, width)
        # a pipeline that pads clips at the padded square, which keeps the longer side but for a pixel of rounding
        limit = [max(width, height) + 1] * 2 if padded else [width, height]
        assert found.bboxes.min() >= 0 and (found.bboxes.amax(0)[2:] <= found.bboxes.new_tensor(limit)).all()


@pytest.mark.parametrize('path', RECIPES, ids=name)
def test_head(path):
    """The comment on top labels the paper's number, and gives the model's real size and the config's own command."""
    pytest.importorskip(name(path).split('/')[0])
    head = head_of(path)
    assert re.search(r'Paper\b.*\d', head), "the paper's number, labelled"
    assert f'tools/dist_train.sh configs/{name(path)} ' in head
    pattern = r'Model: ([\d.]+) M parameters, ([\d.]+) GMACs at (\d+)(?: x (\d+))?'
    params, macs, height, width = re.search(pattern, head).groups()
    found = flops.count_config(launch.load_config(str(path)), (int(height), int(width or height)))
    assert f'{found.params / 1e6:.2f}' == params
    assert f'{found.macs / 1e9:.2f}' == macs


#: switches of the released code's behaviour
QUIRKS = dict(
    cfg_channels='first_three',
    cls_position='above_top_right',
    gap_norm='twice',
    key_position='flat_index',
    mask_mode='multiplicative',
    mask_padding=False,
    norm_after_stage='in_trunk',
    ntk_keys='plain_base',
    rope_scale='none',
    scale='height',
)


def quirks(model):
    """Names of the switches in a model's config that stand as the release has them."""
    found = set()
    for key, value in model.items():
        if isinstance(value, dict):
            found |= quirks(value)
        elif key in QUIRKS and value == QUIRKS[key] and type(value) is type(QUIRKS[key]):
            found.add(key)
    return found


@pytest.mark.parametrize('path', [*CONFIGS, *(ROOT / 'configs').glob('generation/*/*.py')], ids=name)
def test_switch_values_say_what_they_do(path):
    """Provenance is in the file's name."""
    assert "'released'" not in str(Config.fromfile(path).model)


def rate_factor(cfg, gpus):
    """What ``--auto-scale-lr`` multiplies the learning rate with, by mmengine's own code."""
    optim_wrapper = OptimWrapper(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0))
    runner = SimpleNamespace(
        _train_dataloader=cfg.train_dataloader,
        world_size=gpus,
        param_schedulers=cfg.param_scheduler,
        logger=logging.getLogger('test'),
    )
    Runner.scale_lr(runner, optim_wrapper, dict(cfg.auto_scale_lr, enable=True))
    return optim_wrapper.optimizer.param_groups[0]['lr']


GENERATION = sorted(
    path for path in (ROOT / 'configs/generation').glob('*/*.py') if path.parent.name not in ('quickstart', 'study')
)


@pytest.mark.parametrize('path', [*RECIPES, *GENERATION], ids=name)
def test_automatic_scaling_keeps_the_rate_at_the_documented_batch(path):
    """GPUs and images per GPU are in the file's name; accumulated batches belong to the recipe's rate."""
    gpus, batch = map(int, re.search(r'_(\d+)xb(\d+)', path.stem).groups())
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.batch_size == batch
    assert rate_factor(cfg, gpus) == 1
    assert rate_factor(cfg, 2 * gpus) == 2


@pytest.mark.parametrize('path', RECIPES, ids=name)
def test_schedule(path):
    """The head's arithmetic is the config's; loaded weights are another config's; quirks stand where they belong."""
    pytest.importorskip(name(path).split('/')[0])
    cfg = launch.load_config(str(path))
    assert cfg.custom_imports.imports == ['mmvisionllama'] and cfg.default_hooks.reseed.type == 'ReseedHook'
    pattern = r'Schedule[^:]*: (\d+) GPUs x (\d+)(?: x (\d+) accumulated)? = (\d+) images; (.*)'
    schedule = re.search(pattern, head_of(path))
    gpus, batch, accumulated, total = (int(number or 1) for number in schedule.groups()[:4])
    assert batch == cfg.train_dataloader.batch_size
    assert accumulated == cfg.optim_wrapper.get('accumulative_counts', 1)
    assert total == gpus * batch * accumulated
    epochs = cfg.train_cfg.get('max_epochs')
    iterations = cfg.train_cfg.get('max_iters')
    if epochs:
        rounding, images, divisor = re.search(r'(floor|ceil)\(([\d,]+) / (\d+)\)', schedule.group(5)).groups()
        assert images in IMAGES
        count = int(images.replace(',', ''))
        assert int(divisor) == gpus * batch, 'an iteration of the Runner is one batch of every GPU'
        iterations = getattr(math, rounding)(count / int(divisor))
        # mmengine's sampler gives every GPU as many images, some twice
        whole = math.floor if cfg.train_dataloader.get('drop_last') else math.ceil
        assert iterations == whole(math.ceil(count / gpus) / batch)
        assert f' {iterations} iterations x {epochs} epochs' in schedule.group(5)
        iterations *= epochs
        if accumulated > 1:
            steps = math.ceil(iterations / accumulated)  # mmengine's last step may have fewer batches
            assert f'{iterations:,} iterations are {steps:,} steps of the optimizer' in schedule.group(5)
    for scheduler in cfg.param_scheduler:
        last = epochs if scheduler.get('by_epoch', True) else iterations
        assert scheduler.get('end', 1) <= last, 'a schedule outlasts the training'
    source = cfg.get('load_from') or (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    if source:
        stem = Path(source).parent.name
        assert list((ROOT / 'configs').glob(f'*/*/{stem}.py')), f'{source} is written by no config'
    assert path.stem.endswith('_released') or not quirks(cfg.model), 'quirks of the release by default'


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
    resizes = cfg.test_dataloader.dataset.pipeline[-1].transforms[0]
    assert [step.scale[1] / 512 for step in resizes] == [0.5, 0.75, 1, 1.25, 1.5, 1.75]
    assert all(step.scale[0] == 4 * step.scale[1] for step in resizes)  # around the 2048 x 512 of a test at one scale
    for step in resizes:
        step.scale = tuple(side // 8 for side in step.scale)
    runner = Runner.from_cfg(cfg)
    widths = []
    runner.model.module.backbone.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[3]))
    metrics = runner.test()
    assert 0 <= metrics['mIoU'] <= 100
    assert len(widths) == 12 * len(SIZES)
    assert sorted(set(widths[:12])) == [50, 75, 100, 125, 150, 175]


DETECTORS = ('pyramid-visionllama-base_mask-rcnn_8xb2-1x', 'visionllama-base-p16_mae-800e-pre_vitdet_8xb4-accum2-36e')
DETECTORS = [path for path in RECIPES if path.name.startswith(DETECTORS) and not path.stem.endswith('_released')]
LOSSES = [f'train/loss{part}' for part in ('', '_rpn_cls', '_cls', '_bbox', '_mask')]


@pytest.mark.parametrize('kept', ['crowd', 'nothing'])
@pytest.mark.parametrize('path', DETECTORS, ids=name)
def test_images_without_objects(path, kept, tmp_path, monkeypatch):
    """A batch whose only annotation is a crowd, or that has none at all, trains; so does a test without any object."""
    pytest.importorskip(name(path).split('/')[0])
    monkeypatch.setattr(Config, 'pretty_text', property(str))
    cfg = shrink(launch.load_config(str(path)), path, tmp_path)
    file = tmp_path / 'data/coco.json'
    coco = json.loads(file.read_text())
    coco['annotations'] = [item for item in coco['annotations'] if item['iscrowd'] and kept == 'crowd']
    file.write_text(json.dumps(coco))
    cfg.train_dataloader.dataset.filter_cfg = None
    runner = Runner.from_cfg(launch.prepare_train(cfg))
    runner.train()
    losses = {key: float(runner.message_hub.get_scalar(key).current()) for key in LOSSES}
    assert all(np.isfinite(value) for value in losses.values())
    assert losses['train/loss_rpn_cls'] > 0 and losses['train/loss_cls'] > 0
    assert losses['train/loss_bbox'] == losses['train/loss_mask'] == 0
