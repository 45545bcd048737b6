# Section D.10: AdamW (0.9, 0.999), constant learning rate 1e-4, batch 256. The paper gives no weight decay and no
# moving average; these are the release's: 0, and 0.9999 in every step (generation_runtime.py). Mixed precision: paper,
# section 4.1; the release's kind, fp16 with loss scaling.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='float16',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0),
)
param_scheduler = []

train_cfg = dict(type='IterBasedTrainLoop', max_iters=400000)
val_cfg = None
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=256)
