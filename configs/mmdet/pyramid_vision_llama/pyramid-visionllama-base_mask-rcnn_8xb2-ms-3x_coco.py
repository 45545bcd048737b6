# Mask R-CNN with Pyramid VisionLLaMA-B, 36 epochs with multi-scale training on COCO.
# Paper (Table 5): box AP 49.1, mask AP 43.8 (Swin-S 47.6 and 42.8, Twins-SVT-B 48.0 and 43.0). Not reproduced here.
# Model: 75.52 M parameters, 394.43 GMACs at 800 x 1280 (1000 boxes, 100 masks). The paper prints 76.3 M, as
# for Twins-SVT-B.
# Schedule (section D.8): 8 GPUs x 2 = 16 images; ceil(117,266 / 16) = 7330 iterations x 36 epochs.
# What the release did otherwise: ..._released.py
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmdet/pyramid_vision_llama/pyramid-visionllama-base_mask-rcnn_8xb2-ms-3x_coco.py 8
_base_ = [
    '../../_base_/models/mask_rcnn_pyramid_vision_llama.py',
    '../../_base_/datasets/coco_instance_ms.py',
    '../../_base_/schedules/coco_bs16_adamw_3x.py',
    '../../_base_/mmdet_runtime.py',
]

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='work_dirs/pyramid-visionllama-base_8xb128-300e_in1k/epoch_300.pth'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
