# The default runtime for mmdetection: its scope and its visualizer.
_base_ = ['default_runtime.py']

default_scope = 'mmdet'
default_hooks = dict(
    logger=dict(interval=50),
    visualization=dict(_delete_=True, type='DetVisualizationHook'),
)
log_processor = dict(type='LogProcessor', window_size=50)
visualizer = dict(
    _delete_=True, type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'
)
