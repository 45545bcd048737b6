"""The plain classifiers' configs against the numbers of the paper (section D.1, Table 13) and of the release."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

FOLDER = Path(__file__).parents[2] / 'configs' / 'mmpretrain' / 'vision_llama'

STAGE1 = 'visionllama-{}_8xb256-800e_in1k{}.py'
STAGE2 = 'visionllama-{}_8xb64-20e_in1k{}.py'


def load(pattern, *parts):
    return Config.fromfile(FOLDER / pattern.format(*parts))


def crops(cfg):
    """Training resolution, test resolution, resized short side before the test crop."""
    train, test = cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline
    assert cfg.val_dataloader.dataset.pipeline == test
    sizes = {step.type: step for step in [*train, *test]}
    return sizes['RandomResizedCrop'].scale, sizes['CenterCrop'].crop_size, sizes['ResizeEdge'].scale


@pytest.mark.parametrize(
    'size, suffix, drop_path, lr, weight_decay, resolution, edge',
    [
        ('small-p16', '', 0.05, 3e-3, 0.02, 224, 224),
        ('base-p16', '-192px', 0.2, 3e-3, 0.02, 192, 192),
        ('large-p16', '-160px', 0.45, 3e-3, 0.02, 160, 160),
        ('small-p16', '_released', 0.05, 4e-3, 0.05, 224, 256),
        ('base-p16', '-192px_released', 0.2, 3e-3, 0.05, 192, 219),
        ('large-p16', '-128px_released', 0.45, 3e-3, 0.05, 128, 146),
    ],
)
def test_first_stage(size, suffix, drop_path, lr, weight_decay, resolution, edge):
    cfg = load(STAGE1, size, suffix)
    released = suffix.endswith('_released')
    backbone, loss = cfg.model.backbone, cfg.model.head.loss
    assert (backbone.arch, backbone.drop_path_rate, backbone.drop_path_mode) == (size[:-4], drop_path, 'uniform')
    assert backbone.anchor == backbone.img_size == resolution
    assert crops(cfg) == (resolution, resolution, edge)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay, optimizer.eps) == ('Lamb', lr, weight_decay, 1e-8)
    assert (cfg.optim_wrapper.clip_grad is None) == released
    assert loss == dict(type='BinarizedCrossEntropyLoss')
    assert backbone.get('cls_position', 'origin') == ('above_top_right' if released else 'origin')
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert steps[1:-1] == ['RandomResizedCrop', 'RandomFlip', 'ThreeAugment', 'ColorJitter']
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [('Mixup', 0.8), ('CutMix', 1.0)]


@pytest.mark.parametrize(
    'size, drop_path, erasing, first', [('base-p16', 0.2, 0.0, '192'), ('large-p16', 0.45, 0.25, '160')]
)
@pytest.mark.parametrize('suffix', ['', '_released'])
def test_second_stage(size, drop_path, erasing, first, suffix):
    cfg = load(STAGE2, size, suffix)
    assert (cfg.model.backbone.anchor, cfg.model.backbone.drop_path_rate) == (224, drop_path)
    assert crops(cfg) == (224, 224, 256 if suffix else 224)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomErasing'].erase_prob == erasing and 'ThreeAugment' not in steps
    assert cfg.train_dataloader.sampler.type == 'DefaultSampler'
    # the first stage's config says which resolution its weights come from
    source = Config.fromfile(FOLDER / f'{Path(cfg.load_from).parent.name}.py')
    expected = 128 if suffix and size == 'large-p16' else int(first)
    assert source.model.backbone.anchor == expected
    assert source.train_cfg.max_epochs == int(Path(cfg.load_from).stem.split('_')[1])


def test_rates():
    """1e-6 up to 3e-3 in 5 epochs, cosine down to 1e-5 at 800; constant 1e-5 after the warm-up of the second stage."""
    from mmengine.registry import PARAM_SCHEDULERS

    def curve(cfg, length=4):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cfg.optim_wrapper.optimizer.lr)
        schedulers = []
        for item in cfg.param_scheduler:
            item = dict(item)
            if item.pop('convert_to_iter_based', False):
                cls = PARAM_SCHEDULERS.get(item.pop('type'))
                schedulers.append(cls.build_iter_from_epoch(optimizer, **item, epoch_length=length))
        rates = []
        for _ in range(cfg.train_cfg.max_epochs * length):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        return rates

    rates = curve(load(STAGE1, 'small-p16', ''))
    assert rates[0] == pytest.approx(1e-6, rel=1e-3)
    assert max(rates) == pytest.approx(3e-3, rel=1e-6) and rates.index(max(rates)) in (19, 20)
    assert rates[-1] == pytest.approx(1e-5, rel=1e-2)
    halfway = 20 + (3200 - 20) // 2
    assert rates[halfway] == pytest.approx((3e-3 + 1e-5) / 2, rel=1e-2)
    rates = curve(load(STAGE2, 'base-p16', ''))
    assert rates[0] == pytest.approx(1e-6) and all(rate == pytest.approx(1e-5) for rate in rates[20:])


def test_what_decays():
    """Matrices and the patch embedding; no biases, norms, LayerScale, class token."""
    pytest.importorskip('mmpretrain.models')
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, init_default_scope

    cfg = load(STAGE1, 'small-p16', '')
    init_default_scope('mmpretrain')
    cfg.model.backbone.arch = dict(embed_dims=32, num_layers=1, num_heads=2)
    cfg.model.head.in_channels = 32
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert {group['eps'] for group in groups} == {1e-8}, "DeiT III's; mmpretrain's default is 1e-6"
    names = {id(param): key for key, param in model.named_parameters()}
    decays = {names[id(p)]: group['weight_decay'] for group in groups for p in group['params']}
    assert set(decays) == set(names.values())
    for key, param in model.named_parameters():
        expected = 0.0 if param.ndim == 1 or key.endswith('cls_token') else 0.02
        assert decays[key] == expected, key


def test_loss_is_a_mean():
    """Over samples and classes, of targets that are all present or absent."""
    pytest.importorskip('mmpretrain.models')
    from mmengine.registry import MODELS, init_default_scope
    from mmpretrain.structures import DataSample

    cfg = load(STAGE1, 'small-p16', '')
    init_default_scope('mmpretrain')
    head = MODELS.build(cfg.model.head)
    head.init_weights()
    assert 0.015 < head.layers.head.weight.std() < 0.025
    feats, targets = torch.randn(3, 384), torch.rand(3, 1000) * (torch.rand(3, 1000) < 0.5)
    loss = head.loss((feats,), [DataSample().set_gt_score(target) for target in targets])['loss']
    expected = torch.nn.functional.binary_cross_entropy_with_logits(head((feats,)), targets.sign())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_mixing_ratios_as_targets():
    """The switch of the first stage, a mean as well: the gradient of a mixed image's minor class changes its sign."""
    pytest.importorskip('mmpretrain.models')
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmpretrain')
    cfg = load(STAGE1, 'small-p16', '')
    soft = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1 / 1000)
    targets = torch.zeros(1, 1000)
    targets[0, 3], targets[0, 7] = 0.7, 0.3
    gradients = []
    for loss in (cfg.model.head.loss, soft):
        scores = torch.zeros(1, 1000, requires_grad=True)
        MODELS.build(loss)(scores, targets, avg_factor=1).backward()
        gradients.append((1000 * scores.grad[0, [3, 7, 0]]).tolist())
    assert gradients == [pytest.approx([-0.5, -0.5, 0.5]), pytest.approx([-0.2, 0.2, 0.5])]
