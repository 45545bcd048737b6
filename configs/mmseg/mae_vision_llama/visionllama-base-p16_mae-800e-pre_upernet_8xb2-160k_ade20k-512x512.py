# UperNet with VisionLLaMA-B on ADE20K, after 800 epochs of MAE.
# Paper (Table 4b): mIoU 49.0 % single-scale (ViT-B 46.2). Not reproduced here.
# Model: 162.45 M parameters, 604.84 GMACs at 512.
# Schedule (section D.6, length as released): 8 GPUs x 2 = 16 images; 160,000 iterations. The maps are those of blocks
# 4, 6, 8 and 12, as in the release.
# Test: sliding windows; whole images with --cfg-options model.test_cfg.mode=whole, multi-scale with tools/test.py --tta
# The release builds base-wide (docs/mae.md), trains at lr 1e-4 with layer-wise decay and scales no positions: ..._released.py
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmseg/mae_vision_llama/visionllama-base-p16_mae-800e-pre_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = [
    '../../_base_/models/upernet_plain.py',
    '../../_base_/datasets/ade20k_512x512.py',
    '../../_base_/schedules/ade20k_bs16_adamw_160k.py',
    '../../_base_/mmseg_runtime.py',
]

model = dict(
    backbone=dict(
        type='VisionLLaMA',
        arch='base',
        with_cls_token=False,
        layer_scale_init_value=0.0,
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mae_visionllama-base-p16_8xb512-amp-800e_in1k/epoch_800.pth',
            prefix='backbone.',
        ),
    ),
)
