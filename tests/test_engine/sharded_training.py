"""Trains small models, sharded or not, and writes the losses down; run by test_sharding.py, because it forks.

python sharded_training.py FOLDER NAME:WRAPPER[+MODEL]:PROCESSES:EPOCHS[:RESUMED NAME] ...
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from processes import start, wait
from torch import nn

from mmvisionllama import launch
from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.engine.sharding import whole_copy
from mmvisionllama.generation import DiTLLaMA
from mmvisionllama.pretraining import MAEVisionLLaMA

SAMPLES, BATCH = 60, 12


@DATASETS.register_module()
class FixedPictures(torch.utils.data.Dataset):
    def __init__(self, samples=SAMPLES):
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitem__(self, i):
        return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(i))


@MODELS.register_module()
class SmallModel(BaseModel):
    def __init__(self):
        super().__init__()
        arch = dict(embed_dims=32, num_layers=2, num_heads=2)
        self.backbone = VisionLLaMA(arch, img_size=16, patch_size=8, anchor=16, with_cp=True)
        self.head = nn.Linear(32, 5)

    def forward(self, *samples, mode='loss'):
        out = self.head(self.backbone(torch.stack(samples))[-1])
        return dict(loss=(out - 1).square().mean()) if mode == 'loss' else list(out)


@MODELS.register_module()
class SmallCompiled(SmallModel):
    """Every block compiled in its place."""

    def __init__(self):
        super().__init__()
        for layer in self.backbone.layers:
            layer.compile(backend='aot_eager')


@MODELS.register_module()
class SmallMAE(BaseModel):
    """Masks that are the samples' own, not those that each process draws."""

    def __init__(self):
        super().__init__()
        arch = dict(embed_dims=32, num_layers=2, num_heads=2)
        self.backbone = MAEVisionLLaMA(arch, img_size=16, patch_size=4, anchor=16)

    def forward(self, *samples, mode='loss'):
        images = torch.stack(samples)
        latent, _, _ = self.backbone(images, noise=images[:, 0].flatten(1)[:, ::16])
        return dict(loss=(latent - 1).square().mean()) if mode == 'loss' else list(latent)


@MODELS.register_module()
class SmallDiT(BaseModel):
    """Times, labels and noise that are the samples' own."""

    def __init__(self):
        super().__init__()
        arch = dict(embed_dims=32, num_layers=2, num_heads=2)
        self.backbone = DiTLLaMA(arch, patch_size=4, in_channels=3, num_classes=4, label_drop_prob=0.0)

    def forward(self, *samples, mode='loss'):
        noisy = torch.stack(samples)
        labels = (noisy[:, 0, 0, 0].abs() * 10).long() % 4
        out = self.backbone(noisy, noisy[:, 1, 0, 0].abs() * 300, labels)
        return dict(loss=(out[:, :3] - noisy).square().mean()) if mode == 'loss' else list(out)


@METRICS.register_module()
class MeanOutput(BaseMetric):
    """Of the averaged weights."""

    def process(self, data_batch, data_samples):
        self.results.extend(out.mean().item() for out in data_samples)

    def compute_metrics(self, results):
        return dict(mean=sum(results) / len(results))


@HOOKS.register_module()
class Losses(Hook):
    def __init__(self, folder):
        self.folder = folder

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(f'{self.folder}/rank{get_rank()}.jsonl', 'a') as file:
            file.write(json.dumps([runner.iter, outputs['loss'].item()]) + '\n')

    def after_val_epoch(self, runner, metrics=None):
        with open(f'{self.folder}/metrics{get_rank()}.jsonl', 'a') as file:
            file.write(json.dumps([runner.epoch, metrics['mean']]) + '\n')

    def after_train(self, runner):
        (ema,) = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
        samples = [runner.train_dataloader.dataset[i] for i in range(4)]
        copies = [
            whole_copy(model)(*samples)['loss'].item() for model in (getattr(runner.model, 'module', runner.model), ema)
        ]
        with open(f'{self.folder}/copies{get_rank()}.json', 'w') as file:
            json.dump(copies, file)
        block = getattr(runner.model, 'module', runner.model).backbone.layers[0].ffn
        local = [p.to_local() if hasattr(p, 'to_local') else p for p in block.parameters()]
        with open(f'{self.folder}/elements{get_rank()}', 'w') as file:
            file.write(str(sum(p.numel() for p in local)))


MODEL_NAMES = {'': 'SmallModel', 'mae': 'SmallMAE', 'dit': 'SmallDiT', 'compiled': 'SmallCompiled'}


def config(folder, wrapper, processes, epochs):
    wrapper, _, model = wrapper.partition('+')
    cfg = Config(
        dict(
            default_scope='mmengine',
            model=dict(type=MODEL_NAMES[model]),
            work_dir=str(folder),
            train_dataloader=dict(
                dataset=dict(type='FixedPictures'),
                batch_size=BATCH // processes,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
            ),
            val_dataloader=dict(
                dataset=dict(type='FixedPictures'),
                batch_size=BATCH,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            val_cfg=dict(),
            val_evaluator=dict(type='MeanOutput'),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(
                optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
                clip_grad=dict(max_norm=0.5),
                constructor='LayerDecayOptimWrapperConstructor',
                paramwise_cfg=dict(layer_decay_rate=0.8),
            ),
            default_hooks=dict(reseed=dict(type='ReseedHook')),
            custom_hooks=[
                dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.1),
                dict(type='Losses', folder=str(folder)),
            ],
            randomness=dict(seed=0),
            log_level='ERROR',
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
        )
    )
    if model in ('mae', 'dit'):  # neither has depths for layer decay
        del cfg.optim_wrapper['constructor'], cfg.optim_wrapper['paramwise_cfg']
    if wrapper == 'fsdp':
        cfg.model_wrapper_cfg = dict(type='FullyShardedModel')
    if wrapper == 'fsdp_parts':
        cfg.model_wrapper_cfg = dict(type='FullyShardedModel', checkpoint='parts')
    if wrapper == 'fsdp_bf16':
        cfg.model_wrapper_cfg = dict(type='FullyShardedModel', param_dtype='bfloat16', reduce_dtype='float32')
    return cfg


def train(folder, wrapper, processes, epochs):
    def work():
        cfg = config(folder, wrapper, processes, epochs)
        launch.prepare_train(cfg, resume='auto', launcher='pytorch' if processes > 1 else 'none')
        launch.train(cfg)

    statuses = wait(start(work, processes))
    assert not any(statuses), statuses


if __name__ == '__main__':
    torch.set_num_threads(1)
    for text in sys.argv[2:]:
        name, wrapper, processes, epochs, *resumed = text.split(':')
        folder = Path(sys.argv[1], name)
        folder.mkdir()
        if resumed:
            for path in Path(sys.argv[1], resumed[0]).glob('epoch_*.pth'):
                if path.is_dir():
                    shutil.copytree(path, folder / path.name)
                else:
                    shutil.copy2(path, folder)
        train(folder, wrapper, int(processes), int(epochs))
