"""Sampling, encoding and evaluating from the command line."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, TASK_UTILS

from mmvisionllama.errors import LaunchError
from mmvisionllama.generation import DDPMSampler, ImageGenerator, ODESampler, load_generator

ROOT = Path(__file__).parents[2]
CONFIG = """
custom_imports = dict(imports=['mmvisionllama'])
model = dict(
    type='ImageGenerator',
    network=dict(
        type='DiTLLaMA',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2),
        in_channels=1,
        num_classes=4,
        anchor=4,
        return_sigma=False,
    ),
    objective=dict(type='LinearInterpolant'),
    sampler=dict(type='SDESampler', num_steps=4),
)
"""


def tool(name):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / 'generation' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *args, monkeypatch):
    """Runs a tool in this process; returns its exit status."""
    monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
    module = tool(name)
    try:
        module.launch.run_cli(module.main)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def trained(tmp_path):
    """Config and checkpoint of a tiny generator."""
    from mmengine.config import Config

    (tmp_path / 'config.py').write_text(CONFIG)
    model = MODELS.build(Config.fromfile(tmp_path / 'config.py').model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    return model, tmp_path / 'config.py', tmp_path / 'weights.pth'


def test_sample(trained, tmp_path, monkeypatch):
    model, config, weights = trained
    npz, grid = tmp_path / 'out' / 'set.npz', tmp_path / 'out' / 'grid.png'
    args = ['--classes', 2, 0, '--num', 5, '--cfg-scale', 1.5, '--seed', 3, '--batch-size', 2, '--device', 'cpu']
    assert run('sample', config, weights, *args, '--npz', npz, '--grid', grid, monkeypatch=monkeypatch) == 0
    expected = model.sample([2, 0, 2, 0, 2], cfg_scale=1.5, seed=3)[:, 0].numpy().astype(int)
    samples = np.load(npz)['arr_0']
    assert samples.shape == (5, 4, 4, 3)
    assert np.abs(samples[..., 0] - expected).max() <= 1
    from PIL import Image

    assert max(Image.open(grid).size) >= 1024

    args = ['--num', 2, '--sampler', 'ode-euler', '--steps', 3, '--size', 6, 2, '--device', 'cpu']
    assert run('sample', config, weights, *args, '--npz', npz, monkeypatch=monkeypatch) == 0
    assert np.load(npz)['arr_0'].shape == (2, 6, 2, 3)


def test_sample_takes_configs_of_pure_python(trained, tmp_path, monkeypatch):
    _, config, weights = trained
    names = 'ImageGenerator', 'DiTLLaMA', 'LinearInterpolant', 'SDESampler'
    text = f'from mmvisionllama.generation import {", ".join(names)}\n{CONFIG.replace("custom_imports", "# ")}'
    for name in names:
        text = text.replace(f"'{name}'", name)
    config.write_text(text)
    args = [config, weights, '--num', 2, '--device', 'cpu', '--npz', tmp_path / 'set.npz']
    assert run('sample', *args, monkeypatch=monkeypatch) == 0
    assert np.load(tmp_path / 'set.npz')['arr_0'].shape == (2, 4, 4, 3)


@pytest.mark.parametrize(
    'args, message',
    [
        (['--grid', 'x.png', '--classes', 4], 'class 4 is out of range: the model has 0 ... 3'),
        (['--npz', 'x.npz', '--size', 5], 'does not divide the latent size 5x5'),
        (['--npz', 'x.npz', '--size', 2, 4, 6], '--size takes one side, or height and width'),
        (['--npz', 'x.npz', '--num', 0], '--num must be at least 1'),
        (['--npz', 'x.npz', '--steps', 0], '--steps must be at least 1'),
        (['--npz', 'x.npz', '--steps', 1], 'num_steps of the SDE must be a whole number of at least 2, got 1'),
        (['--npz', 'x.npz', '--columns', -1], '--columns must be at least 1'),
        (['--npz', 'x.npz', '--seed', -1], '--seed must be at least 0'),
        (['--npz', 'x.npz', '--cfg-scale', 'nan'], 'cfg_scale must be a finite number, got nan'),
        (['--npz', 'x.npz', '--device', 'foo'], "--device 'foo' cannot be used"),
        (['--grid', 'x.xyz'], "--grid 'x.xyz': expected a name that ends with .png"),
        (['--grid', '/proc/x.png'], "--grid '/proc/x.png' cannot be written"),
        (['--npz', 'x.npz', '--cfg-options', 'model.type=ImageClassifier'], 'builds a ImageClassifier'),
        (['--npz', 'x.npz', '--sampler', 'ddpm'], 'DDPMSampler samples a GaussianDiffusion'),
        (['--npz', 'x.npz', '--vae', 'my/vae'], 'PixelCodec of the config cannot be made'),
        (['--grid', 'x.png', '--sampler', 'ode', '--steps', 5], 'dopri5 chooses its own steps'),
        (['--npz', 'x.npy'], 'expected a name that ends with .npz'),
        ([], 'nothing to write'),
    ],
)
def test_sample_errors(trained, args, message, tmp_path, monkeypatch, capsys):
    """One line, and no file is left behind."""
    _, config, weights = trained
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    assert run('sample', config, weights, '--device', 'cpu', *args, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not list((tmp_path / 'here').iterdir())


def test_missing_extra(trained, monkeypatch, capsys):
    _, config, weights = trained
    monkeypatch.setitem(sys.modules, 'torchdiffeq', None)
    args = ['--grid', 'x.png', '--sampler', 'ode', '--device', 'cpu']
    assert run('sample', config, weights, *args, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert "pip install 'mmvisionllama[generation]'" in error and len(error.splitlines()) == 1


def test_sampler_arguments():
    """The clipping of the config's sampler stays, steps replace its own."""
    from argparse import Namespace

    from mmengine.config import Config

    sampler_of = tool('sample').sampler_of
    cfg = Config(dict(model=dict(sampler=dict(type='DDPMSampler', num_steps=250, clip=True))))
    assert sampler_of(Namespace(sampler=None, steps=None), cfg) == cfg.model.sampler
    assert sampler_of(Namespace(sampler='ddim', steps=7), cfg) == dict(type='DDIMSampler', num_steps=7, clip=True)
    cfg.model.sampler.type = DDPMSampler  # as in configs of pure Python
    assert sampler_of(Namespace(sampler='ddim', steps=None), cfg) == dict(type='DDIMSampler', clip=True)
    cfg.model.sampler = dict(type=ODESampler)
    with pytest.raises(LaunchError, match='dopri5 chooses its own steps'):
        sampler_of(Namespace(sampler=None, steps=7), cfg)
    cfg.model.sampler = 'sde'
    assert sampler_of(Namespace(sampler=None, steps=9), cfg) == dict(type='SDESampler', num_steps=9)
    assert tool('sample').SAMPLERS['sde'] == dict(type='SDESampler')  # the table is not changed


def test_two_processes_sample_the_set_of_one(trained, tmp_path, monkeypatch):
    _, config, weights = trained
    args = [config, weights, '--num', 7, '--batch-size', 2, '--device', 'cpu', '--cfg-scale', 1.5, '--seed', 5]
    one = ['--npz', tmp_path / 'one.npz', '--grid', tmp_path / 'one.png']
    assert run('sample', *args, *one, monkeypatch=monkeypatch) == 0
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    two = ['--npz', tmp_path / 'two.npz', '--grid', tmp_path / 'two.png']
    command = [sys.executable, ROOT / 'tools' / 'generation' / 'sample.py', *args, *two]
    processes = []
    for rank in range(2):
        env = dict(os.environ, RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        processes.append(subprocess.Popen(list(map(str, command)), env=env, cwd=ROOT))
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    samples = np.load(tmp_path / 'two.npz')['arr_0']
    assert np.array_equal(np.load(tmp_path / 'one.npz')['arr_0'], samples)
    assert samples.dtype == np.uint8 and len(np.unique(samples, axis=0)) == 7  # none twice, none left out
    assert (tmp_path / 'one.png').read_bytes() == (tmp_path / 'two.png').read_bytes()
    assert not list(tmp_path.glob('*partial*'))


def test_sampling_goes_on_where_it_stopped(trained, tmp_path, monkeypatch, capsys):
    """Samples that are there are kept for the same command, with another batch size, too, and for no other."""
    _, config, weights = trained
    args = [config, weights, '--num', 7, '--device', 'cpu', '--cfg-scale', 1.5, '--npz', tmp_path / 'set.npz']
    whole = [*args, '--batch-size', 3, '--seed', 5, '--grid', tmp_path / 'whole.png']
    assert run('sample', *whole, monkeypatch=monkeypatch) == 0
    expected = np.load(tmp_path / 'set.npz')['arr_0']

    made = []
    sample = ImageGenerator.sample

    def stopped(self, labels, *, indices, **options):
        if 6 in indices:
            raise RuntimeError('stopped')
        made.extend(indices)
        return sample(self, labels, indices=indices, **options)

    def kept(self, labels, *, indices, **options):
        made.extend(indices)
        return sample(self, labels, indices=indices, **options)

    monkeypatch.setattr(ImageGenerator, 'sample', stopped)
    with pytest.raises(RuntimeError, match='stopped'):
        run('sample', *args, '--batch-size', 3, '--seed', 5, monkeypatch=monkeypatch)
    assert made == [0, 1, 2, 3, 4, 5] and (tmp_path / 'set.partial.npy').is_file()
    assert np.array_equal(np.load(tmp_path / 'set.npz')['arr_0'], expected)  # until the new set is whole

    made.clear()
    monkeypatch.setattr(ImageGenerator, 'sample', kept)
    capsys.readouterr()
    again = [*args, '--batch-size', 2, '--seed', 5, '--grid', tmp_path / 'again.png']
    assert run('sample', *again, monkeypatch=monkeypatch) == 0
    assert 'goes on: 6 of 7 samples are there' in capsys.readouterr().out and made == [6]
    assert np.array_equal(np.load(tmp_path / 'set.npz')['arr_0'], expected)
    assert (tmp_path / 'again.png').read_bytes() == (tmp_path / 'whole.png').read_bytes()

    monkeypatch.setattr(ImageGenerator, 'sample', stopped)
    with pytest.raises(RuntimeError, match='stopped'):
        run('sample', *args, '--batch-size', 3, '--seed', 5, monkeypatch=monkeypatch)
    made.clear()
    monkeypatch.setattr(ImageGenerator, 'sample', kept)
    assert run('sample', *args, '--seed', 6, monkeypatch=monkeypatch) == 0  # another seed: another set
    assert made == list(range(7)) and not np.array_equal(np.load(tmp_path / 'set.npz')['arr_0'], expected)
    assert not list(tmp_path.glob('*partial*'))


@pytest.mark.parametrize('sampler', ['sde', 'ode', 'ode-euler'])
def test_a_set_is_told_from_others(trained, sampler):
    """By everything that its samples depend on; a batch's size is of these where the steps are the batch's own."""
    from argparse import Namespace

    from mmengine.config import Config

    module, cfg = tool('sample'), Config.fromfile(trained[1])
    model = load_generator(cfg, str(trained[2]))
    model.sampler = module.build_sampler(sampler, model.objective)

    def described(labels=(0, 1), seed=0, cfg=cfg, **changed):
        args = dict(sampler=sampler, steps=None, cfg_channels=None, batch_size=8)
        return json.dumps(module.description(Namespace(**{**args, **changed}), model, cfg, labels, seed))

    first = described()
    assert described() == first
    others = [described(labels=(1, 0)), described(seed=1), described(cfg_channels='first_three')]
    if sampler != 'ode':
        others.append(described(steps=9))
    other = Config(cfg.to_dict())
    other.model.network.arch.num_heads = 4
    others.append(described(cfg=other))
    model.cfg_scale += 1
    others.append(described())
    model.cfg_scale -= 1
    next(model.network.parameters()).data += 1e-3
    others.append(described())
    assert first not in others and len(set(others)) == len(others)
    next(model.network.parameters()).data -= 1e-3
    assert (described(batch_size=4) == described()) == (sampler != 'ode')


def test_a_fast_process_waits_for_hours(monkeypatch):
    """Torch's own 30 minutes would end it, and with it the others' work."""
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '1')
    begun = []
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda *_, timeout: begun.append(timeout))
    module = tool('sample')
    module.processes('cpu')
    assert not begun
    monkeypatch.setenv('WORLD_SIZE', '2')
    module.processes('cpu')
    assert begun[0].total_seconds() >= 12 * 3600


TEST = """
default_scope = 'mmengine'
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ClassLabels', num_samples=9, num_classes=4),
)
test_evaluator = dict(type='GenerationMetric', reference=REFERENCE, extractor=dict(type='ToolColours'))
test_cfg = dict()
"""


def test_test_tool_makes_the_same_set(trained, tmp_path, monkeypatch):
    """tools/test.py draws and evaluates in one go what sample.py and evaluate.py do in two."""
    _, config, weights = trained
    reference = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / 'reference.npz', arr_0=reference)
    config.write_text(CONFIG + TEST.replace('REFERENCE', repr(str(tmp_path / 'reference.npz'))))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    npz, out = tmp_path / 'set.npz', tmp_path / 'out.json'
    assert run('sample', config, weights, '--num', 9, '--batch-size', 2, '--npz', npz, monkeypatch=monkeypatch) == 0
    monkeypatch.setitem(sys.modules, 'features_of_mine', sys.modules[__name__])
    args = ['--reference', tmp_path / 'reference.npz', '--extractor', 'features_of_mine:Colours', '--out', out]
    assert run('evaluate', npz, *args, monkeypatch=monkeypatch) == 0
    monkeypatch.setattr(sys, 'argv', ['test', str(config), str(weights), '--out', str(tmp_path / 'test.json')])
    tool('../test').main()
    results = json.loads((tmp_path / 'test.json').read_text())
    for name, value in json.loads(out.read_text()).items():
        if name in ('FID', 'precision', 'recall'):
            assert results[f'generation/{name}'] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    'changed, message',
    [
        ('reference="nothing.npz"', "the reference 'nothing.npz' is no file: give a .npz"),
        ('reference="text.npz"', "the reference 'text.npz' is no .npz file: give one"),
        ('extractor=dict(_delete_=True, type="InceptionFeatures", weights="no.pth")', "'no.pth' is no file: give the"),
    ],
)
def test_test_tool_says_which_file_is_missing(changed, message, trained, tmp_path, monkeypatch, capsys):
    _, config, weights = trained
    config.write_text(CONFIG + TEST.replace('REFERENCE', '"reference.npz"'))
    (tmp_path / 'other.py').write_text(f'_base_ = ["config.py"]\ntest_evaluator = dict({changed})\n')
    (tmp_path / 'text.npz').write_text('no archive')
    monkeypatch.chdir(tmp_path)
    assert run('../test', tmp_path / 'other.py', weights, monkeypatch=monkeypatch) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f'error: {message}')


@pytest.fixture
def encoded(tmp_path):
    """Two pictures, each in a folder of its own, and options of a VAE for them."""
    diffusers = pytest.importorskip('diffusers')
    from PIL import Image

    blocks = dict(down_block_types=('DownEncoderBlock2D',) * 2, up_block_types=('UpDecoderBlock2D',) * 2)
    vae = diffusers.AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **blocks)
    vae.save_pretrained(tmp_path / 'vae')
    for label in 'ab':
        (tmp_path / 'images' / label).mkdir(parents=True)
        Image.new('RGB', (12, 10), 'red').save(tmp_path / 'images' / label / '0.png')
    return ['--size', 8, '--downsample', 2, '--device', 'cpu', '--vae', tmp_path / 'vae']


def test_encode_latents(encoded, tmp_path, monkeypatch, capsys):
    args = [tmp_path / 'images', tmp_path / 'out', *encoded, '--workers', 0]
    assert run('encode_latents', *args, monkeypatch=monkeypatch) == 0
    assert 'shard 1 of 1 written' in capsys.readouterr().out
    assert np.load(tmp_path / 'out' / 'moments_00000.npy').shape == (2, 2, 8, 4, 4)
    assert json.loads((tmp_path / 'out' / 'latents.json').read_text())['classes'] == 2
    plain = [args[0], tmp_path / 'plain', *args[2:], '--no-flip', '--dtype', 'float32']
    assert run('encode_latents', *plain, monkeypatch=monkeypatch) == 0
    unflipped = np.load(tmp_path / 'plain' / 'moments_00000.npy')
    assert unflipped.shape == (2, 1, 8, 4, 4) and unflipped.dtype == np.float32
    capsys.readouterr()
    assert run('encode_latents', *args, '--vae', tmp_path / 'nothing', monkeypatch=monkeypatch) == 1
    assert 'no VAE at' in capsys.readouterr().err

    broken = tmp_path / 'images' / 'a' / '0.png'
    broken.write_bytes(broken.read_bytes()[:40])
    args[1] = tmp_path / 'other'
    assert run('encode_latents', *args, monkeypatch=monkeypatch) == 1
    assert f'error: picture {broken} cannot be read' in capsys.readouterr().err
    assert not list((tmp_path / 'other').glob('*.npy')), 'no shard is half written'
    assert run('encode_latents', *args, '--on-error', 'skip', monkeypatch=monkeypatch) == 0
    assert '1 pictures cannot be read: the next ones took their places' in capsys.readouterr().out
    assert np.load(tmp_path / 'other' / 'labels_00000.npy').tolist() == [1, 1]


@pytest.mark.parametrize('workers', [0, 1])
def test_each_process_names_the_broken_picture_of_its_own_shards(workers, encoded, tmp_path, monkeypatch, capsys):
    broken = tmp_path / 'images' / 'b' / '0.png'
    broken.write_bytes(broken.read_bytes()[:40])
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('LOCAL_RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    args = [tmp_path / 'images', tmp_path / 'out', '--shard-size', 1, '--workers', workers, *encoded]
    assert run('encode_latents', *args, monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert error.startswith(f'error: picture {broken} cannot be read') and error.count('\n') == 1
    assert run('encode_latents', *args, '--size', 7, monkeypatch=monkeypatch) == 1
    assert not capsys.readouterr().err, 'what is wrong for all says the first process of each machine'


@TASK_UTILS.register_module('ToolColours')
class Colours:
    """Features of one's own."""

    def __call__(self, images):
        return dict(pool=images.float().mean((2, 3)))


def test_evaluate(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name in ('samples', 'reference'):
        np.savez(tmp_path / f'{name}.npz', arr_0=rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8))
    samples, reference = tmp_path / 'samples.npz', tmp_path / 'reference.npz'
    monkeypatch.setitem(sys.modules, 'features_of_mine', sys.modules[__name__])
    args = ['--reference', reference, '--extractor', 'features_of_mine:Colours', '--device', 'cpu']
    assert run('evaluate', samples, *args, '--out', tmp_path / 'out.json', monkeypatch=monkeypatch) == 0
    results = json.loads((tmp_path / 'out.json').read_text())
    assert results['count'] == 20 and {'FID', 'precision', 'recall'} < results.keys()
    assert f'FID        {results["FID"]:.4f}' in capsys.readouterr().out

    module, asked = tool('evaluate'), []
    compare = module.compare
    monkeypatch.setattr(module, 'compare', lambda *given: asked.append(given[2:4]) or compare(*given))
    monkeypatch.setattr(sys, 'argv', ['evaluate', *map(str, [samples, *args, '--neighbour', 2, '--split-size', 7])])
    module.main()
    assert asked == [(2, 7)]

    args[2:4] = ['--classifier', 'vision_llama_digits']
    pytest.importorskip('mmpretrain')
    np.savez(reference, arr_0=rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    np.savez(samples, arr_0=rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    assert run('evaluate', samples, *args, '--out', tmp_path / 'out.json', monkeypatch=monkeypatch) == 0
    results = json.loads((tmp_path / 'out.json').read_text())
    assert results['features'] == 'vision_llama_digits' and {'FID', 'IS', 'precision', 'recall'} < results.keys()

    missing = ['--reference', reference, '--inception', tmp_path / 'weights.pth']
    for wrong, message in (
        ([samples, '--reference', reference, '--extractor', 'features_of_mine:Shapes'], 'cannot be made'),
        ([samples, *missing], 'Inception weights'),
        ([samples, '--reference', reference, '--classifier', 'vision_llama_digit'], 'no model vision_llama_digit: '),
        ([samples, '--reference', reference, '--classifier', 'mae_digits'], 'it is a MAE and no classifier'),
        ([tmp_path / 'nothing.npz', *args], 'sample.py --npz'),
    ):
        assert run('evaluate', *wrong, monkeypatch=monkeypatch) == 1
        assert message in capsys.readouterr().err
