"""What a training or sampling step moves between host and device, counted on the meta device: no card is needed."""

import copy
import pickle

import pytest
import torch
from mmengine.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmvisionllama.generation import GaussianDiffusion, SampleNoise

CFG = dict(
    type='ImageGenerator',
    network=dict(
        type='DiTLLaMA',
        arch=dict(embed_dims=32, num_layers=2, num_heads=2),
        patch_size=2,
        in_channels=1,
        num_classes=3,
        anchor=4,
    ),
    objective=dict(type='GaussianDiffusion'),
    sampler=dict(type='DDPMSampler', num_steps=4),
)


class Traffic(TorchDispatchMode):
    """Names of the operations that see both devices, or that read a value on the device (meta has none to read)."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if {'cpu', 'meta'} <= {x.device.type for x in tensors}:
            self.found.append(func._schema.name)
        return out


SIT = dict(
    CFG,
    network=dict(CFG['network'], return_sigma=False),
    objective=dict(type='LinearInterpolant'),
    sampler=dict(type='SDESampler', num_steps=4),
)


@pytest.fixture
def model():
    return MODELS.build(CFG).to('meta')


def batch():
    return dict(inputs=torch.empty(5, 1, 4, 4, device='meta'), labels=torch.zeros(5, dtype=torch.int64, device='meta'))


@pytest.mark.parametrize('cfg, tables', [(CFG, 9), (SIT, 0)])
def test_training_copies_nothing(cfg, tables):
    """The first step copies each table once; from then on neither tables nor steps nor labels cross."""
    model = MODELS.build(cfg).to('meta')
    with Traffic() as first:
        model(**batch(), mode='loss')
    assert first.found == ['aten::_to_copy'] * tables
    with Traffic() as second:
        losses = model(**batch(), mode='loss')
        sum(losses.values()).backward()
    assert second.found == []


def test_sampling_copies_its_noise(model):
    """Every step draws from the streams on the host; all else stays on the device."""
    process = model.sampler.process
    x = torch.empty(2, 1, 4, 4, device='meta')

    def network(x, t):
        return torch.cat((x, x), 1)

    noise = SampleNoise(0, range(2), (1, 4, 4), 'meta')
    model.sampler(network, noise)
    with Traffic() as traffic:
        model.sampler(network, noise)
    assert traffic.found == ['aten::_to_copy'] * 4, 'the start and three steps with noise'
    assert process.network_time(torch.tensor([1]), x.device).device.type == 'meta'


def test_labels_are_looked_at_on_the_host(model):
    """The Runner hands batches to the preprocessor before they are on the device."""
    data = dict(inputs=torch.rand(2, 1, 4, 4), labels=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match='class 3 is out of range: the model has 0 ... 2'):
        model.data_preprocessor(data, True)
    data['labels'] = torch.tensor([0, 2])
    with Traffic() as traffic:
        moved = model.data_preprocessor(data, True)
    assert moved['labels'].device.type == 'meta' and traffic.found == ['aten::_to_copy'] * 2
    assert 'index' in model.data_preprocessor(dict(index=torch.tensor([0])), False), 'a batch may have no labels'


def test_tables_on_devices():
    """Of the right dtype, usable in a gradient after inference mode, and in no copy or file."""
    diffusion = GaussianDiffusion()
    x0, t = torch.randn(3, 1, 2, 2), torch.tensor([0, 500, 999])
    with torch.inference_mode():
        diffusion.add_noise(x0, t, x0)
    x_t = x0.clone().requires_grad_()
    diffusion.x0_from_noise(x_t, t, x0).sum().backward()
    torch.testing.assert_close(x_t.grad[:, 0, 0, 0], diffusion.alphas[t].rsqrt().float())
    x_t = diffusion.add_noise(x0.detach(), t, x0.detach())
    exact = diffusion.add_noise(x0.detach().double(), t, x0.detach().double())
    assert x_t.dtype == torch.float32 and exact.dtype == torch.float64
    assert torch.allclose(x_t.double(), exact, atol=1e-6) and not torch.equal(x_t.double(), exact)
    assert diffusion.add_noise(x0.detach().bfloat16(), t, x0.detach().bfloat16()).dtype == torch.float32
    diffusion.add_noise(x0.to('meta'), t, x0.to('meta'))
    assert {key[1].type for key in diffusion._on_device} == {'cpu', 'meta'}
    for other in (copy.deepcopy(diffusion), pickle.loads(pickle.dumps(diffusion))):
        assert not other._on_device and torch.equal(other.add_noise(x0, t, x0), diffusion.add_noise(x0, t, x0))


def test_function_transforms_leave_no_table_behind():
    """torch.func wraps what is made inside it; such a table would be dead afterwards."""
    diffusion = GaussianDiffusion()
    t = torch.tensor([500])
    gradient = torch.func.grad(lambda x: diffusion.add_noise(x, t, torch.zeros_like(x)).sum())(torch.ones(1, 1, 1, 1))
    assert gradient.item() == pytest.approx(diffusion.alphas[500].sqrt().item())
    assert not diffusion._on_device
