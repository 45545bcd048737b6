"""The model on mmengine's Runner: losses, sampling, moving average, pictures, exact resuming, metrics."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DATASETS, MODELS, OPTIM_WRAPPERS, TASK_UTILS
from mmengine.runner import Runner
from torch.amp import GradScaler
from torch.utils.data import Dataset

from mmvisionllama.checkpoints import CheckpointError
from mmvisionllama.deploy import export_network
from mmvisionllama.errors import OptionError
from mmvisionllama.generation import load_generator, sample_set
from mmvisionllama.generation.metrics import frechet_distance, statistics
from mmvisionllama.generation.sample_set import batches

NETWORK = dict(
    type='DiTLLaMA',
    arch=dict(embed_dims=32, num_layers=2, num_heads=2),
    patch_size=2,
    in_channels=1,
    num_classes=3,
    anchor=4,
)
DIT = dict(
    type='ImageGenerator',
    network=NETWORK,
    objective=dict(type='GaussianDiffusion'),
    sampler=dict(type='DDPMSampler', num_steps=4),
)
SIT = dict(
    type='ImageGenerator',
    network=dict(NETWORK, return_sigma=False),
    objective=dict(type='LinearInterpolant'),
    sampler=dict(type='SDESampler', num_steps=4),
)


@DATASETS.register_module()
class ThreeShades(Dataset):
    """Flat images; the label is the shade."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return dict(inputs=torch.full((1, 4, 4), index % 3 - 1.0), labels=index % 3)


def build(cfg=None, **kwargs):
    model = MODELS.build({**(cfg or DIT), **kwargs})
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def runner(tmp_path, model=None, iters=6, **kwargs):
    settings = dict(
        model=copy.deepcopy(model or DIT),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=dict(type='ThreeShades'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
            reseed=dict(type='ReseedHook'),
        ),
        custom_hooks=[dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.3)],
        randomness=dict(seed=0),
        default_scope='mmengine',
        log_level='WARNING',
        experiment_name=f'run_{tmp_path.name}',
    )
    settings.update(kwargs)
    return Runner.from_cfg(Config(settings))


@pytest.mark.parametrize('cfg, names', [(DIT, {'loss_mse', 'loss_vb'}), (SIT, {'loss_velocity'})])
def test_modes(cfg, names):
    model = build(cfg)
    batch = dict(inputs=torch.rand(5, 1, 4, 4), labels=torch.tensor([0, 1, 2, 0, 1]))
    losses = model(**batch, mode='loss')
    assert set(losses) == names and all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    samples = model(labels=batch['labels'], index=torch.tensor([9, 8, 7, 6, 5]), mode='predict')
    assert [(s['label'], s['index']) for s in samples] == [(0, 9), (1, 8), (2, 7), (0, 6), (1, 5)]
    assert samples[0]['image'].shape == (1, 4, 4) and samples[0]['image'].dtype == torch.uint8
    assert model(torch.rand(2, 1, 4, 4)).shape == (2, model.network.out_channels, 4, 4)
    with pytest.raises(ValueError, match="unknown mode 'train'"):
        model(**batch, mode='train')


def test_mirrored_images():
    """Half of the images of a batch are mirrored, whole and in place."""
    model = build(SIT, flip_prob=0.5)
    images = torch.arange(16.0).view(1, 1, 4, 4).repeat(400, 1, 1, 1)
    seen = []
    model.objective.losses = lambda network, latents: seen.append(latents) or {}
    model.loss(images, torch.zeros(400, dtype=torch.int64))
    mirrored = (seen[0] == images.flip(-1)).flatten(1).all(1)
    kept = (seen[0] == images).flatten(1).all(1)
    assert (mirrored ^ kept).all() and 140 < mirrored.sum() < 260


def test_stored_moments():
    model = build(SIT, codec=dict(type='VAECodec', downsample=8))
    moments = torch.cat((torch.full((2, 1, 4, 4), 5.0), torch.zeros(2, 1, 4, 4)), 1).half()
    seen = []
    model.objective.losses = lambda network, latents: seen.append(latents) or {}
    model(moments=moments, labels=torch.tensor([0, 1]), mode='loss')
    assert seen[0].dtype == torch.float32 and torch.allclose(seen[0], torch.tensor(5 * 0.18215))
    assert model.image_size == (32, 32)
    mirroring = build(SIT, codec=dict(type='VAECodec', downsample=8), flip_prob=0.5)
    with pytest.raises(OptionError, match=r'a stored latent cannot be mirrored: set model.flip_prob=0'):
        mirroring(moments=moments, labels=torch.tensor([0, 1]), mode='loss')
    assert model.example_inputs((64, 32), 'cpu')['inputs'].shape == (1, 1, 8, 4)


@pytest.mark.parametrize('cfg', [DIT, SIT])
def test_samples_do_not_depend_on_the_batch(cfg):
    model = build(cfg).train()
    labels = [0, 1, 2, 0, 1, 2]
    together = model.sample(labels, cfg_scale=2.0)
    assert together.unique(dim=0).shape[0] == 6
    alone = [model.sample([labels[i]], indices=[i], cfg_scale=2.0) for i in range(6)]
    # the same up to the rounding of matrix products of another shape
    assert (torch.cat(alone).int() - together.int()).abs().max() <= 1
    assert model.network.training  # left as it was
    assert not torch.equal(model.sample(labels, seed=1, cfg_scale=2.0), together)
    assert not torch.equal(model.sample(labels, cfg_scale=1.0), together)
    assert model.sample([1], image_size=(6, 2)).shape == (1, 1, 6, 2)


@pytest.mark.parametrize('sampler', ['sde', 'ode'])
def test_two_processes_make_the_set_of_one(sampler):
    model = build(SIT).eval()
    labels = [i % 3 for i in range(11)]

    def make(world_size):
        found = {}

        def write(indices, images):
            assert not found.keys() & set(indices), 'a sample was made twice'
            found.update(zip(indices, images))

        for rank in range(world_size):
            options = dict(sampler=dict(type='SDESampler', num_steps=5)) if sampler == 'sde' else dict(sampler='ode')
            sample_set(model, labels, write, batch_size=2, rank=rank, world_size=world_size, **options)
        return torch.stack([found[i] for i in range(11)])

    one = make(1)
    assert torch.equal(make(2), one) and torch.equal(make(3), one)
    assert one.unique(dim=0).shape[0] == 11


def test_batches():
    for world_size in (1, 2, 5):
        found = [i for rank in range(world_size) for batch in batches(23, 4, rank, world_size) for i in batch]
        assert sorted(found) == list(range(23))


def test_sampling_leaves_the_random_state_alone():
    model = build(DIT)
    state = torch.get_rng_state()
    model.sample([0, 1])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_missing_vae_is_said_before_sampling():
    model = build(codec=dict(type='VAECodec', pretrained='./nowhere'))
    calls = []
    model.sampler = lambda *args: calls.append(args)
    with pytest.raises(CheckpointError, match='no VAE at .*nowhere'):
        model.sample([0])
    assert not calls


def test_errors():
    model = build()
    with pytest.raises(ValueError, match='class -1, 3 is out of range: the model has 0 ... 2'):
        model.sample([0, 3, -1])
    with pytest.raises(ValueError, match='patch size 2x2 does not divide the latent size 5x4'):
        model.sample([0], image_size=(5, 4))
    with pytest.raises(ValueError, match='SDESampler samples a LinearInterpolant'):
        build(sampler=dict(type='SDESampler'))
    with pytest.raises(ValueError, match='image size 30x30 is no multiple of 8'):
        build(codec=dict(type='VAECodec'), image_size=30)
    with pytest.raises(ValueError, match='unknown cfg_channels'):
        build(cfg_channels='three')
    no_null = build(network=dict(NETWORK, label_drop_prob=0.0))
    with pytest.raises(ValueError, match='no null class'):
        no_null.sample([0], cfg_scale=2.0)
    with pytest.raises(ValueError, match='no null class'):
        build(network=dict(NETWORK, label_drop_prob=0.0), cfg_scale=2.0)
    with pytest.raises(OptionError, match='no null class'):
        export_network(no_null)
    # label 3 has a row, the null class's
    with pytest.raises(ValueError, match='class 3 is out of range: the model has 0 ... 2'):
        model(inputs=torch.rand(2, 1, 4, 4), labels=torch.tensor([0, 3]), mode='loss')


def test_average_in_checkpoints_and_pictures(tmp_path):
    """state_dict holds the average; the picture is made with it."""
    hooks = [
        dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.3),
        dict(type='SampleHook', interval=3, classes=(0, 2), per_class=2, min_side=1),
    ]
    run = runner(tmp_path, iters=3, custom_hooks=hooks)
    snapshots = []
    original = run.model.train_step

    def train_step(*args, **kwargs):
        out = original(*args, **kwargs)
        snapshots.append(copy.deepcopy(run.model.state_dict()))
        return out

    run.model.train_step = train_step
    run.train()
    checkpoint = torch.load(tmp_path / 'iter_3.pth', weights_only=False)
    average = dict(snapshots[0])
    for snapshot in snapshots[1:]:
        average = {key: 0.7 * average[key] + 0.3 * snapshot[key] for key in average}
    for key, value in checkpoint['state_dict'].items():
        assert torch.allclose(value, average[key], atol=1e-6), key
        assert torch.equal(checkpoint['ema_state_dict']['module.' + key], snapshots[-1][key])

    model = load_generator(Config(dict(model=DIT)), str(tmp_path / 'iter_3.pth'))
    from PIL import Image

    picture = np.asarray(Image.open(tmp_path / 'samples' / 'iter_0000003.png'))
    images = model.sample([0, 0, 2, 2])
    assert np.array_equal(picture[2:6, 8:12, 0], images[1, 0].numpy())
    assert np.array_equal(picture[8:12, 2:6, 0], images[2, 0].numpy())


@pytest.mark.parametrize(
    'options, error, message',
    [
        (dict(classes=(1, 3)), ValueError, 'class 3 is out of range: the model has 0 ... 2'),
        (dict(classes=(1,), sampler='ode'), ValueError, 'ODESampler samples a LinearInterpolant'),
        (dict(classes=(1,)), CheckpointError, 'no VAE at .*nowhere'),
    ],
)
def test_wrong_pictures_stop_the_training_at_once(tmp_path, options, error, message):
    model = dict(DIT, codec=dict(type='VAECodec', pretrained='./nowhere'))
    run = runner(tmp_path, model, custom_hooks=[dict(type='SampleHook', interval=1000, **options)])
    with pytest.raises(error, match=message):
        run.train()
    assert run.iter == 0


@OPTIM_WRAPPERS.register_module()
class LossScalingOnTheCPU(AmpOptimWrapper):
    """mmengine's loss scaling, whose constructor asks for a GPU, with bfloat16 on the CPU."""

    def __init__(self, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = GradScaler('cpu', init_scale=8.0, growth_interval=2)
        self.cast_dtype = torch.bfloat16


@pytest.mark.skipif(not hasattr(InfiniteSampler, 'skip'), reason='this mmengine cannot position the sampler')
@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'LossScalingOnTheCPU'])
@pytest.mark.parametrize('cfg', [DIT, SIT])
def test_resuming_is_exact(tmp_path, cfg, wrapper):
    """Six iterations at once, and three plus three: weights, average, optimizer and loss scale are bitwise the same."""
    options = dict(optim_wrapper=dict(type=wrapper, optimizer=dict(type='AdamW', lr=1e-2)))
    runner(tmp_path / 'whole', cfg, **options).train()
    runner(tmp_path / 'parts', cfg, iters=3, **options).train()
    resumed = runner(tmp_path / 'parts', cfg, resume=True, **options)
    torch.rand(7)  # what happened before in the process does not matter
    resumed.train()
    whole, parts = (torch.load(tmp_path / run / 'iter_6.pth', weights_only=False) for run in ('whole', 'parts'))
    for part in ('state_dict', 'ema_state_dict'):
        for key, value in whole[part].items():
            assert torch.equal(value, parts[part][key]), (part, key)
    assert whole['optimizer']['state']
    for index, state in whole['optimizer']['state'].items():
        for name, value in state.items():
            assert torch.equal(value, parts['optimizer']['state'][index][name])
    if wrapper == 'LossScalingOnTheCPU':
        scaler = whole['optimizer']['loss_scaler']
        assert scaler == parts['optimizer']['loss_scaler'] and scaler['scale'] == 8 * 2**3  # doubled every 2 steps
    before = torch.load(tmp_path / 'whole' / 'iter_3.pth', weights_only=False)['state_dict']
    assert not torch.equal(before['network.head.weight'], whole['state_dict']['network.head.weight'])


def test_learns_and_evaluates(tmp_path):
    """A few seconds of training tell the shades apart; the test loop draws and compares."""
    model = dict(
        SIT,
        network=dict(NETWORK, learn_sigma=False),
        sampler=dict(type='SDESampler', num_steps=20, last_step='mean'),
    )
    hooks = [dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.02)]
    keep_last = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=150))
    run = runner(tmp_path, model, iters=150, custom_hooks=hooks, default_hooks=keep_last)
    run.train()
    trained = load_generator(Config(dict(model=model)), str(tmp_path / 'iter_150.pth'))
    images = trained.sample([0] * 16 + [1] * 16 + [2] * 16).float()
    dark, grey, bright = (part.mean().item() for part in images.split(16))
    assert dark < 60 < 95 < grey < 160 < 195 < bright


def test_load_generator_errors(tmp_path):
    torch.save(dict(state_dict=build().state_dict()), tmp_path / 'weights.pth')
    wrong = dict(DIT, network=dict(NETWORK, num_classes=4))
    with pytest.raises(CheckpointError, match='does not fit the config.*label_embed'):
        load_generator(Config(dict(model=wrong)), str(tmp_path / 'weights.pth'))
    with pytest.raises(CheckpointError, match='does not exist'):
        load_generator(Config(dict(model=DIT)), str(tmp_path / 'nothing.pth'))


@TASK_UTILS.register_module()
class ShadeFeatures:
    """Features of one's own: the corners."""

    def __call__(self, images):
        return dict(pool=images[:, 0, ::3, ::3].flatten(1).float())


def test_test_loop(tmp_path):
    """The Runner's test loop draws the set of ``ClassLabels`` and evaluates it."""
    reference = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / 'reference.npz', arr_0=reference)
    loader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='ClassLabels', num_samples=10, num_classes=3),
    )
    evaluator = dict(
        type='GenerationMetric',
        reference=str(tmp_path / 'reference.npz'),
        extractor=dict(type='ShadeFeatures'),
    )
    run = runner(tmp_path, SIT, test_dataloader=loader, test_evaluator=evaluator, test_cfg=dict())
    for parameter in run.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    results = run.test()
    images = run.model.sample(run.test_dataloader.dataset.labels)
    expected = statistics(ShadeFeatures()(images)['pool'].numpy())
    pool = ShadeFeatures()(torch.from_numpy(reference).permute(0, 3, 1, 2))['pool'].numpy()
    assert results['generation/FID'] == pytest.approx(frechet_distance(expected, statistics(pool)), rel=1e-2)
    assert 0 <= results['generation/precision'] <= 1


def test_bf16_training(tmp_path):
    run = runner(
        tmp_path,
        iters=2,
        optim_wrapper=dict(type='AutocastOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
    )
    run.train()
    assert np.isfinite(run.message_hub.get_scalar('train/loss').current())
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
