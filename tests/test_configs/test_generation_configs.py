"""Every generation config: its head says what is true, and it trains a step through the Runner at a tiny size."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmvisionllama import launch
from mmvisionllama.analysis import flops
from mmvisionllama.generation.labelled_images import check_labels
from mmvisionllama.generation.latents import META

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'generation').glob('*/*.py'))
RECIPES = [path for path in CONFIGS if path.parent.name not in ('quickstart', 'study')]
TINY = dict(embed_dims=32, num_layers=2, num_heads=2)

#: FID of the paper's tables: DiT without and with guidance 1.5 (Table 1), SiT with SDE and ODE (Tables 8 and 9)
PAPER = {
    'dit-llama-b-4': (63.17, 39.51),
    'dit-llama-l-4': (40.32, 18.64),
    'dit-llama-xl-4': (35.99, 18.69),
    'dit-llama-xl-2': (9.84, 2.42),
    'dit-b-4': (68.38, 45.38),
    'dit-l-4': (44.37, 22.51),
    'dit-xl-4': (43.01, 22.52),
    'dit-xl-2': (10.67,),
    'sit-llama-s-2': (53.90, 54.62),
    'sit-llama-b-2': (29.53, 30.23),
    'sit-llama-l-2': (14.32, 14.91),
    'sit-llama-xl-2': (12.20, 12.79),
    'sit-s-2': (58.15, 59.60),
    'sit-b-2': (35.54, 36.90),
    'sit-l-2': (19.34, 20.14),
    'sit-xl-2': (16.98, 17.83),
}


def name(path):
    return str(path.relative_to(ROOT / 'configs'))


def data_folder(cfg, root):
    """Two stored latents, or two pictures."""
    root.mkdir()
    if 'quickstart' in cfg.filename or 'study' in cfg.filename:
        from PIL import Image

        for label in range(2):
            (root / str(label)).mkdir()
            Image.new('L', (32, 32), 100 * label).save(root / str(label) / '0.png')
        return root
    np.save(root / 'moments_00000.npy', np.ones((2, 2, 8, 32, 32), np.float16))
    np.save(root / 'labels_00000.npy', np.array([3, 999]))
    (root / META).write_text(json.dumps(dict(images=2, shard_size=4, shards=1, views=2)))
    return root


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_trains_a_step(path, tmp_path, monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', property(str))  # formatting takes longer than training
    cfg = launch.load_config(str(path))
    cfg.work_dir = str(tmp_path / 'work')
    cfg.model.network.update(arch=TINY, patch_size=2 if 'quickstart' in str(path) else 8)
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.data_root = str(data_folder(cfg, tmp_path / 'data'))
    cfg.train_cfg.max_iters = 1
    if not torch.cuda.is_available() and cfg.optim_wrapper.type == 'AmpOptimWrapper':
        cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer)
    (pictures,) = [hook for hook in cfg.custom_hooks if hook.type == 'SampleHook']
    check_labels(pictures.classes, cfg.model.network.num_classes)
    draws = cfg.model.codec.type == 'PixelCodec'
    if draws:
        pictures.update(interval=1, per_class=1, cfg_scale=1.0)
    else:
        cfg.custom_hooks.remove(pictures)  # needs the VAE
    runner = Runner.from_cfg(launch.prepare_train(cfg))
    untouched = {key for key, _ in runner.model.named_parameters()}
    for key, parameter in runner.model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, key=key: untouched.discard(key))
    runner.train()
    assert runner.iter == 1 and not untouched
    assert (tmp_path / 'work' / 'samples' / 'iter_0000001.png').exists() == draws
    assert np.isfinite(runner.message_hub.get_scalar('train/loss').current())


@pytest.mark.parametrize('path', RECIPES, ids=name)
def test_head(path):
    """Paper's numbers, the model's real size, schedule arithmetic and command."""
    head = path.read_text().split('_base_ =')[0]
    stem = path.stem.split('_')[0]
    paper = next(line for line in head.splitlines() if 'Paper' in line)
    assert tuple(map(float, re.findall(r'\d+\.\d\d', paper))) == PAPER[stem] and 'Not reproduced here' in paper
    assert f'tools/dist_train.sh configs/{name(path)} 8' in head
    params, macs = re.search(r'([\d.]+) M parameters, ([\d.]+) GMACs at 256', head).groups()
    cfg = launch.load_config(str(path))
    found = flops.count_config(cfg, (256, 256))
    assert f'{found.params / 1e6:.2f}' == params and f'{found.macs / 1e9:.2f}' == macs
    iterations, gpus, batch, total = re.search(r'([\d,]+) iterations.* of (\d+) GPUs x (\d+) = (\d+)', head).groups()
    assert int(iterations.replace(',', '')) == cfg.train_cfg.max_iters
    assert int(batch) == cfg.train_dataloader.batch_size
    assert int(gpus) * int(batch) == int(total) == cfg.auto_scale_lr.base_batch_size == 256


@pytest.mark.parametrize('path', RECIPES, ids=name)
def test_settings(path):
    """Sections D.10 and D.11, and the network that the file's name says."""
    cfg = launch.load_config(str(path))
    family, *llama, arch, patch = path.stem.split('_')[0].split('-')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.network.arch_zoo[arch]['embed_dims'] == model.network.embed_dims
    assert model.network.patch_size == (int(patch),) * 2 and model.network.anchor_grid == (32 // int(patch),) * 2
    assert model.network.position == ('rope' if llama else 'sincos')
    assert type(model.network.layers[0].ffn).__name__ == ('SwiGLU' if llama else 'GELUFFN')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, tuple(optimizer.betas)) == ('AdamW', 1e-4, (0.9, 0.999))
    assert cfg.param_scheduler == []
    if family == 'dit':
        assert type(model.sampler).__name__ == 'DDPMSampler' and model.sampler.process.num_timesteps == 250
        betas = model.objective.betas
        assert len(betas) == 1000 and betas[0].item() == 1e-4 and betas[-1].item() == pytest.approx(0.02)
        assert model.network.return_sigma
    else:
        assert type(model.sampler).__name__ == 'SDESampler' and model.sampler.num_steps == 250
        assert not model.network.return_sigma
    # milestones that stay, and a rolling checkpoint
    milestones, rolling = cfg.default_hooks.checkpoint, cfg.default_hooks.rolling_checkpoint
    kept = -(-cfg.train_cfg.max_iters // milestones.interval)
    assert 4 <= kept <= 7 and 'max_keep_ckpts' not in milestones
    assert (rolling.interval, rolling.max_keep_ckpts) == (5000, 1)
    assert (model.cfg_channels == 'first_three') == path.stem.endswith('_released')


def test_milestones_stay_and_one_rolling_checkpoint_moves(tmp_path, monkeypatch):
    """In small: a resumed training leaves the same files and ends at the same weights."""
    monkeypatch.setattr(Config, 'pretty_text', property(str))

    def train(work_dir, iterations, resume=None):
        path = next(path for path in RECIPES if path.stem == 'dit-llama-b-4_8xb32-400k_imagenet-256')
        cfg = launch.load_config(str(path))
        cfg.work_dir = str(work_dir)
        cfg.model.network.update(arch=TINY, patch_size=8)
        cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
        cfg.train_dataloader.dataset.data_root = str(tmp_path / 'data')
        cfg.train_cfg.max_iters = iterations
        cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer)
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'SampleHook']
        hooks = cfg.default_hooks
        hooks.checkpoint.interval //= 10000
        hooks.rolling_checkpoint.interval //= 1000
        runner = Runner.from_cfg(launch.prepare_train(cfg, resume=resume))
        runner.train()
        return runner.model.state_dict()

    data_folder(SimpleNamespace(filename='moments'), tmp_path / 'data')
    whole = train(tmp_path / 'whole', 23)
    train(tmp_path / 'halves', 17)
    halves = tmp_path / 'halves'
    assert {path.name for path in halves.glob('*.pth')} == {'iter_10.pth', 'iter_17.pth', 'rolling_iter_15.pth'}
    # what a training that was cut off after 17 iterations leaves
    (halves / 'iter_17.pth').unlink()
    (halves / 'last_checkpoint').write_text(str(halves / 'rolling_iter_15.pth'))
    resumed = train(halves, 23, resume='auto')
    names = {'iter_10.pth', 'iter_20.pth', 'iter_23.pth', 'rolling_iter_20.pth'}
    assert {path.name for path in halves.glob('*.pth')} == names
    assert Path((halves / 'last_checkpoint').read_text()).name == 'iter_23.pth'
    for key, value in resumed.items():
        torch.testing.assert_close(value, whole[key], rtol=0, atol=0)


def test_waiting_for_the_first_process():
    """Metrics of 50,000 images and a VAE's download take longer than the ten minutes that NCCL waits by default."""
    for path in CONFIGS:
        assert Config.fromfile(path).env_cfg.dist_cfg.timeout >= 3600, path
