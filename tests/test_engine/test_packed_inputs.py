"""Lists of images through a stock classifier."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmvisionllama import launch
from mmvisionllama.errors import OptionError

CONFIG = Path(__file__).parents[2] / 'configs' / 'mmpretrain' / 'quickstart' / 'vision_llama_digits_packed.py'
SIZES = ((20, 44), (33, 21), (32, 32), (20, 44))


@pytest.fixture(scope='module')
def classifier():
    pytest.importorskip('mmpretrain.models', exc_type=ImportError)
    cfg = launch.load_config(str(CONFIG))
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    return MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))


def batch():
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in SIZES]
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(n) for n in range(len(SIZES))])


@torch.no_grad()
def test_a_packed_classifier_sees_each_image_as_alone(classifier):
    classifier.eval()
    data = batch()
    together = classifier.test_step(data)
    for n in range(len(SIZES)):
        alone = classifier.test_step({key: value[n : n + 1] for key, value in data.items()})[0]
        torch.testing.assert_close(together[n].pred_score, alone.pred_score, atol=1e-5, rtol=0)
        assert together[n].gt_label.item() == n


def test_it_trains(classifier):
    classifier.train()
    data = classifier.data_preprocessor(batch(), training=True)
    assert [tuple(image.shape[1:]) for image in data['inputs']] == list(SIZES)
    assert all(image.is_floating_point() and image.min() >= -1 and image.max() <= 1 for image in data['inputs'])
    loss = classifier(**data, mode='loss')['loss']
    loss.backward()
    assert torch.isfinite(loss) and classifier.backbone.patch_embed.projection.weight.grad.any()


@pytest.mark.parametrize('name', ['PyramidVisionLLaMA', 'iLLaMA'])
def test_backbones_that_cannot_be_packed_say_so(name):
    backbone = MODELS.build(dict(type=name, arch='tiny' if name == 'iLLaMA' else 'small'))
    with pytest.raises(ValueError, match=f'{name} takes no packed images: pad them and give valid_sizes'):
        backbone([torch.rand(3, 64, 64), torch.rand(3, 32, 64)])


def test_mixing_is_refused():
    with pytest.raises(OptionError, match='mixed'):
        MODELS.build(dict(type='PackedDataPreprocessor', batch_augments=dict(augments=dict(type='Mixup', alpha=0.8))))
