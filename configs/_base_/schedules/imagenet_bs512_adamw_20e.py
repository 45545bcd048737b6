# AdamW for 20 epochs at batch 512: the higher-resolution stage of the plain models. The paper gives no settings for it;
# these are the release's. Its final rate equals its peak, so the rate stays at 1e-5 after the warm-up.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-5, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8),
    # no decay for biases, norms, LayerScale and the class token
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={'.cls_token': dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=5, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=512)
