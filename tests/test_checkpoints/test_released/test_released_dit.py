"""Released DiT-LLaMA and SiT-LLaMA: the converter, and every number of the released code's outputs."""

import pytest
import torch
from mmengine.registry import MODELS

from mmvisionllama.checkpoints import CheckpointError, convert_released
from mmvisionllama.generation import DDPMSampler, DiTLLaMA, LinearInterpolant, ODESampler, SDESampler
from mmvisionllama.layers import grid_positions, sincos_embedding


def build(fixture, family):
    converted = convert_released(fixture.weights, family=family, num_heads=fixture.model['num_heads'])
    assert converted.family == family
    model = MODELS.build(converted.model)
    model.load_state_dict(converted.state_dict)
    return model.eval()


@pytest.fixture
def dit(golden):
    fixture = golden('dit')
    return fixture, build(fixture, 'dit'), fixture.inputs, fixture.outputs


@pytest.fixture
def sit(golden):
    fixture = golden('sit')
    return fixture, build(fixture, 'sit'), fixture.inputs, fixture.outputs


def first_half(batch):
    """The samples with a label; the released guidance takes a second half of null labels."""
    return batch[: len(batch) // 2]


def doubled(fixture, network, labels):
    """The released guidance: one batch of two halves, of which the first one's latents count for both."""

    def model(x, t):
        half = len(x) // 2
        both = network(torch.cat((x[:half], x[:half])), t, labels)
        guided = network.forward_with_cfg(x[:half], t[:half], labels[:half], fixture.config['cfg_scale'], 'first_three')
        return torch.cat((guided[:, :3].repeat(2, 1, 1, 1), both[:, 3:]), dim=1)

    return model


@torch.no_grad()
@pytest.mark.parametrize('family', ['dit', 'sit'])
def test_forward_and_guidance(golden, family):
    fixture = golden(family)
    network, x, out = build(fixture, family).network, fixture.inputs, fixture.outputs
    fixture.assert_close(network(x['x'], x['t'], x['y']), out['model_out'])
    fixture.assert_close(doubled(fixture, network, x['cfg_y'])(x['cfg_x'], x['cfg_t']), out['cfg_out'])
    fixture.assert_close(network.time_embed(x['t']), out['mid.t_emb'])
    fixture.assert_close(network.label_embed(x['y']), out['mid.y_emb'])
    half = network.forward_with_cfg(
        first_half(x['cfg_x']), first_half(x['cfg_t']), first_half(x['cfg_y']), fixture.config['cfg_scale'], 'released'
    )
    fixture.assert_close(half, first_half(out['cfg_out']))
    all_guided = network.forward_with_cfg(
        first_half(x['cfg_x']), first_half(x['cfg_t']), first_half(x['cfg_y']), fixture.config['cfg_scale']
    )
    assert (all_guided - first_half(out['cfg_out'])).abs()[
        :, 3
    ].max() > 0.1  # our default guides the fourth channel too


@torch.no_grad()
def test_dit_training_losses(dit):
    fixture, model, x, out = dit
    diffusion = model.objective
    fixture.assert_close(diffusion.add_noise(x['x_start'], x['train_t'], x['train_noise']), out['x_t'])
    losses = diffusion.losses(
        lambda noisy, t: model.network(noisy, t, x['train_y']), x['x_start'], x['train_t'], x['train_noise']
    )
    fixture.assert_close(losses['loss_mse'], out['train.mse'])
    fixture.assert_close(losses['loss_vb'], out['train.vb'])
    fixture.assert_close(losses['loss_mse'] + losses['loss_vb'], out['train.loss'])


@torch.no_grad()
def test_dit_reverse_step(dit):
    fixture, model, x, out = dit
    process = model.objective.respace(fixture.config['respacing_step'])
    assert torch.equal(process.timestep_map, out['schedule_step.timestep_map'].cpu())
    assert torch.allclose(process.betas, out['schedule_step.betas'].cpu(), rtol=1e-10, atol=0)
    t = x['ps_t']
    step = process.reverse(model.network(x['ps_x'], process.timestep_map.to(t.device)[t], x['ps_y']), x['ps_x'], t)
    fixture.assert_close(step.mean, out['p_mean_variance.mean'])
    fixture.assert_close(step.log_variance, out['p_mean_variance.log_variance'])
    fixture.assert_close(step.log_variance.exp(), out['p_mean_variance.variance'])
    fixture.assert_close(step.x0, out['p_mean_variance.pred_xstart'], tol=2e-5)
    # the sampler takes one step for the whole batch; the fixture's samples stand at different ones
    sampler = DDPMSampler(model.objective, fixture.config['respacing_step'])
    for i, number in enumerate(t.tolist()):
        one = type(step)(*(tensor[i : i + 1] for tensor in step))
        drawn = sampler.step(one, number, lambda i=i: x['ps_noise'][i : i + 1])
        fixture.assert_close(drawn, out['p_sample.sample'][i : i + 1])


@torch.no_grad()
def test_dit_loop(dit):
    fixture, model, x, out = dit
    noise = iter([x['cfg_x'], *x['loop_noise']])
    sampler = DDPMSampler(model.objective, fixture.config['respacing_loop'])
    assert torch.equal(sampler.process.timestep_map, out['schedule_loop.timestep_map'].cpu())
    sample = sampler(doubled(fixture, model.network, x['cfg_y']), lambda: next(noise))
    fixture.assert_close(sample, out['loop.sample'], tol=2e-5)
    # as the generator calls it: without the second half, which the released guidance ignores
    noise = iter([first_half(x['cfg_x']), *map(first_half, x['loop_noise'])])
    own = sampler(
        lambda noisy, t: model.network.forward_with_cfg(
            noisy, t, first_half(x['cfg_y']), fixture.config['cfg_scale'], model.cfg_channels
        ),
        lambda: next(noise),
    )
    fixture.assert_close(own, first_half(out['loop.sample']), tol=2e-5)


@torch.no_grad()
def test_sit_training_loss(sit):
    fixture, model, x, out = sit
    interpolant = model.objective
    x1, x0, t = x['train_x1'], x['train_x0'], x['train_t']
    fixture.assert_close(interpolant.interpolate(x1, x0, t), out['train.x_t'])
    fixture.assert_close(interpolant.velocity(x1, x0), out['train.target'])
    losses = interpolant.losses(lambda noisy, t: model.network(noisy, t, x['train_y']), x1, t, x0)
    fixture.assert_close(losses['loss_velocity'], out['train.loss'])


@torch.no_grad()
def test_sit_sde(sit):
    """The released samples with half of the released network calls."""
    fixture, model, x, out = sit
    calls = []

    def field(noisy, t):
        calls.append(t)
        return model.network(noisy, t, x['z_y'])

    noise = iter([x['z'], *x['sde_noise']])
    states = list(
        SDESampler(LinearInterpolant(), num_steps=fixture.config['sde_steps']).states(field, lambda: next(noise))
    )
    fixture.assert_close(torch.stack(states), out['sde.states'], tol=1e-5)
    assert 2 * len(calls) == out['sde.model_calls'].item()


@torch.no_grad()
def test_sit_ode(sit):
    fixture, model, x, out = sit

    def field(noisy, t):
        return model.network(noisy, t, x['z_y'])

    interpolant = LinearInterpolant()
    states = ODESampler(interpolant).integrate(field, x['z'], torch.linspace(0, 1, fixture.config['ode_points']))
    assert (states - out['ode.states']).abs().max() < 1e-2
    tight = ODESampler(interpolant, atol=1e-6, rtol=1e-6)
    assert (tight(field, lambda: x['z']) - out['ode_tight.final']).abs().max() < 3e-4
    fixture.assert_close(
        ODESampler(interpolant, 'euler', fixture.config['ode_points'] - 1)(field, lambda: x['z']),
        out['ode_euler.final'],
    )
    guided = doubled(fixture, model.network, x['cfg_y'])
    assert (tight(guided, lambda: x['cfg_x']) - out['ode_cfg_tight.final']).abs().max() < 3e-4
    half = tight(
        lambda noisy, t: model.network.forward_with_cfg(
            noisy, t, first_half(x['cfg_y']), fixture.config['cfg_scale'], model.cfg_channels
        ),
        lambda: first_half(x['cfg_x']),
    )
    assert (half - first_half(out['ode_cfg_tight.final'])).abs().max() < 3e-4
    assert (ODESampler(interpolant)(guided, lambda: x['cfg_x']) - out['ode_cfg.final']).abs().max() < 1e-2


def released_keys(state_dict):
    """This package's names turned into the released ones, by hand."""
    names = {
        'patch_embed.projection': 'x_embedder.proj',
        'time_embed.fc1': 't_embedder.mlp.0',
        'time_embed.fc2': 't_embedder.mlp.2',
        'label_embed': 'y_embedder.embedding_table',
        'head_ada': 'final_layer.adaLN_modulation.1',
        'head': 'final_layer.linear',
    }
    parts = {'ada': 'adaLN_modulation.1', 'ffn.up': 'mlp.fc1', 'ffn.down': 'mlp.fc2'}
    renamed = {}
    for key, value in state_dict.items():
        module, kind = key.rsplit('.', 1)
        if module.startswith('layers.'):
            _, index, rest = module.split('.', 2)
            module = f'blocks.{index}.{parts.get(rest, rest)}'
        renamed[f'{names.get(module, module)}.{kind}'] = value
    return renamed


@pytest.fixture
def upstream():
    """A plain DiT under its upstream keys, with its stored position table."""
    network = DiTLLaMA(
        dict(embed_dims=64, num_layers=2, num_heads=1),
        patch_size=2,
        num_classes=7,
        anchor=8,
        position='sincos',
        ffn_cfg=dict(type='gelu', approximate='tanh'),
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state_dict = released_keys(network.state_dict())
    state_dict['pos_embed'] = sincos_embedding(grid_positions((4, 4)), 64)[None]
    return network.eval(), state_dict


@pytest.mark.parametrize('family', ['dit', 'sit'])
def test_upstream_round_trip(upstream, family):
    network, state_dict = upstream
    converted = convert_released(state_dict, family=family)
    model = MODELS.build(converted.model).eval()
    model.load_state_dict(converted.state_dict)
    assert model.network.position == 'sincos' and model.network.anchor_grid == (4, 4)
    args = (torch.randn(2, 4, 8, 8), torch.tensor([3, 70]), torch.tensor([1, 7]))
    expected = network(*args)
    assert torch.equal(model.network(*args), expected if family == 'dit' else expected[:, :4])
    assert type(model.objective).__name__ == ('GaussianDiffusion' if family == 'dit' else 'LinearInterpolant')


def test_errors(upstream):
    _, state_dict = upstream
    with pytest.raises(CheckpointError, match="say which one it is, family='dit' or family='sit'"):
        convert_released(state_dict)
    with pytest.raises(CheckpointError, match="unknown family 'vit'"):
        convert_released(state_dict, family='vit')
    with pytest.raises(CheckpointError, match="family 'plain' does not have these keys"):
        convert_released(state_dict, family='plain')
    with pytest.raises(CheckpointError, match='is not the 2D sin-cos table'):
        convert_released({**state_dict, 'pos_embed': torch.zeros(1, 16, 64)}, family='dit')
    with pytest.raises(CheckpointError, match='does not take img_size'):
        convert_released(state_dict, family='dit', img_size=256)
    del state_dict['x_embedder.proj.bias']
    converted = convert_released(state_dict, family='dit')
    with pytest.raises(RuntimeError, match='patch_embed.projection.bias'):
        MODELS.build(converted.model).load_state_dict(converted.state_dict)
