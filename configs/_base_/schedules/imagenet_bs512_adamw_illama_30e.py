# iLLaMA fine-tuning at batch 512 (8 GPUs x 64): AdamW for 30 epochs without warm-up, cosine down to 1e-6 (arXiv
# 2404.06773; the released logs). Configs set lr.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=8e-5, weight_decay=1e-8, betas=(0.9, 0.999), eps=1e-8),
    paramwise_cfg=dict(
        flat_decay_mult=0.0, custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)}
    ),
)
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, end=30, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=512)
