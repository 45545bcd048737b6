"""Pictures of a masked autoencoder: what is shown, the hook, the tool."""

import random
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from torch import nn

from mmvisionllama.engine.hooks.reconstruction import preserved_random_state
from mmvisionllama.errors import OptionError
from mmvisionllama.pretraining.reconstruction import fixed_noise, reconstruct, reconstruct_fixed
from mmvisionllama.visualization.reconstruction import draw, to_uint8

pytest.importorskip('mmpretrain')
TOOL = Path(__file__).parents[2] / 'tools/visualization/mae_reconstruction.py'
MODEL = dict(
    type='MAE',
    data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[100.0, 110, 120], std=[50.0, 60, 70], to_rgb=True),
    backbone=dict(
        type='MAEVisionLLaMA',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
        patch_size=4,
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=16,
        patch_size=4,
        embed_dim=16,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
)


def build():
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    return MODELS.build(MODEL)


class Oracle(torch.nn.Module):
    """A decoder that knows the answer."""

    def __init__(self, target):
        super().__init__()
        self.target = target

    def forward(self, latent, ids_restore):
        return self.target


@pytest.mark.parametrize('norm_pix', [True, False])
def test_a_perfect_prediction_gives_the_original_back(norm_pix):
    model = build().eval()
    model.head.norm_pix = norm_pix
    images = torch.randn(3, 3, 16, 16)
    model.neck = Oracle(model.head.construct_target(images))
    original, masked, reconstruction = reconstruct(model, images)
    assert torch.equal(original, images)
    torch.testing.assert_close(reconstruction, images, rtol=1e-4, atol=1e-4)
    hidden = model.head.patchify(masked).abs().sum(-1) == 0
    assert hidden.sum(1).tolist() == [12, 12, 12]


def test_only_hidden_patches_are_predicted():
    model = build().eval()
    images = torch.randn(2, 3, 16, 16)
    _, masked, reconstruction = reconstruct(model, images, fixed_noise(2, 16, seed=3))
    visible = masked != 0
    assert torch.equal(reconstruction[visible], images[visible])
    assert not torch.isclose(reconstruction[~visible], images[~visible]).all()
    assert torch.equal(masked, reconstruct(model, images, fixed_noise(2, 16, seed=3)).masked)


def test_modes_of_all_parts_stay():
    """A norm in evaluation mode among parts that train, and after an error, too."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(2, 2))
    model.backbone = nn.Identity()
    model[0].eval()
    with pytest.raises(AttributeError):
        reconstruct_fixed(model, torch.zeros(1, 3, 4, 4))
    assert [module.training for module in (model, model[0], model[1])] == [True, False, True]


def test_pixels_and_layout():
    model = build()
    pixels = torch.randint(0, 256, (2, 3, 16, 16)).float()
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    restored = to_uint8((pixels - mean) / std, mean, std)
    assert np.array_equal(restored, pixels.byte().permute(0, 2, 3, 1).numpy())
    picture = draw([restored, restored], titles=('a', 'b'), min_side=32)
    assert picture.shape == (16 + 2 * 36, 4 + 2 * 36, 3)
    assert np.array_equal(picture[16:48:2, 4:36:2], restored[0]), 'first row, first column, enlarged twice'
    assert np.array_equal(picture[52:84:2, 40:72:2], restored[1])


def test_random_state_is_preserved():
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = draws()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    with preserved_random_state():
        random.seed(0), np.random.seed(1), torch.manual_seed(2)
        draws()
    assert draws() == expected


def folder(root):
    """Three noisy grey images in the layout of CustomDataset."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (root / 'a').mkdir(parents=True)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (16, 20), dtype=np.uint8)).save(root / 'a' / f'{i}.png')
    return root


def train(tmp_path, hook):
    """Two epochs of pre-training, with or without the hook; returns the weights."""
    from mmengine.runner import Runner

    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=16),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    dataset = dict(type='CustomDataset', data_root=str(tmp_path / 'images'), pipeline=pipeline, serialize_data=False)
    runner = Runner(
        model=dict(MODEL),
        work_dir=str(tmp_path / ('with' if hook else 'without')),
        train_dataloader=dict(
            batch_size=3,
            num_workers=0,
            dataset=dataset,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        custom_hooks=[dict(type='MAEReconstructionHook', interval=2, num_images=2)] if hook else [],
        default_scope='mmpretrain',
        randomness=dict(seed=0),
        visualizer=dict(
            type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name=str(tmp_path) + str(hook)
        ),
        experiment_name='with' if hook else 'without',
    )
    runner.train()
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def test_a_backbone_that_draws_its_masks_is_refused_before_epochs_are_trained(tmp_path):
    from types import SimpleNamespace

    from mmvisionllama.pretraining import MAEReconstructionHook

    model = SimpleNamespace(backbone=torch.nn.Identity())
    with pytest.raises(OptionError, match='Identity does not take: they need an MAEVisionLLaMA'):
        MAEReconstructionHook().before_train(SimpleNamespace(model=model))


def test_hook_draws_and_leaves_the_training_alone(tmp_path, monkeypatch):
    from PIL import Image

    from mmvisionllama.pretraining import MAEReconstructionHook

    folder(tmp_path / 'images')
    write = MAEReconstructionHook.write

    def watched(self, runner, step):
        """Seeding the GPUs, whose generators nothing puts back, is an error while the hook draws."""
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, 'manual_seed_all', lambda seed: pytest.fail('the GPUs are seeded'))
            write(self, runner, step)

    monkeypatch.setattr(MAEReconstructionHook, 'write', watched)
    with_hook, without = train(tmp_path, True), train(tmp_path, False)
    pictures = sorted((tmp_path / 'with').glob('*/vis_data/vis_image/reconstruction_*.png'))
    assert [path.name for path in pictures] == ['reconstruction_2.png', 'reconstruction_3.png']
    assert Image.open(pictures[0]).size == (4 + 3 * 116, 16 + 2 * 116)
    assert all(torch.equal(value, without[key]) for key, value in with_hook.items())


@pytest.fixture
def tool(tmp_path, monkeypatch, capsys):
    """Runs the tool; returns its exit code and what it says."""
    from mmengine.config import Config

    Config(dict(model=MODEL, default_scope='mmpretrain')).dump(tmp_path / 'config.py')
    torch.save(dict(state_dict=build().state_dict()), tmp_path / 'weights.pth')
    folder(tmp_path / 'images')

    def run(*args):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as error:
            code = error.code
        out = capsys.readouterr()
        return code, out.out + out.err

    return run


def test_tool(tool, tmp_path):
    from PIL import Image

    out = tmp_path / 'out' / 'picture.png'
    given = (tmp_path / 'config.py', tmp_path / 'weights.pth')
    code, text = tool(*given, tmp_path / 'images', '--out', out, '--max-images', 2, '--device', 'cpu')
    assert code == 0 and '2 images' in text
    assert Image.open(out).size == (4 + 3 * 116, 16 + 2 * 116)
    first = np.asarray(Image.open(out)).copy()
    tool(*given, tmp_path / 'images', '--out', out, '--max-images', 2, '--device', 'cpu', '--mask-ratio', 0.5)
    assert not np.array_equal(first, np.asarray(Image.open(out)))


def test_model_of_a_pure_python_config(tool, tmp_path):
    config = tmp_path / 'pure.py'
    config.write_text(
        'from mmengine.config import read_base\n'
        'with read_base():\n    from .config import *\n'
        'from mmpretrain.models import MAE\nmodel.update(type=MAE)\n'
    )
    build_model = runpy.run_path(str(TOOL), run_name='tool')['build_model']
    assert type(build_model(str(config), str(tmp_path / 'weights.pth'), 'cpu')).__name__ == 'MAE'


def test_tool_says_what_is_wrong(tool, tmp_path):
    given = (tmp_path / 'config.py', tmp_path / 'weights.pth')
    (tmp_path / 'broken.png').write_text('no picture')
    code, text = tool(*given, tmp_path / 'broken.png')
    assert code == 1 and 'broken.png cannot be read' in text and 'Traceback' not in text
    code, text = tool(*given, tmp_path / 'nowhere.png')
    assert code == 1 and "nowhere.png' does not exist" in text and 'Traceback' not in text
    code, text = tool(tmp_path / 'config.py', tmp_path / 'other.pth', tmp_path / 'images')
    assert code == 1 and "other.pth' does not exist" in text
    given = (tmp_path / 'config.py', tmp_path / 'weights.pth', tmp_path / 'images')
    for option, value, words in (
        ('--mask-ratio', 1, '--mask-ratio must be in [0, 1)'),
        ('--mask-ratio', 0.99, 'hides all 16 patches'),
        ('--max-images', 0, '--max-images must be at least 1'),
    ):
        code, text = tool(*given, '--device', 'cpu', option, value)
        assert code == 1 and words in text and 'Traceback' not in text
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), tmp_path / 'other.pth')
    code, text = tool(tmp_path / 'config.py', tmp_path / 'other.pth', tmp_path / 'images')
    assert code == 1 and 'does not fit' in text and 'Traceback' not in text
