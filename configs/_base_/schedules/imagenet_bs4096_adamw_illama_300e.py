# iLLaMA from scratch at batch 4096 (8 GPUs x 128 x 4 accumulated): AdamW for 300 epochs, warm-up from 0, cosine down to
# 1e-6 (arXiv 2404.06773; the released scripts).
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8),
    # no decay for biases, norms, the class token and the position embedding
    paramwise_cfg=dict(
        flat_decay_mult=0.0, custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)}
    ),
    accumulative_counts=4,
)
warmup = dict(type='LinearLR', start_factor=1e-6, by_epoch=True, end=5, convert_to_iter_based=True)
cosine = dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=5, end=300, convert_to_iter_based=True)
param_scheduler = [warmup, cosine]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
# of an iteration: mmengine's factor is GPUs x batch / base, without the accumulated batches
auto_scale_lr = dict(base_batch_size=1024)
