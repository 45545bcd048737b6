# LAMB for 800 epochs at batch 2048 (Table 13, column D.1).
optim_wrapper = dict(
    # mmpretrain's LAMB clips the gradient's global norm to 1.0 as well; its default eps is 1e-6, DeiT III's is 1e-8
    optimizer=dict(type='Lamb', lr=3e-3, weight_decay=0.02, eps=1e-8),
    clip_grad=dict(max_norm=1.0),
    # no decay for biases, norms, LayerScale and the class token
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={'.cls_token': dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 3e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    # the paper does not say where the cosine ends; DeiT III, whose settings it takes over, ends at 1e-5
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=800, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=800, val_interval=10)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=2048)
