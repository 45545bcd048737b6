"""Fine-tuning of the encoder from mae_digits.py on handwritten digits: second step of `make demo-mae`.

The demo trains on a tenth of the labels (a list given as train_dataloader.dataset.ann_file); without it, on all.

Data:     python -m mmvisionllama.datasets.digits data/digits   (1,437 training and 360 test scans of 8 x 8, no download)
Model:    VisionLLaMA, embed_dims 64, 4 blocks, patch 4 on 32 x 32; mean of the patches, no class token
Schedule: 200 iterations x batch 64
Command:  python tools/train.py configs/mmpretrain/quickstart/mae_digits_finetune.py
"""

_base_ = ['vision_llama_digits.py']

model = dict(
    backbone=dict(
        drop_path_rate=0.0,
        out_type='avg_featmap',
        final_norm=False,
        with_cls_token=False,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/mae_digits/epoch_80.pth', prefix='backbone.'),
    ),
)

train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
iterations = 200
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=20, end=iterations),
]
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=iterations, val_interval=20)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),  # the curve of the demo is over iterations
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=iterations),
)
log_processor = dict(by_epoch=False)
