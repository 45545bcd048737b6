# default_runtime.py without what belongs to mmpretrain; training by iterations, averaged weights, sample pictures.
custom_imports = dict(imports=['mmvisionllama'], allow_failed_imports=False)
default_scope = 'mmengine'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # milestones, which stay (Table 10 evaluates 100k, 200k, 300k and 400k), and one rolling checkpoint to resume from; no
    # best one, because no score is taken while training
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=100000),
    rolling_checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=5000,
        max_keep_ckpts=1,
        save_last=False,
        filename_tmpl='rolling_iter_{}.pth',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    reseed=dict(type='ReseedHook'),  # makes a resumed training equal to an uninterrupted one
)
custom_hooks = [
    # in a checkpoint, state_dict holds the averaged weights and ema_state_dict the raw ones
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=1e-4),
    dict(type='SampleHook', interval=50000, classes=(207, 360, 387, 974, 88, 979, 417, 279), cfg_scale=4.0),
]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # tools/train.py takes gloo where there is no GPU; seconds, for the metrics that the first process computes alone
    dist_cfg=dict(backend='nccl', timeout=7200),
)

visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
