# Mask R-CNN with Pyramid VisionLLaMA-S, 36 epochs with multi-scale training on COCO: the recipe of the B model.
# Paper: this size is not in Table 5 (B: box AP 49.1, mask AP 43.8). Drop path 0.2, B's, is our choice.
# Model: 45.53 M parameters, 262.06 GMACs at 800 x 1280 (1000 boxes, 100 masks).
# Schedule (section D.8): 8 GPUs x 2 = 16 images; ceil(117,266 / 16) = 7330 iterations x 36 epochs.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmdet/pyramid_vision_llama/pyramid-visionllama-small_mask-rcnn_8xb2-ms-3x_coco.py 8
_base_ = [
    '../../_base_/models/mask_rcnn_pyramid_vision_llama.py',
    '../../_base_/datasets/coco_instance_ms.py',
    '../../_base_/schedules/coco_bs16_adamw_3x.py',
    '../../_base_/mmdet_runtime.py',
]

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='work_dirs/pyramid-visionllama-small_8xb128-300e_in1k/epoch_300.pth'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
