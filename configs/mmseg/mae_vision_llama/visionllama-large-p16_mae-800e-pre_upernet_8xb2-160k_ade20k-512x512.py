# UperNet with VisionLLaMA-L on ADE20K, after 800 epochs of MAE.
# Paper (Table 4b): no row for L; B reaches mIoU 49.0 %. The release has a config for L.
# Model: 445.02 M parameters, 1252.40 GMACs at 512.
# Schedule (section D.6, length as released): 8 GPUs x 2 = 16 images; 160,000 iterations. The maps are those of blocks
# 8, 12, 16 and 24, as in the release; the paper names none.
# Test: sliding windows; whole images with --cfg-options model.test_cfg.mode=whole, multi-scale with tools/test.py --tta
# The release builds large-wide (docs/mae.md), trains at lr 1e-4 with layer-wise decay and scales no positions: ..._released.py
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmseg/mae_vision_llama/visionllama-large-p16_mae-800e-pre_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = ['visionllama-base-p16_mae-800e-pre_upernet_8xb2-160k_ade20k-512x512.py']

model = dict(
    backbone=dict(
        arch='large',
        out_indices=(7, 11, 15, 23),
        init_cfg=dict(checkpoint='work_dirs/mae_visionllama-large-p16_8xb512-amp-800e_in1k/epoch_800.pth'),
    ),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024] * 4, channels=1024),
    auxiliary_head=dict(in_channels=1024),
)
