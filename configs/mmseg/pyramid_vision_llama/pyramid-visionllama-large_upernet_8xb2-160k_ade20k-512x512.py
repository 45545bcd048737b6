# UperNet with Pyramid VisionLLaMA-L on ADE20K, after supervised training on ImageNet-1K.
# Paper (Table 4a): mIoU 50.0 % single-scale (Twins-SVT-L 48.8, Swin-B 48.1), "133 M" parameters. Not reproduced here.
# Model: 138.21 M parameters, 304.44 GMACs at 512; the paper repeats the parameters of Twins.
# Schedule (section D.7, length as released): 8 GPUs x 2 = 16 images; 160,000 iterations. The paper gives no drop-path rate
# for L; 0.3 is the release's.
# Test: the whole image; sliding windows with --cfg-options model.test_cfg.mode=slide, multi-scale with
# tools/test.py --tta. The release slides, and scales positions by other anchors: ..._released.py
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmseg/pyramid_vision_llama/pyramid-visionllama-large_upernet_8xb2-160k_ade20k-512x512.py 8
_base_ = [
    '../../_base_/models/upernet_pyramid.py',
    '../../_base_/datasets/ade20k_512x512.py',
    '../../_base_/schedules/ade20k_bs16_adamw_160k.py',
    '../../_base_/mmseg_runtime.py',
]

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='work_dirs/pyramid-visionllama-large_8xb128-300e_in1k/epoch_300.pth'),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
