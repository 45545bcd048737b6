# UperNet with VisionLLaMA-B on ADE20K after 1600 epochs of MAE, as released: base-wide, lr 1e-4 (paper: 6e-5) with
# layer-wise decay 0.65 (none), positions that are not scaled to 512. All else as in the config it inherits from.
# Paper (Table 4b): mIoU 50.2 % single-scale (ViT-B 48.1). Not reproduced here.
# Model: 332.53 M parameters, 778.79 GMACs at 512.
# Schedule (section D.6, length as released): 8 GPUs x 2 = 16 images; 160,000 iterations.
# Weights: init_cfg.checkpoint; others with --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
#     tools/dist_train.sh configs/mmseg/mae_vision_llama/visionllama-base-p16_mae-1600e-pre_upernet_8xb2-160k_ade20k-512x512_released.py 8
_base_ = ['visionllama-base-p16_mae-1600e-pre_upernet_8xb2-160k_ade20k-512x512.py']

model = dict(
    backbone=dict(
        arch='base-wide',
        rope_cfg=dict(scale='none'),
        init_cfg=dict(checkpoint='work_dirs/mae_visionllama-base-p16_8xb512-amp-1600e_in1k_released/epoch_1600.pth'),
    ),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=0.65),
)
