"""Detection configs: positions at detection sizes, the rates of ViTDet by hand, its data pipeline and accumulation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmvisionllama import launch

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'mmdet').glob('*/*_coco*.py'))
VITDET = [path for path in CONFIGS if path.parent.name == 'vitdet']
BASE = next(path for path in VITDET if path.stem.startswith('visionllama-base') and path.stem.endswith('1024px'))


def load(path):
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    cfg = launch.load_config(str(path))
    init_default_scope('mmdet')
    return cfg


def backbone(cfg):
    cfg = cfg.model.backbone.copy()
    cfg.pop('init_cfg')
    with torch.device('meta'):
        return MODELS.build(cfg)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_positions_at_detection_sizes(path):
    """The last row and column of 800 x 1344 and of 1024 x 1024; the released variants do what the release does."""
    model = backbone(load(path))
    released = path.stem.endswith('_released')
    for height, width in ((800, 1344), (1024, 1024)):
        if hasattr(model, 'calibrations'):
            for stage, (calibration, anchor) in enumerate(zip(model.calibrations, (56, 28, 14, 7))):
                rows, cols = height // (4 * 2**stage), width // (4 * 2**stage)
                x, y = calibration.query_positions((rows, cols), dtype=torch.float64)[-1].tolist()
                assert y == pytest.approx((rows - 1) * (14 if released else anchor) / rows)
                assert x == pytest.approx((cols - 1) * (14 / rows if released else anchor / cols))
        else:
            rows, cols = height // 16, width // 16
            x, y = model.rotary_positions((rows, cols), dtype=torch.float64)[-1].tolist()
            scale_x, scale_y = (1, 1) if released else (14 / cols, 14 / rows)
            assert (x, y) == (pytest.approx((cols - 1) * scale_x), pytest.approx((rows - 1) * scale_y))


@pytest.mark.parametrize('path', VITDET, ids=lambda path: path.stem)
def test_rates_of_vitdet(path):
    """Section D.9: lr 1e-4, weight decay 0.1, factor 0.7 for each layer; for L, which the paper lacks, ViTDet's 0.8."""
    cfg = load(path)
    factor, layers, count = (0.8, 24, 4) if '-large-' in path.stem else (0.7, 12, 4)
    model = nn.ModuleDict(dict(backbone=backbone(cfg), rpn_head=nn.Linear(2, 2, device='meta')))
    assert layers - len(model.backbone.window_block_indexes) == count, 'global blocks'
    assert layers - 1 not in model.backbone.window_block_indexes, 'the last block is global'
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {id(param): (group['lr'], group['weight_decay']) for group in groups for param in group['params']}
    for name, power, decay in (
        ('backbone.patch_embed.projection.weight', layers + 1, 0.1),
        ('backbone.patch_embed.projection.bias', layers + 1, 0.0),
        ('backbone.layers.0.attn.qkv.weight', layers, 0.1),
        ('backbone.layers.3.ln1.weight', layers - 3, 0.0),
        (f'backbone.layers.{layers - 1}.ffn.down.weight', 1, 0.1),
        ('rpn_head.weight', 0, 0.1),
    ):
        assert found[id(model.get_parameter(name))] == (pytest.approx(1e-4 * factor**power), decay), name


@pytest.mark.parametrize('suffix', ['', '_released'])
def test_what_decays_in_the_pyramid(suffix):
    """0.05 for what has two dimensions; in the release for all but norms, biases and LayerScale included."""
    cfg = load(next(path for path in CONFIGS if path.stem.endswith(f'base_mask-rcnn_8xb2-ms-3x_coco{suffix}')))
    cfg.model.backbone.init_cfg = None
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {id(param): (group['lr'], group['weight_decay']) for group in groups for param in group['params']}
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) > 50 and not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    exempt = {id(param) for module in norms for param in module.parameters()}
    for key, param in model.named_parameters():
        decays = id(param) not in exempt if suffix else param.ndim > 1
        assert found[id(param)] == (1e-4, 0.05 if decays else 0.0), key


def test_two_batches_make_one_step():
    """Gradients of two batches are averaged, in bf16; the rates fall after the epochs of the paper."""
    cfg = load(BASE)
    backbone = MODELS.build(dict(type='VisionLLaMA', arch=dict(embed_dims=16, num_layers=1, num_heads=2)))
    model = nn.ModuleDict(dict(backbone=backbone, head=nn.Linear(4, 1)))
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=1.0)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrapper.initialize_count_status(model, 0, 4)
    head, start = model.head, model.head.weight.detach().clone()
    inputs, weights, dtypes = torch.eye(4)[:2], [start], set()
    for i in range(4):
        with wrapper.optim_context(model):
            out = head(inputs[i % 2])
        dtypes.add(out.dtype)
        wrapper.update_params(out.float().sum())
        weights.append(head.weight.detach().clone())
    assert dtypes == {torch.bfloat16}
    step = -inputs.mean(dim=0)
    for found, steps in zip(weights, (0, 0, 1, 1, 2)):
        torch.testing.assert_close(found, start + steps * step)
    assert cfg.param_scheduler[0].end == 1000 * cfg.optim_wrapper.accumulative_counts
    assert cfg.param_scheduler[1].milestones == [27, 33] and cfg.train_cfg.max_epochs == 36


@pytest.fixture
def objects(tmp_path):
    """One landscape of 640 x 427 with two objects in its left fifth, in COCO's layout."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (427, 640, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / '0.jpg')
    annotations = []
    for x, y, w, h in ((20, 30, 90, 60), (60, 250, 70, 80)):
        segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotation = dict(id=len(annotations) + 1, image_id=0, category_id=1, iscrowd=0, area=w * h, bbox=[x, y, w, h])
        annotations.append(dict(annotation, segmentation=segmentation))
    coco = dict(images=[dict(id=0, file_name='0.jpg', width=640, height=427)], annotations=annotations)
    (tmp_path / 'coco.json').write_text(json.dumps(dict(coco, categories=[dict(id=1, name='thing')])))
    return dict(
        data_root=str(tmp_path), ann_file='coco.json', data_prefix=dict(img=''), metainfo=dict(classes=('thing',))
    )


def samples(cfg, objects, count):
    from mmdet.registry import DATASETS

    np.random.seed(0)
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, **objects))
    return [dataset[0] for _ in range(count)]


def check_boxes(sample):
    """Boxes lie in the image, and masks in boxes."""
    instances, (height, width) = sample['data_samples'].gt_instances, sample['inputs'].shape[1:]
    assert len(instances.bboxes) == len(instances.masks) == len(instances.labels)
    for box, mask in zip(instances.bboxes.tensor, instances.masks.to_ndarray() if len(instances.masks) else ()):
        assert mask.shape == (height, width)
        left, top, right, bottom = box.tolist()
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found = (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
        np.testing.assert_allclose(found, box, atol=3)  # pixels of a crop that was enlarged


def test_large_scale_jitter(objects):
    """Scales from 0.1 to 2 of 1024, crops of 1024 at most, images without objects too; the model sees 1024 x 1024."""
    cfg = load(BASE)
    found = samples(cfg, objects, 60)
    sides = np.array([sample['inputs'].shape[1:] for sample in found])
    assert sides.max() == 1024 and sides.min() < 200
    widths = sides[:, 1]
    assert 0.25 < (widths == 1024).mean() < 0.75, 'half of the factors exceed 1'
    smaller = sides[widths < 1024]
    np.testing.assert_allclose(smaller[:, 0] / smaller[:, 1], 427 / 640, atol=0.02)
    counts = [len(sample['data_samples'].gt_instances) for sample in found]
    assert 0 in counts and 2 in counts, 'crops without objects stay'
    for sample in found:
        check_boxes(sample)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    batch = dict(inputs=[s['inputs'] for s in found[:3]], data_samples=[s['data_samples'] for s in found[:3]])
    batch = preprocessor(batch, training=True)
    assert batch['inputs'].shape == (3, 3, 1024, 1024)
    (height, width), image = sides[0], batch['inputs'][0]
    assert image[:, :height, :width].std() > 0.5
    assert not image[:, height:].any() and not image[:, :, width:].any(), 'padded right and below'


def test_pipelines_of_released_vitdet(objects, tmp_path):
    """114 right and below before the normalisation, in testing too; crops that keep no object are dropped."""
    from mmdet.registry import DATASETS, TRANSFORMS

    cfg = load(next(path for path in VITDET if path.stem.endswith('_released')))
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    (test_sample,) = DATASETS.build(dict(cfg.test_dataloader.dataset, **objects))
    found = [*samples(cfg, objects, 8), test_sample]
    for sample in found:
        image = sample['inputs']
        assert image.shape == (3, 1024, 1024) and sample['data_samples'].img_shape == (1024, 1024)
        # random pixels and then the padding: columns and rows that are 114 throughout
        grey = (image == 114).all(dim=0)
        rows, cols = int((~grey.all(dim=1)).sum()), int((~grey.all(dim=0)).sum())
        assert grey[rows:].all() and grey[:, cols:].all()
        if sample is test_sample:
            assert (rows, cols) == (683, 1024)
        if rows < 1024:
            (padded,) = preprocessor(dict(inputs=[image], data_samples=[sample['data_samples']]))['inputs']
            expected = [(114 - mean) / std for mean, std in zip((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))]
            torch.testing.assert_close(padded[:, -1, 0], torch.tensor(expected))
    for sample in found[:-1]:
        check_boxes(sample)
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline

    # a box whose mask is empty
    from mmdet.structures.bbox import HorizontalBoxes

    for kept, released in ((load(BASE), False), (cfg, True)):
        (step,) = [step for step in kept.train_dataloader.dataset.pipeline if step.type == 'FilterAnnotations']
        result = TRANSFORMS.build(step)(dict(gt_bboxes=HorizontalBoxes(torch.tensor([[5.0, 5.0, 5.0, 5.0]]))))
        assert (result is None) == released
        empty = TRANSFORMS.build(step)(dict(gt_bboxes=HorizontalBoxes(torch.zeros(0, 4))))
        assert len(empty['gt_bboxes']) == 0, 'without any box nothing is filtered'


def test_multi_scale(objects):
    """Short sides of 480 ... 800, as they are or cropped out of a resized image before."""
    found = samples(load(next(path for path in CONFIGS if 'base_mask-rcnn_8xb2-ms-3x' in path.stem)), objects, 60)
    sides = np.array([sample['inputs'].shape[1:] for sample in found])
    assert set(sides.min(axis=1)) <= set(range(480, 801, 32)) and len(set(sides.min(axis=1))) > 5
    whole = np.abs(sides[:, 0] / sides[:, 1] - 427 / 640) < 0.01
    assert 0.25 < whole.mean() < 0.75
    for sample in found:
        check_boxes(sample)


def test_vitdet_at_another_size():
    """Not only squares: a detector whose images are padded to patches alone, the map no multiple of the window."""
    cfg = load(BASE).model
    cfg.data_preprocessor.pad_size_divisor = 16
    cfg.backbone.update(arch=dict(embed_dims=32, num_layers=12, num_heads=2), window_size=3, init_cfg=None)
    cfg.neck.update(in_channels=32, out_channels=16)
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    for part in ('bbox', 'mask'):
        cfg.roi_head[f'{part}_roi_extractor'].out_channels = 16
        cfg.roi_head[f'{part}_head'].update(in_channels=16, conv_out_channels=16)
    cfg.roi_head.bbox_head.fc_out_channels = 16
    cfg.test_cfg.rcnn.score_thr = 0.0
    model = MODELS.build(cfg).eval()
    grids = []
    model.backbone.register_forward_hook(lambda module, args, out: grids.append(tuple(out[0].shape[2:])))
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo=dict(img_shape=(72, 170), ori_shape=(72, 170), scale_factor=(1.0, 1.0)))
    image = torch.randint(0, 256, (3, 72, 170), dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    assert grids == [(5, 11)]
    assert len(result.pred_instances) and result.pred_instances.masks.shape[1:] == (72, 170)
