"""The sizes of images reach the backbones inside stock models."""

import copy
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel, BaseTTAModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from mmengine.structures import BaseDataElement
from torch import nn

from mmvisionllama import launch
from mmvisionllama.engine import SizedDataPreprocessor, follow_image_sizes, image_sizes
from mmvisionllama.errors import OptionError
from mmvisionllama.layers.valid_grid import BatchPixels, ValidGrid

ROOT = Path(__file__).parents[2]
SCENES = ROOT / 'configs' / 'mmdet' / 'quickstart' / 'pyramid_vision_llama_digit_scenes.py'
DIGITS = ROOT / 'configs' / 'mmpretrain' / 'quickstart'
SIZES = ((96, 128), (70, 90), (160, 100))


def randomise(model):
    torch.manual_seed(0)
    for param in model.parameters():
        if param.ndim == 1:
            torch.nn.init.normal_(param.data, 0.2, 0.2)
    return model.eval()


def uint8_pictures(sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


#: in the place of the quickstart's backbone and neck
VITDET = dict(
    backbone=dict(
        _delete_=True,
        type='VisionLLaMA',
        arch=dict(embed_dims=32, num_layers=3, num_heads=2),
        anchor=64,
        out_type='featmap',
        with_cls_token=False,
        window_size=3,
        window_block_indexes=(0, 2),
        layer_scale_init_value=0.0,
    ),
    neck=dict(_delete_=True, type='VisionLLaMASimpleFPN', in_channels=32, out_channels=48, num_outs=4),
)


@pytest.fixture(scope='module', params=[None, VITDET], ids=['pyramid, FPN', 'windows, SimpleFPN'])
def mask_rcnn(request):
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    cfg = launch.load_config(str(SCENES))
    init_default_scope('mmdet')
    if request.param:
        cfg.merge_from_dict(dict(model=request.param))
    cfg.model.data_preprocessor.update(type='SizedDataPreprocessor', base='DetDataPreprocessor')
    cfg.model.test_cfg.rcnn.score_thr = 0.02
    torch.manual_seed(0)
    return randomise(MODELS.build(cfg.model))


def scenes(images, with_objects=False):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    samples = []
    for image in images:
        size = tuple(image.shape[1:])
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
        if with_objects:
            height, width = size
            boxes = torch.tensor([[5.0, 5.0, 30.0, 40.0], [width - 30.0, height - 25.0, width, height]])
            masks = torch.ones(2, height, width, dtype=torch.uint8).numpy()
            sample.gt_instances = InstanceData(
                bboxes=boxes, labels=torch.tensor([1, 2]), masks=BitmapMasks(masks, height, width)
            )
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def test_predictions_of_mask_rcnn_do_not_depend_on_the_other_images_of_the_batch(mask_rcnn):
    images = uint8_pictures(SIZES)
    together = mask_rcnn.test_step(scenes(images))
    for image, sample in zip(images, together):
        alone, mine = (result.pred_instances for result in (mask_rcnn.test_step(scenes([image]))[0], sample))
        assert len(alone) == len(mine) > 5
        torch.testing.assert_close(mine.bboxes, alone.bboxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(mine.scores, alone.scores, atol=1e-5, rtol=0)
        assert torch.equal(mine.labels, alone.labels)
        assert (mine.masks == alone.masks).float().mean() > 0.9999


def test_without_sizes_they_do(mask_rcnn):
    model = copy.deepcopy(mask_rcnn)
    model._forward_pre_hooks.clear()
    images = uint8_pictures(SIZES)
    together = model.test_step(scenes(images))[1].pred_instances
    alone = model.test_step(scenes(images[1:2]))[0].pred_instances
    assert len(alone) != len(together) or (alone.scores - together.scores).abs().max() > 1e-3


def test_mask_rcnn_trains_on_a_mixed_batch(mask_rcnn):
    model = copy.deepcopy(mask_rcnn).train()
    data = model.data_preprocessor(scenes(uint8_pictures(SIZES), with_objects=True), training=True)
    losses = model(**data, mode='loss')
    total = sum(value if torch.is_tensor(value) else sum(value) for name, value in losses.items() if 'loss' in name)
    total.backward()
    assert torch.isfinite(total) and float(total) < 100
    patch = model.backbone.first_patch  # anchors outside of an image are trained on nothing
    shapes = [tuple(-(-side // n) * n for side, n in zip(size, patch)) for size in SIZES]
    assert [sample.pad_shape for sample in data['data_samples']] == shapes
    assert all(torch.isfinite(param.grad).all() for param in model.parameters() if param.grad is not None)
    assert model.backbone.batch_pixels.get() is None and mask_rcnn.backbone.batch_pixels.get() is None


@pytest.mark.parametrize('name', ['vision_llama_digits', 'illama_digits', 'pyramid_vision_llama_digits'])
@torch.no_grad()
def test_logits_of_padded_digits_are_those_of_the_digits(name):
    pytest.importorskip('mmpretrain.models', exc_type=ImportError)
    from mmpretrain.structures import DataSample

    cfg = launch.load_config(str(DIGITS / f'{name}.py'))
    init_default_scope('mmpretrain')
    preprocessor = dict(cfg.data_preprocessor, type='SizedDataPreprocessor', base='ClsDataPreprocessor')
    torch.manual_seed(0)
    model = randomise(MODELS.build(dict(cfg.model, data_preprocessor=preprocessor)))
    images = uint8_pictures([(32, 32)] * 2)

    def scores(sizes):
        others = uint8_pictures(sizes)
        inputs = [*images, *others]
        samples = [DataSample(metainfo=dict(img_shape=tuple(image.shape[1:]))) for image in inputs]
        return torch.stack([out.pred_score for out in model.test_step(dict(inputs=inputs, data_samples=samples))[:2]])

    expected = scores([])
    for size in (36, 40, 48):
        torch.testing.assert_close(scores([(size, size - 4)]), expected, atol=1e-5, rtol=0)


#: backbone and neck, channels, the level that the head reads, sizes of images
SEGMENTORS = {
    'pyramid': (
        dict(
            backbone=dict(
                type='PyramidVisionLLaMA',
                arch=dict(embed_dims=(16, 32), depths=(2, 2), num_heads=(1, 2), window_sizes=(3, 3), sr_ratios=(4, 2)),
                anchor=32,
                out_indices=(0, 1),
                layer_scale_init_value=0.0,
            )
        ),
        32,
        1,
        ((40, 64), (31, 50)),
    ),
    # 43 x 33 tokens, of which the neck's coarsest level drops a row and a column
    **{
        f'Feature2Pyramid, level {level}': (
            dict(
                backbone=dict(
                    type='VisionLLaMA',
                    arch=dict(embed_dims=16, num_layers=4, num_heads=2),
                    patch_size=4,
                    anchor=64,
                    out_indices=(0, 1, 2, 3),
                    out_type='featmap',
                    with_cls_token=False,
                    final_norm=False,
                    layer_scale_init_value=0.0,
                ),
                neck=dict(type='Feature2Pyramid', embed_dim=16, norm_cfg=dict(type='BN')),
            ),
            16,
            level,
            ((172, 132), (160, 120), (147, 81)),
        )
        for level in (1, 3)
    },
}


@pytest.mark.parametrize('name', SEGMENTORS)
@torch.no_grad()
def test_logits_of_a_segmentor_do_not_depend_on_the_other_images_of_the_batch(name):
    pytest.importorskip('mmseg.models', exc_type=ImportError)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    init_default_scope('mmseg')
    parts, channels, level, sizes = SEGMENTORS[name]
    head = dict(in_channels=channels, in_index=level, channels=8, num_convs=2, num_classes=3, norm_cfg=dict(type='BN'))
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SizedDataPreprocessor', base='SegDataPreProcessor', size=sizes[0]),
        decode_head=dict(type='FCNHead', **head),
        test_cfg=dict(mode='whole'),
        **parts,
    )
    model = randomise(MODELS.build(model))
    images = uint8_pictures(sizes)

    def logits(*which, training):
        samples = [SegDataSample(metainfo=dict(img_shape=sizes[n], ori_shape=sizes[n])) for n in which]
        for sample in samples:
            sample.gt_sem_seg = PixelData(data=torch.zeros(1, *sample.img_shape, dtype=torch.long))
        data = dict(inputs=[images[n] for n in which], data_samples=samples)
        return model(**model.data_preprocessor(data, training), mode='tensor')

    together = logits(*range(len(sizes)), training=True)  # mmseg pads in training alone
    for n in range(len(sizes)):
        alone = logits(n, training=False)[0]
        mine = together[n, :, : alone.shape[1], : alone.shape[2]]
        torch.testing.assert_close(mine, alone, atol=1e-4, rtol=0)


class Stock(BaseModel):
    """A model as the libraries build them."""

    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        arch = dict(embed_dims=16, num_layers=1, num_heads=2)
        self.backbone = MODELS.build(
            dict(type='VisionLLaMA', arch=arch, patch_size=4, anchor=16, out_type='avg_featmap', with_cls_token=False)
        )

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.backbone(inputs)[0]


class TTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return [torch.stack(preds) for preds in data_samples_list]


def batch(sizes):
    images = uint8_pictures(sizes)
    samples = [BaseDataElement(metainfo=dict(img_shape=size)) for size in sizes]
    return dict(inputs=[image.float() / 255 for image in images], data_samples=samples)


def sized():
    torch.manual_seed(0)
    return Stock(dict(type='SizedDataPreprocessor', base='ImgDataPreprocessor')).eval()


@torch.no_grad()
def test_test_time_augmentation_sees_the_sizes():
    init_default_scope('mmengine')
    model, data = sized(), batch([(16, 20), (24, 12)])
    flipped = dict(data, inputs=[image.flip(2) for image in data['inputs']])
    augmented = {key: [data[key], flipped[key]] for key in data}
    out = TTA(module=model).test_step(augmented)
    for n in range(2):
        for k, views in enumerate((data, flipped)):
            alone = model.test_step({key: value[n : n + 1] for key, value in views.items()})
            torch.testing.assert_close(out[n][k], alone[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_models_built_by_hand_follow_too_and_calls_without_samples_have_no_sizes():
    init_default_scope('mmengine')
    model = Stock(dict(type='ImgDataPreprocessor')).eval()
    follow_image_sizes(model)
    data = model.data_preprocessor(batch([(16, 20), (24, 12)]))
    x = data['inputs']
    expected = model.backbone(x, valid_sizes=[(16, 20), (24, 12)])[0]
    torch.testing.assert_close(model(**data), expected, atol=0, rtol=0)
    assert (model(x) - expected).abs().max() > 1e-4
    torch.testing.assert_close(model(x), model.backbone(x)[0], atol=0, rtol=0)


@torch.no_grad()
def test_distributed_models_follow_too(tmp_path):
    from mmengine.model import MMDistributedDataParallel

    init_default_scope('mmengine')
    model, data = sized(), batch([(16, 20), (24, 12)])
    expected = model.test_step(data)
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        out = MMDistributedDataParallel(model).test_step(data)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(out, expected, atol=0, rtol=0)


def test_models_are_freed():
    """The hook that waits for the model is torch's, for all modules."""
    init_default_scope('mmengine')
    model = weakref.ref(sized())
    hooks = list(nn.modules.module._global_module_registration_hooks)
    gc.collect()
    assert model() is None
    sized()
    # those of a freed model went amid a compilation, which ended in an error
    assert list(nn.modules.module._global_module_registration_hooks) == hooks


@torch.no_grad()
def test_compiled_models_follow_too():
    init_default_scope('mmengine')
    model = sized()
    step = torch.compile(model.test_step, backend='eager')  # as mmengine's Runner does
    for sizes in ([(16, 20), (24, 12)], [(24, 20), (9, 8)]):
        picture = batch(sizes)
        alone = torch.cat(
            [model.test_step({key: value[n : n + 1] for key, value in picture.items()}) for n in range(len(sizes))]
        )
        torch.testing.assert_close(step(picture), alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_each_thread_has_its_own_sizes(monkeypatch):
    """A server's threads share a model, and its batches meet inside."""
    init_default_scope('mmengine')
    model, met = sized(), threading.Barrier(2)
    batches = [model.data_preprocessor(batch(sizes)) for sizes in ([(16, 20), (24, 12)], [(24, 20), (9, 8)])]
    expected = [model(**data) for data in batches]
    assert not torch.allclose(expected[0], model.backbone(batches[0]['inputs'])[0])
    valid_pixels = model.backbone.valid_pixels
    monkeypatch.setattr(model.backbone, 'valid_pixels', lambda *args: (met.wait(60), valid_pixels(*args))[1])
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda data: model(**data), batches))
    for out, alone in zip(found, expected):
        torch.testing.assert_close(out, alone, atol=1e-6, rtol=0)


def test_mmengines_activation_checkpointing_is_refused_where_it_would_forget_the_sizes():
    init_default_scope('mmengine')
    model = sized().train()
    turn_on_activation_checkpointing(model, 'backbone')
    full, mixed = (model.data_preprocessor(batch(sizes)) for sizes in ([(16, 20)] * 2, [(16, 20), (24, 12)]))
    full['inputs'].requires_grad_()  # what it computes again needs that
    model(**full).sum().backward()
    with pytest.raises(OptionError, match="activation_checkpointing of 'backbone' .*backbone.with_cp=True"):
        model(**mixed)
    with torch.no_grad():
        assert torch.isfinite(model(**mixed)).all()
    grads = []
    for checkpointed in (False, True):  # blocks have the sizes in what they are given
        model = sized().train()
        if checkpointed:
            turn_on_activation_checkpointing(model, 'backbone.layers.0')
        model(**mixed).square().sum().backward()
        grads.append([param.grad for param in model.parameters()])
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs)


def test_threads_that_meet_at_the_first_padded_batch(monkeypatch):
    """One set of hooks, whoever comes first, and both wait for it."""
    init_default_scope('mmengine')
    model, installed = sized(), []

    def install(self, model):
        installed.append(self)
        time.sleep(0.2)  # time enough for the other thread

    monkeypatch.setattr(image_sizes.PaddingHider, 'install', install)
    data = model.data_preprocessor(batch([(16, 20), (24, 12)]))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: model(**data), range(2)))
    (hider,) = installed
    assert hider.pixels.get() is None and not hider.pixels.of_thread


def test_graphs_and_threads():
    pixels, other = BatchPixels(), ValidGrid(torch.tensor([[1, 2]]), (3, 4))
    pixels.set(other)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(pixels.get).result() is None
        threads.submit(pixels.set, None).result()
    pixels.set_in_graph, pixels.last = True, None  # as a compiled pass of another thread leaves it
    assert pixels.get() is other


def test_a_failed_batch_leaves_no_sizes_behind():
    init_default_scope('mmengine')
    model = sized()
    data = model.data_preprocessor(batch([(16, 20), (24, 12)]))
    with pytest.raises(TypeError):
        model(**data, mode='loss', unknown=1)
    assert model.backbone.batch_pixels.get() is None


def test_other_backbones_see_the_padding():
    """A baseline in a config that has the preprocessor."""
    init_default_scope('mmengine')
    model = sized()
    model.backbone = nn.Conv2d(3, 4, 1)
    data = model.data_preprocessor(batch([(16, 20), (24, 12)]))
    assert torch.equal(model(**data), model.backbone(data['inputs'])[0])


def test_preprocessors_may_wait_for_their_models_together():
    init_default_scope('mmengine')
    first, second = (SizedDataPreprocessor('ImgDataPreprocessor') for _ in range(2))
    models = Stock(first), Stock(second)
    for model in models:
        assert len(model._forward_pre_hooks) == 1


def test_inside_another_preprocessor_it_is_refused():
    """As in mmdetection's semi-supervised detectors, whose students are never called."""
    init_default_scope('mmengine')
    branches = BaseDataPreprocessor()
    with pytest.raises(OptionError, match='BaseDataPreprocessor does not hand sizes on.* give it ImgDataPreprocessor'):
        branches.data_preprocessor = SizedDataPreprocessor('ImgDataPreprocessor')


def test_wrong_or_missing_sizes_are_named():
    init_default_scope('mmengine')
    model = sized()
    for metainfo in (dict(), dict(img_shape=(99, 12))):
        data = model.data_preprocessor(batch([(16, 20), (24, 12)]))
        data['data_samples'][1] = BaseDataElement(metainfo=metainfo)
        with pytest.raises(OptionError, match='img_shape'):
            model(**data)


def test_batches_that_the_model_cuts_up_are_refused():
    init_default_scope('mmengine')
    model = sized()
    forward = model.backbone.forward
    model.backbone.forward = lambda x: forward(x[:, :, :8])
    with pytest.raises(ValueError, match='without padding'):
        model(**model.data_preprocessor(batch([(16, 20), (24, 12)])))
