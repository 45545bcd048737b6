"""One gloo process with a sharded model, for test_sharding.py: a copy amid gradients, and an evaluation.

Ends with an error where one of them is wrong, and prints 'ok'.
"""

import sys

import sharded_training
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import distributed, nn

from mmvisionllama import launch
from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.engine import FullyShardedModel
from mmvisionllama.engine.sharding import whole_copy


@MODELS.register_module(name='SingleModel')
class SmallModel(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        arch = dict(embed_dims=32, num_layers=1, num_heads=2)
        self.backbone = VisionLLaMA(arch, img_size=16, patch_size=8, anchor=16)
        self.head = nn.Linear(32, 5)

    def forward(self, *images, mode='loss'):
        out = self.head(self.backbone(torch.stack(images))[-1])
        return dict(loss=out.mean()) if mode == 'loss' else list(out)


def evaluation(folder):
    loader = dict(dataset=dict(type='FixedPictures', samples=4), batch_size=2, num_workers=0)
    cfg = dict(
        default_scope='mmengine',
        model=dict(type='SingleModel'),
        model_wrapper_cfg=dict(type='FullyShardedModel'),
        work_dir=folder,
        train_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        test_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        test_cfg=dict(),
        test_evaluator=dict(type='MeanOutput'),
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        log_level='ERROR',
    )
    torch.save(dict(state_dict=SmallModel().state_dict()), f'{folder}/weights.pth')
    cfg = launch.prepare_test(Config(cfg), f'{folder}/weights.pth', launcher='pytorch')
    pictures = sharded_training.FixedPictures(4)
    outputs = SmallModel()(*(pictures[i] for i in range(4)), mode='tensor')
    return launch.test(cfg)['mean'], torch.stack(outputs).mean().item()


if __name__ == '__main__':
    torch.set_num_threads(1)
    found, expected = evaluation(sys.argv[1])
    assert abs(found - expected) < 1e-6, (found, expected)

    sharded, images = FullyShardedModel(SmallModel()), torch.randn(2, 3, 16, 16)
    sharded(*images)['loss'].backward()
    gradients = [parameter.grad for parameter in sharded.parameters()]
    assert any(gradient is not None for gradient in gradients)
    copy = whole_copy(sharded.module)
    assert all(kept is parameter.grad for kept, parameter in zip(gradients, sharded.parameters()))
    torch.testing.assert_close(copy(*images)['loss'], SmallModel()(*images)['loss'])
    distributed.destroy_process_group()
    print('ok')
