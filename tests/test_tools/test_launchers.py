"""The scripts as a user runs them: two processes on the CPU, killed and resumed, evaluated."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvisionllama.launch.runner import check_launcher

ROOT = Path(__file__).parents[2]

CONFIG = """
_base_ = ['{root}/configs/_base_/models/vision_llama.py', '{root}/configs/_base_/default_runtime.py']
custom_imports = dict(imports=['mmvisionllama', 'record_hook'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=32, num_layers=2, num_heads=2),
        patch_size=8,
        anchor=32,
        drop_path_rate=0.2,
    ),
    head=dict(num_classes=3, in_channels=32),
)
data_preprocessor = dict(num_classes=3, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
loader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='RepeatAugSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root='{data}',
        data_prefix='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=32),
            dict(type='ThreeAugment'),
            dict(type='PackInputs'),
        ],
    ),
)
train_dataloader = loader
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root='{data}',
        data_prefix='val',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')],
    ),
)
test_cfg = dict()
test_evaluator = dict(type='Accuracy', topk=(1,))
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(optimizer=dict(type='Lamb', lr=0.01), clip_grad=dict(max_norm=1.0))
param_scheduler = dict(type='CosineAnnealingLR', T_max=3, convert_to_iter_based=True)
randomness = dict(_delete_=True, seed=None)
custom_hooks = [dict(type='RecordHook', folder='{record}')]
"""


@pytest.fixture
def config(tmp_path):
    """A config and its data: 3 classes of 8 training and 4 validation images; 3 iterations x 3 epochs on 2 ranks."""
    pytest.importorskip('mmpretrain')
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, number in (('train', 8), ('val', 4)):
        for name in 'abc':
            folder = tmp_path / 'data' / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f'{i}.png')
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG.format(root=ROOT, data=tmp_path / 'data', record=tmp_path / 'record'))
    return path


def launch(script, *args, ok=True):
    """Runs a launch script over a free port without any GPU and returns what it printed."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = dict(os.environ, PYTHON=sys.executable, PORT=str(port), CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    env['PYTHONPATH'] = str(Path(__file__).parent)
    done = subprocess.run(
        ['bash', str(ROOT / 'tools' / script), *map(str, args)], env=env, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def losses(folder, rank):
    return dict(json.loads(line) for line in (folder / f'rank{rank}.jsonl').read_text().splitlines())


def test_two_processes(config, tmp_path):
    """Trains over gloo, dies in its third epoch, resumes to the losses and weights of a run that did not; evaluates."""
    launch('dist_train.sh', config, 2, '--work-dir', tmp_path / 'whole')
    whole = tmp_path / 'record'
    weights = [torch.load(whole / f'rank{rank}.pth') for rank in (0, 1)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0]), 'the ranks drifted apart'
    info = json.loads((whole / 'rank0.json').read_text())
    # DistributedDataParallel fails in the second iteration when a parameter got no gradient, unless told to look for it
    assert info == dict(backend='gloo', unused=False)
    curves = [losses(whole, rank) for rank in (0, 1)]
    assert sorted(curves[0]) == list(range(9)) and curves[0] != curves[1]

    seed = torch.load(tmp_path / 'whole' / 'epoch_1.pth', weights_only=False)['meta']['seed']
    second = tmp_path / 'second'
    hook = f'custom_hooks.0.folder={second}'
    launch(
        'dist_train.sh',
        *(config, 2, '--work-dir', tmp_path / 'killed', '--cfg-options', hook),
        *('custom_hooks.0.kill_at=7', f'randomness.seed={seed}'),
        ok=False,
    )
    assert sorted(losses(second, 1)) == list(range(8))
    (second / 'rank0.jsonl').unlink()
    (second / 'rank1.jsonl').unlink()
    launch('dist_train.sh', config, 2, '--work-dir', tmp_path / 'killed', '--resume', '--cfg-options', hook)
    for rank in (0, 1):
        assert losses(second, rank) == {i: curves[rank][i] for i in (6, 7, 8)}
    resumed = torch.load(second / 'rank0.pth')
    assert all(torch.equal(weights[0][key], resumed[key]) for key in resumed)

    metrics = tmp_path / 'metrics.json'
    args = (config, tmp_path / 'whole' / 'epoch_3.pth', 1, '--work-dir', tmp_path / 'test', '--out', metrics)
    launch('dist_test.sh', *args)
    assert set(json.loads(metrics.read_text())) == {'accuracy/top1'}


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_usage(script):
    """Without arguments: how it is called."""
    assert f'{script} ' in launch(script, ok=False)


def test_several_nodes(tmp_path):
    """The environment variables reach the launcher, and the options the script."""
    fake = tmp_path / 'python'
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    env = dict(PATH=os.environ['PATH'], PYTHON=str(fake), NNODES='3', NODE_RANK='2', PORT='1234', MASTER_ADDR='node0')
    script = ROOT / 'tools' / 'dist_train.sh'
    config = tmp_path / 'c.py'
    config.touch()
    out = subprocess.run(['bash', script, config, '8', '--amp'], env=env, capture_output=True, text=True).stdout
    for part in ('--nnodes=3', '--node-rank=2', '--master-port=1234', '--master-addr=node0', '--nproc-per-node=8'):
        assert part in out.split()
    assert out.split()[-4:] == [str(config), '--launcher', 'pytorch', '--amp']


@pytest.mark.parametrize(
    'name, value, message',
    [
        ('PYTHON', 'no_such_python', 'there is no no_such_python: activate the environment'),
        ('MAX_RESTARTS', 'abc', "MAX_RESTARTS must be a whole number, got 'abc'"),
    ],
)
def test_what_the_scripts_cannot_use(tmp_path, name, value, message):
    config = tmp_path / 'c.py'
    config.touch()
    args, env = ['bash', ROOT / 'tools' / 'dist_train.sh', config, '2'], {**os.environ, name: value}
    result = subprocess.run(args, env=env, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.startswith(f'error: {message}') and result.stderr.count('\n') == 1


def test_a_submitted_job_hands_its_processors_on(tmp_path):
    sbatch = tmp_path / 'sbatch'
    sbatch.write_text('#!/bin/sh\nfor job; do :; done\ncat "$job"\n')
    sbatch.chmod(0o755)
    env = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', BATCH='1', CPUS_PER_TASK='7')
    args = ['bash', ROOT / 'tools' / 'slurm_train.sh', 'part', 'job', 'c.py', tmp_path / 'work']
    job = subprocess.run(args, env=env, capture_output=True, text=True).stdout
    assert job.index('export SRUN_CPUS_PER_TASK=7 ') < job.index('exec srun ')


def test_jobs_of_one_machine_have_ports_of_their_own(monkeypatch):
    slurm = dict(SLURM_PROCID='0', SLURM_NTASKS='2', SLURM_NODELIST='a', SLURM_LOCALID='0', SLURM_JOB_ID='4711')
    ports = []
    for changed in (dict(), dict(SLURM_STEP_ID='1'), dict(SLURM_JOB_ID='4712'), dict(PORT='1234')):
        with monkeypatch.context() as patch:
            for name in ('MASTER_PORT', 'PORT', 'SLURM_STEP_ID'):
                patch.delenv(name, raising=False)
            for name, value in {**slurm, **changed}.items():
                patch.setenv(name, value)
            check_launcher('slurm')
            ports.append(int(os.environ.pop('MASTER_PORT')))
    assert len(set(ports)) == 4 and ports[-1] == 1234 and all(20000 <= port < 40000 for port in ports[:-1])


@pytest.mark.parametrize('per_node, gpus', [(8, True), (0, False)])
def test_slurm(tmp_path, per_node, gpus):
    """srun gets one task per GPU; GPUS_PER_NODE=0 asks for none."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    env = dict(
        PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='16', GPUS_PER_NODE=str(per_node), SRUN_ARGS='--mem=1 -x n'
    )
    script = ROOT / 'tools' / 'slurm_train.sh'
    args = ['bash', script, 'part', 'job', 'c.py', 'work', '--resume']
    out = subprocess.run(args, env=env, capture_output=True, text=True).stdout.split()
    assert ('--gres=gpu:8' in out) == gpus and '--ntasks=16' in out and '--partition=part' in out
    assert out[out.index('--mem=1') + 1 : out.index('--mem=1') + 3] == ['-x', 'n']
    assert out[-6:] == ['c.py', '--work-dir', 'work', '--launcher', 'slurm', '--resume']
