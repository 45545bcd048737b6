"""Counts against the architecture tables, by hand, and through the tool."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmvisionllama.engine import flops
from mmvisionllama.errors import OptionError

CONFIGS = Path(__file__).parents[2] / 'configs'


def classifier(arch, channels):
    head = dict(type='VisionTransformerClsHead', num_classes=1000, in_channels=channels)
    backbone = dict(type='VisionLLaMA', arch=arch)
    return Config(dict(default_scope='mmpretrain', model=dict(type='ImageClassifier', backbone=backbone, head=head)))


@pytest.mark.parametrize(
    'arch, channels, params, gmacs',
    [
        ('small', 384, 21_961_192, 4.60),
        ('base', 768, 86_388_712, 17.56),
        ('large', 1024, 310_342_632, 62.79),
    ],
)
def test_plain(arch, channels, params, gmacs):
    """Table 17's models at 224 with a head of 1000 classes."""
    pytest.importorskip('mmpretrain.models')
    found = flops.count_config(classifier(arch, channels), (224, 224))
    assert found.params == found.trainable == params
    assert found.macs / 1e9 == pytest.approx(gmacs, rel=0.01)
    assert found.flops == 2 * found.macs


def test_by_hand():
    """A convolution and a linear layer, two operations per multiply-accumulate, biases not counted."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, padding=1)
            self.fc = nn.Linear(6, 10)

        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)))

    found = flops.count(Tiny(), (8, 12))
    assert found.macs == 8 * 12 * 6 * 4 * 9 + 6 * 10
    assert found.params == 4 * 6 * 9 + 6 + 6 * 10 + 10
    text = str(found)
    assert 'MACs' in text and 'FLOPs' in text and '8 x 12' in text


def test_attention_is_counted():
    """The fused attention kernel counts as much as the one written out."""
    from mmvisionllama.backbones import VisionLLaMA

    arch = dict(embed_dims=32, num_layers=2, num_heads=2)
    fused, written = (flops.count(VisionLLaMA(arch, backend=backend), (64, 96)).macs for backend in ('sdpa', 'eager'))
    assert fused == written


def test_own_inputs():
    """A model that takes something else than images says so."""

    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 7)

        def example_inputs(self, shape, device):
            return dict(latents=torch.zeros(shape[0], 5, device=device), t=torch.zeros(shape[0], device=device))

        def forward(self, latents, t):
            return self.fc(latents)

    assert flops.count(Denoiser(), (3, 3)).macs == 3 * 5 * 7


def test_input_size():
    """The preprocessor's size, the crop's, or the default."""
    crop = [dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=192), dict(type='PackInputs')]
    loader = dict(dataset=dict(type='Wrapper', dataset=dict(pipeline=crop)))
    assert flops.input_size(Config(dict(model=dict(), test_dataloader=loader))) == (192, 192)
    sized = Config(dict(model=dict(data_preprocessor=dict(size=(512, 1024)))))
    assert flops.input_size(sized) == (512, 1024)
    assert flops.input_size(Config(dict(model=dict()))) == (224, 224)
    for kind in ('mmcv.transforms.CenterCrop', type('CenterCrop', (), {})):  # in configs of pure Python
        loader = dict(dataset=dict(pipeline=[dict(type=type('Load', (), {})), dict(type=kind, crop_size=96)]))
        assert flops.input_size(Config(dict(model=dict(), test_dataloader=loader))) == (96, 96)


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_dense_tasks(scope):
    """Segmentation and detection models are counted with their own heads."""
    pytest.importorskip(f'{scope}.models', exc_type=ImportError)
    arch = dict(embed_dims=32, num_layers=2, num_heads=2)
    backbone = dict(type='VisionLLaMA', arch=arch, with_cls_token=False, out_type='featmap')
    if scope == 'mmseg':
        head = dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, in_index=0, num_classes=4)
        model = dict(type='EncoderDecoder', backbone=backbone, decode_head=dict(head, norm_cfg=dict(type='BN')))
    else:
        model = dict(
            type='SingleStageDetector',
            backbone=backbone,
            neck=dict(type='FPN', in_channels=[32], out_channels=16, num_outs=5),
            bbox_head=dict(type='RetinaHead', num_classes=4, in_channels=16, feat_channels=16, stacked_convs=1),
        )
    cfg = Config(dict(default_scope=scope, model=model))
    whole = flops.count_config(cfg, (64, 64))
    alone = flops.count_config(Config(dict(default_scope=scope, model=backbone)), (64, 64))
    assert whole.macs > 1.05 * alone.macs and whole.params > alone.params


def test_models_that_ask_for_values():
    """mmpretrain's Swin reads its rates of drop path with item(), which the meta device has not."""
    pytest.importorskip('mmpretrain.models')
    backbone = dict(type='SwinTransformer', arch='tiny')
    cfg = Config(dict(default_scope='mmpretrain', model=dict(type='ImageClassifier', backbone=backbone)))
    found = flops.count_config(cfg, (224, 224))
    assert found.params / 1e6 == pytest.approx(27.5, abs=0.1) and found.macs / 1e9 == pytest.approx(4.5, rel=0.03)
    with pytest.raises(OptionError, match='cannot be counted .* smaller than the window size'):
        flops.count_config(cfg, (64, 64))


@pytest.mark.parametrize(
    'name, gmacs',
    [('detr/detr_r50_8xb2-150e_coco.py', 6.8), ('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py', None)],
)
def test_detectors_of_other_kinds(name, gmacs):
    """DETR asks for the sizes of its images; what has no dense RPN is refused in one line."""
    mmdet = pytest.importorskip('mmdet')
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    config = Path(mmdet.__file__).parent / '.mim' / 'configs' / name
    if not config.exists():
        pytest.skip('mmdet was installed without its configs')
    cfg = Config.fromfile(config)
    cfg.model.backbone.init_cfg = None
    if gmacs is None:
        with pytest.raises(OptionError, match='a SparseRCNN cannot be counted by a forward pass'):
            flops.count_config(cfg, (256, 256))
    else:
        assert flops.count_config(cfg, (256, 256)).macs / 1e9 == pytest.approx(gmacs, rel=0.1)


def test_cascades_count_every_stage():
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    head = dict(type='Shared2FCBBoxHead', in_channels=8, fc_out_channels=16, roi_feat_size=7, num_classes=3)
    extractor = dict(
        type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=7), out_channels=8, featmap_strides=[16]
    )
    rpn = dict(type='RPNHead', in_channels=8, feat_channels=8)
    rpn['anchor_generator'] = dict(type='AnchorGenerator', scales=[8], ratios=[1.0], strides=[16])
    roi_head = dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_roi_extractor=extractor,
        bbox_head=[head] * 3,
    )
    model = dict(
        type='CascadeRCNN',
        backbone=dict(type='VisionLLaMA', arch=dict(embed_dims=8, num_layers=1, num_heads=2), out_type='featmap'),
        rpn_head=rpn,
        roi_head=roi_head,
        test_cfg=dict(rpn=dict(max_per_img=100), rcnn=dict(max_per_img=10)),
    )
    found = flops.count_config(Config(dict(default_scope='mmdet', model=model)), (64, 64)).by_module
    assert found['Shared2FCBBoxHead'] == 3 * 2 * 100 * (8 * 49 * 16 + 16 * 16 + 16 * (4 + 12))


def test_two_stage_detectors():
    """The heads run over 1000 boxes and 100 masks, whatever the image."""
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    cfg = Config.fromfile(str(CONFIGS / '_base_/models/mask_rcnn_pyramid_vision_llama.py'))
    cfg.default_scope = 'mmdet'
    arch = dict(embed_dims=(8, 8, 16, 32), depths=(1, 2, 1, 1), num_heads=(2, 2, 2, 2))
    cfg.model.backbone.update(arch=arch, init_cfg=None)
    cfg.model.neck.in_channels = [8, 8, 16, 32]
    found = flops.count_config(cfg, (64, 128)).by_module
    boxes = 256 * 7 * 7 * 1024 + 1024 * 1024 + 1024 * (81 + 4 * 80)
    masks = 4 * 256 * 256 * 9 * 14 * 14 + 256 * 256 * 4 * 14 * 14 + 256 * 80 * 28 * 28
    assert found['Shared2FCBBoxHead'] == 2 * 1000 * boxes
    assert found['FCNMaskHead'] == 2 * 100 * masks
    pixels = sum(64 * 128 // stride**2 for stride in (4, 8, 16, 32, 64))
    assert found['RPNHead'] == 2 * pixels * (256 * 256 * 9 + 256 * 3 * 5)


def test_the_tool(monkeypatch, capsys):
    config = CONFIGS / 'mmpretrain' / 'quickstart' / 'vision_llama_digits.py'
    tool = runpy.run_path(str(Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'get_flops.py'))
    printed = []
    for shape in ([], ['64'], ['32', '64']):
        monkeypatch.setattr(sys, 'argv', ['get_flops.py', str(config), *(['--shape', *shape] if shape else [])])
        tool['main']()
        printed.append(capsys.readouterr().out)
    assert ['32 x 32' in printed[0], '64 x 64' in printed[1], '32 x 64' in printed[2]] == [True] * 3
    assert len(set(printed)) == 3
