"""From pre-training into fine-tuning, linear probing and dense tasks."""

import logging
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.checkpoints import CheckpointError
from mmvisionllama.checkpoints.loading import load_strictly
from mmvisionllama.pretraining import MAEVisionLLaMA

TINY = dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=48)
CONFIGS = Path(__file__).parents[2] / 'configs/mmpretrain/mae_vision_llama'
USES = {
    'fine-tuning': dict(out_type='avg_featmap', final_norm=False),
    'segmentation': dict(out_type='featmap', final_norm=False, out_indices=(0, 1, 2)),
    'detection': dict(out_type='featmap', final_norm=False, window_size=2, window_block_indexes=(0, 1)),
}


def config(pattern):
    """The one config whose name has this pattern."""
    pytest.importorskip('mmpretrain')
    (path,) = CONFIGS.glob(pattern)
    init_default_scope('mmpretrain')
    return Config.fromfile(path)


def classifier(cfg):
    from mmpretrain.registry import MODELS

    return MODELS.build(cfg.model)


@pytest.fixture
def pretrained(tmp_path):
    """A checkpoint of a pre-training as mmengine writes it, and its encoder's weights."""
    encoder = MAEVisionLLaMA(TINY)
    weights = {f'backbone.{key}': value for key, value in encoder.state_dict().items()}
    weights['neck.mask_token'] = torch.zeros(1, 1, 8)
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(meta=dict(epoch=1), state_dict=weights), path)
    return path, encoder.state_dict()


@pytest.fixture
def log():
    """Lines that the current logger takes."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def build(path, arch=TINY, layer_scale_init_value=0.0, **settings):
    settings['init_cfg'] = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    return VisionLLaMA(arch, with_cls_token=False, layer_scale_init_value=layer_scale_init_value, **settings)


@pytest.mark.parametrize('use', USES)
def test_weights_flow(use, pretrained, log):
    path, weights = pretrained
    model = build(path, **USES[use])
    model.init_weights()
    for key, value in model.state_dict().items():
        if key.startswith('ln2.'):
            assert torch.equal(value, torch.full_like(value, key.endswith('weight')))
        else:
            assert torch.equal(value, weights[key])
    text = '\n'.join(log)
    assert 'cls_token, ln1.weight, ln1.bias' in text, 'left over, by name'
    assert ('ln2.weight, ln2.bias' in text) == (use == 'fine-tuning'), 'missing, by name'


def test_much_missing_is_an_error_that_says_so(pretrained):
    path, _ = pretrained
    deeper = dict(TINY, num_layers=4)
    model = build(path, deeper, out_type='featmap')
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r'lacks \d+% of the weights.*layers\.3\.ln1\.weight.*Check the arch'):
        model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r'another shape: layers\.0\.ffn\.gate\.weight \(48, 32\) for \(64, 32\)'):
        build(path, dict(TINY, feedforward_channels=64), out_type='featmap').init_weights()
    wrong_prefix = build(path, out_type='featmap')
    wrong_prefix.init_cfg['prefix'] = 'encoder.'
    with pytest.raises(
        CheckpointError, match=r"nothing under prefix 'encoder.'; its keys start with \['backbone', 'neck'\]"
    ):
        wrong_prefix.init_weights()


def test_layer_scale_has_to_be_that_of_the_training(pretrained, tmp_path):
    """New factors of 1e-4 would all but remove the trained blocks, and trained ones cannot be left out."""
    path, _ = pretrained
    scaled = build(path, layer_scale_init_value=1e-4, out_type='featmap')
    before = {key: value.clone() for key, value in scaled.state_dict().items()}
    with pytest.raises(
        CheckpointError,
        match=r'this model has LayerScale \(layers.0.ls1.weight\) .* layer_scale_init_value .*0 for none',
    ):
        scaled.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in scaled.state_dict().items())
    torch.save({f'backbone.{key}': value for key, value in before.items()}, tmp_path / 'scaled.pth')
    with pytest.raises(CheckpointError, match=r'the checkpoint has LayerScale \(layers.0.ls1.weight\) and this model'):
        build(tmp_path / 'scaled.pth', out_type='featmap').init_weights()
    build(tmp_path / 'scaled.pth', layer_scale_init_value=0.1, out_type='featmap').init_weights()
    build(path, layer_scale_init_value=1.0, out_type='featmap').init_weights()  # 1 does nothing yet
    with pytest.raises(CheckpointError, match='this model has LayerScale'):
        load_strictly(scaled, build(path, out_type='featmap').state_dict(), path, partial=True)
    embedding = {f'backbone.{key}': value for key, value in before.items() if key.startswith('patch_embed')}
    torch.save(embedding, tmp_path / 'embedding.pth')
    fresh = build(tmp_path / 'embedding.pth', layer_scale_init_value=0.1, out_type='featmap')
    fresh.init_cfg['max_missing'] = 1  # blocks that are new altogether
    fresh.init_weights()


def depth_by_hand(name, num_layers):
    """Embedding 0, block i: i + 1, everything after the blocks: number of blocks + 1."""
    if name.startswith('backbone.patch_embed.'):
        return 0
    if name.startswith('backbone.layers.'):
        return 1 + int(name.split('.')[2])
    return num_layers + 1


@pytest.mark.parametrize('pattern, layers', [('*-base-*-800e-*-ft-100e_in1k.py', 12), ('*-large-*-ft-50e_in1k.py', 24)])
def test_layer_decay_of_the_fine_tuning_configs(pattern, layers):
    cfg = config(pattern)
    with torch.device('meta'):
        model = classifier(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {param: name for name, param in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    assert len(groups) == len(names)
    base = 1e-3 * 1024 / 256
    for group in groups:
        (param,) = group['params']
        name = names[param]
        multiplier = 1.0
        for _ in range(layers + 1 - depth_by_hand(name, layers)):
            multiplier *= 0.45
        assert group['lr'] == pytest.approx(base * multiplier, rel=1e-9), name
        assert group['weight_decay'] == (0.0 if param.ndim == 1 else 0.05), name


@pytest.mark.parametrize(
    'pattern, rate, drop_path',
    [
        ('*-base-*-800e-*-ft-100e_in1k_released.py', 2e-3, 0.1),
        ('*-base-*-1600e-*-ft-100e_in1k_released.py', 2e-3, 0.1),
        ('*-large-*-ft-50e_in1k_released.py', 4e-3, 0.2),
    ],
)
def test_released_fine_tuning(pattern, rate, drop_path):
    cfg = config(pattern)
    assert cfg.model.backbone.init_cfg.checkpoint.split('/')[1].endswith('_released')
    with torch.device('meta'):
        model = classifier(cfg)
    assert model.backbone.layers[-1].drop_path.drop_prob == drop_path
    assert model.backbone.layers[0].ffn.up.bias is not None
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert max(group['lr'] for group in wrapper.optimizer.param_groups) == rate
    for name, erasing in ((pattern, True), (pattern.replace('_released', ''), False)):
        steps = [step.type for step in config(name).train_dataloader.dataset.pipeline]
        assert ('RandomErasing' in steps) == erasing and steps[-1] == 'PackInputs'


@pytest.mark.parametrize('pattern, layers', [('*-base-*-800e-*-lp-90e_in1k.py', 12), ('*-large-*-lp-90e_in1k.py', 24)])
def test_linear_probing_trains_the_head_alone(pattern, layers):
    cfg = config(pattern)
    assert cfg.model.backbone.frozen_stages == layers
    with torch.device('meta'):
        trained = [name for name, param in classifier(cfg).named_parameters() if param.requires_grad]
    assert trained == ['head.fc.weight', 'head.fc.bias']

    cfg.model.backbone.update(arch=TINY, frozen_stages=3, drop_path_rate=0.5, img_size=32, init_cfg=None)
    cfg.model.neck.input_features = cfg.model.head.in_channels = 32
    from mmpretrain.structures import DataSample

    model = classifier(cfg)
    model.init_weights()
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert wrapper.optimizer.__class__.__name__ == 'LARS'
    excluded = [group.get('lars_exclude', False) for group in wrapper.optimizer.param_groups]
    assert excluded == [False, True], "the head's matrix is scaled, its bias is not"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    samples = [DataSample().set_gt_label(i) for i in (1, 2, 3, 4)]
    wrapper.update_params(model(torch.randn(4, 3, 32, 32), samples, mode='loss')['loss'])

    assert all(param.grad is None for param in model.backbone.parameters())
    assert not any(module.training for block in model.backbone.layers for module in block.modules())
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    running = {f'neck.bn.{name}' for name in ('running_mean', 'running_var', 'num_batches_tracked')}
    assert changed == running | {'head.fc.weight', 'head.fc.bias'}
    kept = {key for key in before if 'running' in key or 'tracked' in key}
    assert kept == running, "running statistics in the neck's norm alone"


@pytest.mark.parametrize('pattern', ['*-base-*-800e-*-lp-90e', '*-base-*-1600e-*-lp-90e', '*-large-*-lp-90e'])
def test_released_probing_scales_the_bias_too(pattern):
    cfg = config(f'{pattern}_in1k_released.py')
    assert cfg.model.backbone.init_cfg.checkpoint.split('/')[1].endswith('_released')
    with torch.device('meta'):
        model = classifier(cfg)
    assert model.backbone.layers[0].ffn.up.bias is not None
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert [group.get('lars_exclude', False) for group in groups] == [False, False]
    assert not any(param.requires_grad for param in model.backbone.parameters())


@pytest.mark.parametrize('pattern', ['*-base-*-800e-*-lp-90e', '*-base-*-1600e-*-lp-90e', '*-large-*-lp-90e'])
@pytest.mark.parametrize('suffix, interpolation', [('', 'bicubic'), ('_released', 'bilinear')])
def test_interpolation_of_probing(pattern, suffix, interpolation):
    """Crops and flips alone; MAE resizes bicubically, the released pipelines by mmpretrain's default."""
    cfg = config(f'{pattern}_in1k{suffix}.py')
    train, test = cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline
    assert [step.type for step in train] == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']
    assert [step.type for step in test] == ['LoadImageFromFile', 'ResizeEdge', 'CenterCrop', 'PackInputs']
    assert train[1].interpolation == test[1].interpolation == interpolation
    assert cfg.val_dataloader.dataset.pipeline == test


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*_in1k.py')), ids=lambda path: path.stem)
def test_every_config_has_its_released_twin(path):
    """Named in its head; the batch may differ."""
    assert '..._released.py' in path.read_text()
    twins = CONFIGS.glob(re.sub(r'_8xb\d+', '_8xb*', path.stem) + '_released.py')
    assert len(list(twins)) == 1
