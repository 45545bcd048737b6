"""8-bit models: accuracy on digits, agreement of simulation and arithmetic, size and files."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA

pytest.importorskip('torchao')
from mmvisionllama import quantization as q8  # noqa: E402


class Classifier(nn.Module):
    """A small iLLaMA over 8 x 8 digits: 16 patches of 2 x 2."""

    def __init__(self):
        super().__init__()
        arch = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=128)
        self.backbone = iLLaMA(arch, img_size=8, anchor=8, patch_size=2, in_channels=1)
        self.head = nn.Linear(48, 10)

    def forward(self, x):
        return self.head(self.backbone(x)[0])


def digits():
    """The scans of scikit-learn as tensors in -1 ... 1, split as the package's data set is."""
    pytest.importorskip('sklearn')
    from mmvisionllama.datasets.digits import split_digits

    images, labels, train, test = split_digits()
    images = torch.tensor(images)[:, None].float() / 127.5 - 1
    labels = torch.tensor(labels)
    return images[train], labels[train], images[test], labels[test]


def fit(model, images, labels, epochs, lr):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, images, labels):
    return 100 * (model(images).argmax(1) == labels).double().mean().item()


@pytest.fixture(scope='module')
def trained():
    """A model that reads digits well."""
    torch.manual_seed(0)
    images, labels, test_images, test_labels = digits()
    model = fit(Classifier(), images, labels, epochs=12, lr=4e-3)
    assert accuracy(model, test_images, test_labels) > 90
    return model, images, labels, test_images, test_labels


@pytest.mark.nightly
def test_after_training_accuracy_stays_within_two_points_at_a_quarter_of_the_size(trained):
    model, _, _, images, labels = trained
    quantised = q8.quantise(copy.deepcopy(model))
    assert abs(accuracy(quantised, images, labels) - accuracy(model, images, labels)) <= 2
    blocks = [copy.deepcopy(m).backbone.layers for m in (model, quantised)]
    assert q8.size_on_disk(blocks[1]) < 0.45 * q8.size_on_disk(blocks[0])
    assert q8.size_on_disk(model) > sum(4 * p.numel() for p in model.parameters())


@pytest.mark.nightly
def test_in_training_accuracy_stays_within_two_points(trained):
    model, images, labels, test_images, test_labels = trained
    simulated = q8.simulate_int8(copy.deepcopy(model))
    fit(simulated, images, labels, epochs=1, lr=5e-4)
    quantised = q8.quantise(copy.deepcopy(simulated))
    assert abs(accuracy(quantised, test_images, test_labels) - accuracy(model, test_images, test_labels)) <= 2
    with torch.no_grad():
        torch.testing.assert_close(quantised(test_images), simulated(test_images), rtol=0, atol=0.02)


@torch.no_grad()
def test_the_simulation_is_a_rounding_to_eight_bits():
    model = Classifier().eval()
    linear = model.backbone.layers[0].attn.qkv
    x = torch.randn(5, 48)
    # by hand: a scale per token over its range with zero in it, a scale per output channel over the largest weight
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    step = (high - low) / 255
    zero = (-128 - (low / step).round()).clamp(-128, 127)
    rounded = (((x / step).round() + zero).clamp(-128, 127) - zero) * step
    step = linear.weight.abs().amax(1, keepdim=True) / 127.5
    weight = (linear.weight / step).round().clamp(-128, 127) * step
    expected = F.linear(rounded, weight, linear.bias)
    q8.simulate_int8(model)
    # a value on the border between two steps may fall to either side
    error = (model.backbone.layers[0].attn.qkv(x) - expected).abs().mean()
    assert error < 0.1 * (expected - linear(x)).abs().mean()


def test_only_linears_of_the_blocks_are_touched_and_parameters_stay_the_same_objects():
    model = Classifier()
    before = dict(model.named_parameters())
    linears = ('attn.qkv', 'attn.proj', 'ffn.gate', 'ffn.up', 'ffn.down')
    assert q8.quantised_layers(model) == [f'backbone.layers.{i}.{name}' for i in range(2) for name in linears]
    q8.simulate_int8(model)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(after[k] is before[k] for k in after)
    assert type(model.head) is nn.Linear
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match='nothing to quantise'):
        q8.quantise(nn.Sequential(nn.Linear(4, 4)))


def test_every_attention_and_feed_forward_layer_of_the_other_backbones_is_found():
    with torch.device('meta'):
        plain = VisionLLaMA('small')
        pyramid = PyramidVisionLLaMA('small')
    assert len(q8.quantised_layers(plain)) == 12 * 5
    # 18 blocks: 9 with packed qkv and proj, 9 with q, kv and proj, three feed-forward layers each
    assert len(q8.quantised_layers(pyramid)) == 9 * 5 + 9 * 6


def test_models_with_layer_scale():
    """LayerScale multiplies into plain weights where gradients are wanted, and not into 8-bit ones."""
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=32)
    model = VisionLLaMA(arch, layer_scale_init_value=0.5).eval()
    image = torch.rand(2, 3, 128, 128)
    simulated = q8.simulate_int8(copy.deepcopy(model))
    quantised = q8.quantise(copy.deepcopy(model))
    with torch.no_grad():
        expected, rounded = model(image)[0], simulated(image)[0]
    error = (rounded - expected).abs().mean()
    assert error > 0
    for other in (simulated, quantised):
        torch.testing.assert_close(other(image)[0], rounded, rtol=0, atol=0.01)  # with gradients
    assert (simulated(image)[0] - rounded).abs().mean() < 0.1 * error, 'the same rounding in training'


def test_a_quantised_model_survives_its_file(tmp_path):
    model = q8.quantise(Classifier())
    path = str(tmp_path / 'int8.pth')
    q8.save_quantised(model, path)
    loaded = q8.load_quantised(Classifier(), path)
    image = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    assert (tmp_path / 'int8.pth').stat().st_size == pytest.approx(q8.size_on_disk(model), rel=0.1)


def test_the_hook_simulates_from_the_first_iteration_on():
    from mmengine.registry import HOOKS

    class Runnerish:
        model = Classifier()

    HOOKS.build(dict(type='QuantizationAwareTrainingHook')).before_train(Runnerish())
    assert type(Runnerish.model.backbone.layers[0].ffn.up).__name__ == 'FakeQuantizedLinear'
