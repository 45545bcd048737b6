# UperNet with VisionLLaMA-L on ADE20K after 800 epochs of MAE, as released: large-wide, lr 1e-4 (paper: 6e-5) with
# layer-wise decay 0.65 (none), positions that are not scaled to 512. All else as in the config it inherits from.
# Paper (Table 4b): no row for L; B reaches mIoU 49.0 %. The release has a config for L.
# Model: 1049.55 M parameters, 1870.88 GMACs at 512.
# Schedule (section D.6, length as released): 8 GPUs x 2 = 16 images; 160,000 iterations. The release accumulates two
# batches of 8 GPUs x 1: its 160,000 iterations are 80,000 steps of the optimizer and its 1500 of warm-up 750. Here every
# iteration is a step.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmseg/mae_vision_llama/visionllama-large-p16_mae-800e-pre_upernet_8xb2-160k_ade20k-512x512_released.py 8
_base_ = ['visionllama-large-p16_mae-800e-pre_upernet_8xb2-160k_ade20k-512x512.py']

model = dict(
    backbone=dict(
        arch='large-wide',
        rope_cfg=dict(scale='none'),
        init_cfg=dict(checkpoint='work_dirs/mae_visionllama-large-p16_8xb512-amp-800e_in1k_released/epoch_800.pth'),
    ),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=0.65),
)
