# UperNet with Pyramid VisionLLaMA-B on ADE20K as released: positions scaled by 14 / H in every stage, the released
# positions of GSA's keys, windows that attend to their padding, stage norms that flow on into the trunk, LayerScale, weight
# decay 0.01 (0.05) for all but the backbone's norms, slide inference. All else as in the config it inherits from.
# Paper (Table 4a): mIoU 49.1 % single-scale, "88.5 M" parameters. Not reproduced here.
# Model: 87.68 M parameters, 259.95 GMACs at 512.
# Schedule (section D.7, length as released): 8 GPUs x 2 = 16 images; 160,000 iterations.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmseg/pyramid_vision_llama/pyramid-visionllama-base_upernet_8xb2-160k_ade20k-512x512_released.py 8
_base_ = ['pyramid-visionllama-base_upernet_8xb2-160k_ade20k-512x512.py']

model = dict(
    backbone=dict(
        layer_scale_init_value=1e-4,
        rope_cfg=dict(scale='height', anchor_grid=(14, 14)),
        key_position='flat_index',
        mask_padding=False,
        norm_after_stage='in_trunk',
        init_cfg=dict(checkpoint='work_dirs/pyramid-visionllama-base_8xb128-300e_in1k_released/epoch_300.pth'),
    ),
    test_cfg=dict(mode='slide'),
)
# mmsegmentation's keys for Twins: LayerNorms alone are exempt, not biases, LayerScale and the heads' batch norms
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.01),
    paramwise_cfg=dict(_delete_=True, custom_keys={'norm': dict(decay_mult=0.0), '.ln': dict(decay_mult=0.0)}),
)
