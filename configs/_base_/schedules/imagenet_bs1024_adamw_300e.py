# AdamW for 300 epochs at batch 1024 (Table 13, column D.2; section D.2): 5 epochs up to 1e-3, cosine down to zero.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8),
    # no decay for biases, norms and LayerScale
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={'.cls_token': dict(decay_mult=0.0)}),
)
warmup = dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True)
cosine = dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=5, end=300, convert_to_iter_based=True)
param_scheduler = [warmup, cosine]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=10)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)
