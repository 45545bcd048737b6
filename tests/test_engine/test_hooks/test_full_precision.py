"""Modules whose outputs stay fp32 under autocast."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmvisionllama.engine.hooks.full_precision import FullPrecisionOutputHook, to_fp32
from mmvisionllama.errors import OptionError

CONFIGS = Path(__file__).parents[3] / 'configs'


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        y = self.inner(x)
        return [y, y * 2], (y.argmax(-1),)


def test_outputs_of_named_modules():
    model = nn.ModuleDict(dict(head=Head(), other=nn.Linear(4, 4)))
    hook = FullPrecisionOutputHook(['head'])
    for _ in range(2):
        hook.before_run(SimpleNamespace(model=model))
    assert len(model['head']._forward_hooks) == 1
    x = torch.randn(2, 4)
    with torch.autocast('cpu', torch.bfloat16):
        (first, second), (index,) = model['head'](x)
        assert model['head'].inner(x).dtype == model['other'](x).dtype == torch.bfloat16
    assert first.dtype == second.dtype == torch.float32 and index.dtype == torch.int64
    first.sum().backward()
    assert model['head'].inner.weight.grad is not None
    assert to_fp32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_unknown_module():
    with pytest.raises(OptionError, match="ModuleDict has no module 'rpn_head'"):
        FullPrecisionOutputHook(['rpn_head']).before_run(SimpleNamespace(model=nn.ModuleDict()))


@pytest.mark.parametrize('loop', ['train', 'val', 'test'])
def test_a_runner_asks_for_it_in_every_loop(loop, tmp_path):
    """``tools/test.py --amp`` runs no training."""

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, inputs, mode='tensor'):
            with torch.autocast('cpu', torch.bfloat16):
                seen.append(self.head(inputs).dtype)
            return dict(loss=self.head(inputs).sum()) if mode == 'loss' else [0]

    class Nothing(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.append(0)

        def compute_metrics(self, results):
            return dict(score=0.0)

    seen = []
    data = DataLoader([torch.zeros(2)], collate_fn=lambda batch: dict(inputs=torch.stack(batch)))
    settings = dict(train=dict(train_cfg=dict(by_epoch=False, max_iters=1)), val=dict(val_cfg=dict()))
    settings = settings.get(loop, dict(test_cfg=dict()))
    settings[f'{loop}_dataloader'] = data
    if loop == 'train':
        settings['optim_wrapper'] = dict(optimizer=dict(type='SGD', lr=0.1))
    else:
        settings[f'{loop}_evaluator'] = [Nothing()]
    hooks = [dict(type='FullPrecisionOutputHook', modules=['head'])]
    runner = Runner(
        Model(), str(tmp_path), custom_hooks=hooks, log_level='ERROR', experiment_name=f'fp32_{loop}', **settings
    )
    getattr(runner, loop)()
    assert seen == [torch.float32]


@pytest.mark.nightly
def test_amp_of_a_detector():
    """What tools/train.py --amp does on the CPU: the whole of Mask R-CNN with an FPN trains in bf16."""
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.config import Config
    from mmengine.registry import HOOKS, init_default_scope
    from mmengine.structures import InstanceData

    init_default_scope('mmdet')
    cfg = Config.fromfile(str(CONFIGS / '_base_/models/mask_rcnn_pyramid_vision_llama.py'))
    arch = dict(embed_dims=(8, 8, 16, 32), depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2))
    cfg.model.backbone.update(arch=arch, init_cfg=None)
    cfg.model.neck.in_channels = [8, 8, 16, 32]
    model = MODELS.build(cfg.model)
    hook = HOOKS.build(cfg.custom_hooks[0])
    sizes = ('img_shape', 'pad_shape', 'batch_input_shape', 'ori_shape')
    sample = DetDataSample(metainfo=dict.fromkeys(sizes, (64, 64)))
    boxes, masks = torch.tensor([[4.0, 4.0, 40.0, 50.0]]), BitmapMasks(np.ones((1, 64, 64), dtype=np.uint8), 64, 64)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([3]), masks=masks)
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))

    def loss():
        with torch.autocast('cpu', torch.bfloat16):
            losses = model.loss(torch.randn(1, 3, 64, 64), [sample])
        return model.parse_losses(losses)[0]

    with pytest.raises((RuntimeError, NotImplementedError), match='BFloat16'):
        loss()
    hook.before_run(SimpleNamespace(model=model))
    loss().backward()
    assert model.backbone.patch_embeds[0].projection.weight.grad.abs().sum() > 0
