# Fine-tuning after MAE at batch 1024 (Table 15): base rate 1e-3 per 256 images, layer-wise decay 0.45, 5 epochs of
# warm-up, cosine. The paper names no floor: as in MAE's own code 1e-6 for the head, and in proportion for every layer.
# (An absolute floor of 1e-6 lies above the peaks of the lowest layers: their rates would rise.)
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3 * 1024 / 256, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='LearningRateDecayOptimWrapperConstructor',
    # no weight decay for biases and norms
    paramwise_cfg=dict(layer_decay_rate=0.45, flat_decay_mult=0.0),
)
warmup = dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=5, convert_to_iter_based=True)
cosine = dict(
    type='CosineAnnealingLR', eta_min_ratio=1e-6 / 4e-3, by_epoch=True, begin=5, end=100, convert_to_iter_based=True
)
param_scheduler = [warmup, cosine]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)
