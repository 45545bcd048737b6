# ViTDet with VisionLLaMA-B after 800 epochs of MAE, 36 epochs on COCO at 1024 x 1024 with large-scale jitter.
# Paper (Table 6): box AP 52.2, mask AP 46.3 (ViT-B, MAE 1600 epochs, 100 epochs: 51.6 and 45.7). Not reproduced here.
# Model: 110.61 M parameters, 833.40 GMACs at 1024 (1000 boxes, 100 masks).
# Schedule (section D.9): 8 GPUs x 4 x 2 accumulated = 64 images; ceil(117,266 / 32) = 3665 iterations x 36 epochs. An
# iteration of the Runner is one batch of 32, so that 131,940 iterations are 65,970 steps of the optimizer, and the 1000
# steps of warm-up are 2000 iterations. bf16.
# The code released for this row builds base-wide (docs/mae.md): ..._released.py
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
# Memory: --cfg-options model.backbone.with_cp=True recomputes the blocks in the backward pass.
#
#     tools/dist_train.sh configs/mmdet/vitdet/visionllama-base-p16_mae-800e-pre_vitdet_8xb4-accum2-36e_coco-1024px.py 8
_base_ = [
    '../../_base_/models/vitdet.py',
    '../../_base_/datasets/coco_instance_lsj_1024.py',
    '../../_base_/schedules/coco_bs64_adamw_layer_decay_36e.py',
    '../../_base_/mmdet_runtime.py',
]

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='work_dirs/mae_visionllama-base-p16_8xb512-amp-800e_in1k/epoch_800.pth'),
    ),
)
