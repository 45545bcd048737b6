"""The pre-training config in two processes with bf16: interrupted and resumed, and its pictures when sharded."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvisionllama.checkpoints import read_checkpoint
from mmvisionllama.engine import sharding

ROOT = Path(__file__).parents[2]
BASE = ROOT / 'configs/mmpretrain/mae_vision_llama/mae_visionllama-base-p16_8xb512-amp-800e_in1k.py'
TINY = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=32, num_layers=2, num_heads=2), drop_path_rate=0.2),
    neck=dict(num_patches=16, embed_dim=32, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2),
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 64
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(_delete_=True, type='CustomDataset', data_root={data!r}, pipeline=train_pipeline),
)
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(interval=1))
"""


def train(config, work_dir, *options):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    command = [
        'bash',
        str(ROOT / 'tools/dist_train.sh'),
        str(config),
        '2',
        '--work-dir',
        str(work_dir),
        *map(str, options),
    ]
    env = dict(os.environ, PORT=port, PYTHON=sys.executable, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return read_checkpoint(work_dir / 'epoch_2.pth'), done.stdout + done.stderr


@pytest.fixture
def config(tmp_path):
    """Of a small model, over eight pictures."""
    pytest.importorskip('mmpretrain')
    from PIL import Image

    rng = np.random.default_rng(0)
    data = tmp_path / 'data'
    (data / 'a').mkdir(parents=True)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(data / 'a' / f'{i}.png')
    config = tmp_path / 'tiny.py'
    config.write_text(TINY.format(base=str(BASE), data=str(data)))
    return config


@pytest.mark.nightly  # two starts of two processes
def test_resumes_exactly(tmp_path, config):
    whole, log = train(config, tmp_path / 'whole')
    assert "type='AutocastOptimWrapper'" in log
    (tmp_path / 'resumed').mkdir()
    shutil.copy(tmp_path / 'whole/epoch_1.pth', tmp_path / 'resumed/first.pth')
    resumed, _ = train(config, tmp_path / 'resumed', '--resume', tmp_path / 'resumed/first.pth')

    first = read_checkpoint(tmp_path / 'resumed/first.pth')['state_dict']
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
    changed = [key for key, value in first.items() if not torch.equal(value, whole['state_dict'][key])]
    assert len(changed) > 0.9 * len(first), 'the second epoch trained'
    for ours, theirs in zip(whole['optimizer']['state'].values(), resumed['optimizer']['state'].values()):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole['meta']['iter'] == resumed['meta']['iter'] == 4


@pytest.mark.nightly  # two starts of two processes
@pytest.mark.skipif(sharding.fully_shard is None, reason='torch before 2.7')
def test_pictures_of_a_sharded_encoder(tmp_path, config):
    """One a process group and epoch, and those of the same training without sharding."""
    from PIL import Image

    with open(config, 'a') as file:
        file.write("custom_hooks = [dict(type='MAEReconstructionHook', interval=1, num_images=2)]\n")
        file.write("param_scheduler = []\noptim_wrapper = dict(type='OptimWrapper')\n")
    pictures = {}
    for name, options in dict(whole=(), sharded=('--cfg-options', 'model_wrapper_cfg.type=FullyShardedModel')).items():
        train(config, tmp_path / name, *options)
        found = sorted((tmp_path / name).glob('*/vis_data/vis_image/*.png'))
        assert [path.name for path in found] == ['reconstruction_1.png', 'reconstruction_2.png']
        pictures[name] = [np.asarray(Image.open(path)).astype(int) for path in found]
    first, second = pictures['whole']
    assert np.abs(first - second).mean() > 1, 'the training changes the reconstruction'
    for ours, theirs in zip(pictures['sharded'], pictures['whole']):
        assert np.abs(ours - theirs).max() <= 1
