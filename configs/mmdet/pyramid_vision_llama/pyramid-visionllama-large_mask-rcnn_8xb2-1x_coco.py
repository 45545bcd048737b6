# Mask R-CNN with Pyramid VisionLLaMA-L, the 1x schedule on COCO: 12 epochs, one scale.
# Paper: no 1x result (Table 5 is 3x with multi-scale training: B has box AP 49.1). Drop path 0.3 is our choice.
# Model: 124.07 M parameters, 576.64 GMACs at 800 x 1280 (1000 boxes, 100 masks).
# Schedule: 8 GPUs x 2 = 16 images; ceil(117,266 / 16) = 7330 iterations x 12 epochs.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmdet/pyramid_vision_llama/pyramid-visionllama-large_mask-rcnn_8xb2-1x_coco.py 8
_base_ = [
    '../../_base_/models/mask_rcnn_pyramid_vision_llama.py',
    '../../_base_/datasets/coco_instance.py',
    '../../_base_/schedules/coco_bs16_adamw_1x.py',
    '../../_base_/mmdet_runtime.py',
]

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='work_dirs/pyramid-visionllama-large_8xb128-300e_in1k/epoch_300.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
