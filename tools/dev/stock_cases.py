"""The stock configs that tools/dev/stock_configs.py tries, each with a backbone of ours in the place of its own.

The backbone has the widths and outputs of the one it replaces, so that nothing else in the config changes, and is
shallow with narrow feed-forward layers, so that a run takes seconds.
"""

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence

R50 = (256, 512, 1024, 2048)
R18 = TWINS = CSP = (64, 128, 256, 512)
PVT = (64, 128, 320, 512)
MIT = (32, 64, 160, 256)
HR32 = (32, 64, 128, 256)
SWIN_T, SWIN_B, SWIN_L = (96, 192, 384, 768), (128, 256, 512, 1024), (192, 384, 768, 1536)
ALL, LAST3, LAST = (0, 1, 2, 3), (1, 2, 3), (3,)
VIT = (2, 5, 8, 11)


@dataclass
class Case:
    """One config.

    Attributes:
        library: ``'mmpretrain'``, ``'mmdet'`` or ``'mmseg'``.
        path: Config file below the library's configs.
        backbone: What takes the backbone's place.
        size: Side of the training images, pixels.
        same_size: The images of a batch have one size.
        where: Place of the backbone in the config.
        model: Values set in the model's config, dotted name to value.
        views: Number of views that a self-supervised method takes of an image.
        multi_label: The method takes several labels of an image.
        predicts: False for models without predictions.
        odd_size: False where neck or head take no size but the training's, the stock backbone's alike.
        fast: Belongs to the short subset.
    """

    library: str
    path: str
    backbone: dict
    size: int = 128
    same_size: bool = False
    where: str = 'model.backbone'
    model: Dict[str, object] = field(default_factory=dict)
    views: int = 1
    multi_label: bool = False
    predicts: bool = True
    odd_size: bool = True
    fast: bool = False


def plain(dims: int, layers: int = 12, kind: str = 'VisionLLaMA', **options) -> dict:
    arch = dict(embed_dims=dims, num_layers=layers, num_heads=dims // 32, feedforward_channels=64)
    return dict(type=kind, arch=arch, **options)


def maps(dims: int, layers: int = 12, **options) -> dict:
    return plain(dims, layers, **{'out_type': 'featmap', 'with_cls_token': False, **options})


def pyramid(dims: Sequence[int], out_indices: Sequence[int] = ALL, **options) -> dict:
    arch = dict(
        embed_dims=dims,
        depths=(2, 2, 1, 1)[: len(dims)],
        num_heads=tuple(dim // 32 for dim in dims),
        feedforward_channels=(64,) * len(dims),
    )
    return dict(type='PyramidVisionLLaMA', arch=arch, out_indices=out_indices, **options)


def pretrain_cases() -> List[Case]:
    def case(path: str, backbone: dict, **options) -> Case:
        return Case('mmpretrain', path, backbone, **{'size': 96, 'same_size': True, **options})

    gap = dict(out_type='avg_featmap')
    mae = dict(type='MAEVisionLLaMA', arch=dict(embed_dims=768, num_layers=2, num_heads=12), mask_ratio=0.75)
    one_map = dict(out_indices=LAST)
    two_views = dict(views=2, predicts=False)
    return [
        case('vision_transformer/vit-base-p16_64xb64_in1k.py', plain(768), fast=True),
        case('vision_transformer/vit-base-p16_64xb64_in1k.py', plain(768, kind='iLLaMA'), fast=True),
        case('vision_transformer/vit-base-p16_64xb64_in1k-384px.py', plain(768, anchor=384)),
        case('vision_transformer/vit-base-p16_32xb128-mae_in1k.py', plain(768)),
        case('vision_transformer/vit-base-p16_8xb64-lora_in1k-384px.py', plain(768), where='model.backbone.module'),
        case('swin_transformer/swin-base_16xb64_in1k.py', pyramid(SWIN_B, **one_map)),
        case('swin_transformer/swin-large_8xb8_cub-384px.py', pyramid(SWIN_L, **one_map)),
        case('swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px.py', pyramid(SWIN_T, **one_map)),
        case('deit3/deit3-base-p16_64xb64_in1k.py', plain(768)),
        case('deit3/deit3-base-p16_64xb64_in1k.py', plain(768, kind='iLLaMA', **gap)),
        case('deit/deit-base_16xb64_in1k.py', plain(768)),
        case('beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py', plain(768, **gap)),
        case('mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py', plain(768, **gap)),
        case('mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py', plain(768, frozen_stages=12)),
        case('mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py', mae, size=224, predicts=False),
        case('mocov3/mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py', plain(384), **two_views),
        case('mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py', pyramid(R50, **one_map), **two_views),
        case('mocov3/benchmarks/vit-base-p16_8xb128-linear-coslr-90e_in1k.py', plain(768, frozen_stages=12)),
        case('byol/byol_resnet50_16xb256-coslr-200e_in1k.py', pyramid(R50, **one_map), **two_views),
        case('simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py', pyramid(R50, **one_map), **two_views),
        case('barlowtwins/barlowtwins_resnet50_8xb256-coslr-300e_in1k.py', pyramid(R50, **one_map), **two_views),
        case('simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k.py', pyramid(R50, **one_map), **two_views),
        case('mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py', pyramid(R50, **one_map), **two_views),
        case('densecl/densecl_resnet50_8xb32-coslr-200e_in1k.py', pyramid(R50, **one_map), **two_views),
        case('csra/resnet101-csra_1xb16_voc07-448px.py', pyramid(R50, **one_map), multi_label=True),
        case('clip/vit-base-p16_pt-64xb64_in1k-384px.py', plain(768)),
        case('resnet/resnet50_8xb32_in1k.py', pyramid(R50, **one_map)),
        case('resnet/resnet50_8xb16-mixup_cifar10.py', pyramid(R50, **one_map)),
        case('twins/twins-svt-small_8xb128_in1k.py', pyramid(TWINS, **one_map), fast=True),
        case('twins/twins-pcpvt-base_8xb128_in1k.py', pyramid(PVT, **one_map)),
        case('convnext/convnext-tiny_32xb128_in1k.py', pyramid(SWIN_T, **one_map, **gap)),
        case('mff/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py', plain(768, **gap)),
        case('milan/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py', plain(768, **gap)),
        case('eva/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py', plain(768, **gap)),
        case('cae/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py', plain(768, **gap)),
        case('simmim/benchmarks/swin-base-w7_8xb256-coslr-100e_in1k.py', pyramid(SWIN_B, **one_map)),
        case('wrn/wide-resnet50_timm_8xb32_in1k.py', pyramid(R50, **one_map)),
        case('riformer/riformer-s12_8xb128_in1k.py', pyramid(PVT, **one_map)),
    ]


def det_cases() -> List[Case]:
    def case(path: str, backbone: Optional[dict] = None, **options) -> Case:
        return Case('mmdet', path, backbone or pyramid(R50), **options)

    few = {'encoder.num_layers': 2, 'decoder.num_layers': 2, 'num_queries': 60}
    last3, last = pyramid(R50, LAST3), pyramid(R50, LAST)
    return [
        case('retinanet/retinanet_r50_fpn_1x_coco.py', fast=True),
        case('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
        case('faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py', pyramid(R50[:3], (2,))),
        case('faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py', last),
        case('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'),
        case('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'),
        case('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
        case('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'),
        case('atss/atss_r50_fpn_1x_coco.py'),
        case('gfl/gfl_r50_fpn_1x_coco.py'),
        case('tood/tood_r50_fpn_1x_coco.py'),
        case('vfnet/vfnet_r50_fpn_1x_coco.py'),
        case('paa/paa_r50_fpn_1x_coco.py'),
        case('dino/dino-4scale_r50_8xb2-12e_coco.py', last3, model=few),
        case('dino/dino-5scale_swin-l_8xb2-12e_coco.py', pyramid(SWIN_L), model=few),
        case('deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', last3),
        case('deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py', last3),
        case('conditional_detr/conditional-detr_r50_8xb2-50e_coco.py', last),
        case('dab_detr/dab-detr_r50_8xb2-50e_coco.py', last),
        case('detr/detr_r50_8xb2-150e_coco.py', maps(2048, 1)),
        case('yolof/yolof_r50-c5_8xb8-1x_coco.py', maps(2048, 1, patch_size=32)),
        case('ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py', last3, model=few),
        case('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'),
        case('mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py', pyramid(SWIN_T)),
        case('maskformer/maskformer_r50_ms-16xb1-75e_coco.py'),
        case('rtmdet/rtmdet_s_8xb32-300e_coco.py', pyramid(CSP, LAST3), odd_size=False),
        case('rtmdet/rtmdet-ins_s_8xb32-300e_coco.py', pyramid(CSP, LAST3), same_size=True, odd_size=False),
        case('rtmdet/rtmdet_l_swin_b_4xb32-100e_coco.py', pyramid(SWIN_B, LAST3), odd_size=False),
        case('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'),
        case('queryinst/queryinst_r50_fpn_1x_coco.py', predicts=False),
        case(
            'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py', where='model.detector.backbone'
        ),
        case('panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'),
        case('htc/htc-without-semantic_r50_fpn_1x_coco.py'),
        case('solov2/solov2_r50_fpn_1x_coco.py'),
        case('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'),
        case('point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py'),
        case('centernet/centernet_r18_8xb16-crop512-140e_coco.py', pyramid(R18, LAST)),
        case('centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py'),
        case('yolox/yolox_s_8xb8-300e_coco.py', pyramid(CSP, LAST3)),
        case('dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py', pyramid(SWIN_L, LAST3)),
        case('swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', pyramid(SWIN_T)),
        case('pvt/retinanet_pvt-t_fpn_1x_coco.py', pyramid(PVT)),
        case('convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py', pyramid(SWIN_T)),
        case('crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py'),
        case('autoassign/autoassign_r50-caffe_fpn_1x_coco.py'),
        case('rpn/rpn_r50_fpn_1x_coco.py'),
        case('yolact/yolact_r50_1xb8-55e_coco.py', same_size=True, size=550),
        case('hrnet/faster-rcnn_hrnetv2p-w32-1x_coco.py', pyramid(HR32)),
        case('nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py', size=256),
    ]


def seg_cases() -> List[Case]:
    def case(path: str, backbone: Optional[dict] = None, **options) -> Case:
        return Case('mmseg', path, backbone or pyramid(R50), **{'same_size': True, **options})

    hr18 = {  # of an HRNet's 18, 36, 72, 144 channels only the multiples of a head's 32 are left
        'decode_head.0.in_channels': HR32,
        'decode_head.0.channels': sum(HR32),
        'decode_head.1.in_channels': HR32,
    }
    dpt = maps(768, out_indices=VIT, with_cls_token=True, output_cls_token=True)
    beit = maps(768, out_indices=(3, 5, 7, 11))
    return [
        case('upernet/upernet_r50_4xb4-80k_ade20k-512x512.py'),
        case('fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py'),
        case('pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py', fast=True),
        case('deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py'),
        case('deeplabv3/deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py'),
        case('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', pyramid(MIT)),
        case('segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py', maps(384, out_indices=(11,))),
        case('segmenter/segmenter_vit-b_mask_8xb1-160k_ade20k-512x512.py', maps(768)),
        case('mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'),
        case('mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py', pyramid(SWIN_T)),
        case('maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py'),
        case('setr/setr_vit-l_naive_8xb2-160k_ade20k-512x512.py', maps(1024, 24, out_indices=(9, 14, 19, 23))),
        case('setr/setr_vit-l_mla_8xb2-160k_ade20k-512x512.py', maps(1024, 24, out_indices=(5, 11, 17, 23))),
        case('setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512.py', maps(1024, 24, out_indices=(9, 14, 19, 23))),
        case('dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py', dpt, fast=True),
        case('sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'),
        case('ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py', pyramid(HR32), model=hr18),
        case('vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py', maps(768, out_indices=VIT)),
        case('vit/vit_deit-b16_upernet_8xb2-80k_ade20k-512x512.py', maps(768, out_indices=VIT)),
        case('beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py', beit),
        case('mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py', beit),
        case('convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py', pyramid(SWIN_T)),
        case('swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py', pyramid(SWIN_T)),
        case('twins/twins_svt-s_uperhead_8xb2-160k_ade20k-512x512.py', pyramid(TWINS)),
        case('twins/twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py', pyramid(TWINS)),
        case('knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py'),
        case('point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py'),
        case('fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512.py', pyramid(R50, LAST3)),
        case('isanet/isanet_r50-d8_4xb4-80k_ade20k-512x512.py'),
        case('danet/danet_r50-d8_4xb4-80k_ade20k-512x512.py'),
        case('encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512.py'),
        case('gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512.py'),
        case('segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py', pyramid(MIT)),
        case('poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py', pyramid(PVT)),
        case('psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py'),
    ]


CASES = pretrain_cases() + det_cases() + seg_cases()
