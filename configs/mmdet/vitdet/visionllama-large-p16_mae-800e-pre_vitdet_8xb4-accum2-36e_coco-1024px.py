# ViTDet with VisionLLaMA-L after 800 epochs of MAE, 36 epochs on COCO at 1024 x 1024 with large-scale jitter.
# Paper: this size is not in Table 6 (B: box AP 52.2, mask AP 46.3). Drop path 0.4, layer-wise decay 0.8 and the global
# blocks 5, 11, 17 and 23 are those of ViTDet's ViT-L.
# Model: 336.52 M parameters, 1863.36 GMACs at 1024 (1000 boxes, 100 masks).
# Schedule (section D.9): 8 GPUs x 4 x 2 accumulated = 64 images; ceil(117,266 / 32) = 3665 iterations x 36 epochs. An
# iteration of the Runner is one batch of 32, so that 131,940 iterations are 65,970 steps of the optimizer, and the 1000
# steps of warm-up are 2000 iterations. bf16.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
# Memory: --cfg-options model.backbone.with_cp=True recomputes the blocks in the backward pass.
#
#     tools/dist_train.sh configs/mmdet/vitdet/visionllama-large-p16_mae-800e-pre_vitdet_8xb4-accum2-36e_coco-1024px.py 8
_base_ = ['visionllama-base-p16_mae-800e-pre_vitdet_8xb4-accum2-36e_coco-1024px.py']

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.4,
        window_block_indexes=[i for i in range(24) if i not in (5, 11, 17, 23)],
        init_cfg=dict(checkpoint='work_dirs/mae_visionllama-large-p16_8xb512-amp-800e_in1k/epoch_800.pth'),
    ),
    neck=dict(in_channels=1024),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
