# ViTDet, 36 epochs at batch 64 (section D.9): 8 GPUs x 4 images and two batches accumulated. AdamW 1e-4, weight decay 0.1,
# layer-wise decay 0.7, divided by 10 after epochs 27 and 33. An iteration of the Runner is one batch of 32: the 1000
# steps of warm-up are 2000 iterations.
optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bf16 on GPU and CPU; for GPUs without it: type='AmpOptimWrapper'
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.7),
    accumulative_counts=2,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=2000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(by_epoch=True, max_epochs=36, val_interval=3)
val_cfg = dict()
test_cfg = dict()
# of an iteration: mmengine's factor is GPUs x batch / base, without the accumulated batches
auto_scale_lr = dict(base_batch_size=32)
