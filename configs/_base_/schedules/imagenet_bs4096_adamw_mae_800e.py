# MAE pre-training at batch 4096 (section D.3): 40 epochs up to 1.5e-4 x 4096 / 256, cosine down to zero.
optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bf16 on GPU and CPU; for GPUs without it: type='AmpOptimWrapper'
    optimizer=dict(type='AdamW', lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05),
    # no decay for biases, norms and learnable tokens
    paramwise_cfg=dict(
        flat_decay_mult=0.0,
        custom_keys={'cls_token': dict(decay_mult=0.0), 'mask_token': dict(decay_mult=0.0)},
    ),
)
warmup = dict(type='LinearLR', start_factor=1e-9, by_epoch=True, end=40, convert_to_iter_based=True)
cosine = dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=40, end=800, convert_to_iter_based=True)
param_scheduler = [warmup, cosine]
train_cfg = dict(by_epoch=True, max_epochs=800)
auto_scale_lr = dict(base_batch_size=4096)
