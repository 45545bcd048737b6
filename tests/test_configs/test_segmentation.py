"""Segmentation configs: every size is placed onto the grid of the weights, and the released ones are the release."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmvisionllama import launch

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'mmseg').glob('*_vision_llama/*.py'))


def backbone(path):
    pytest.importorskip('mmseg')
    cfg = launch.load_config(str(path)).model.backbone
    cfg.pop('init_cfg')
    with torch.device('meta'):
        return MODELS.build(cfg)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_positions_at_other_sizes(path):
    """A crop of 512 and a picture of 512 x 683 span the grid of 224; the released variants do what the release does."""
    model = backbone(path)
    released = path.stem.endswith('_released')
    for height, width in ((512, 512), (512, 683)):
        if hasattr(model, 'calibrations'):
            for stage, (calibration, anchor) in enumerate(zip(model.calibrations, (56, 28, 14, 7))):
                grid = [-(-side // (4 * 2**stage)) for side in (height, width)]
                x, y = calibration.query_positions(grid, dtype=torch.float64)[-1].tolist()
                assert y == pytest.approx((grid[0] - 1) * (14 if released else anchor) / grid[0])
                scale_x = 14 / grid[0] if released else anchor / grid[1]
                assert x == pytest.approx((grid[1] - 1) * scale_x)
        else:
            grid = [-(-side // 16) for side in (height, width)]
            x, y = model.rotary_positions(grid, dtype=torch.float64)[-1].tolist()
            scale_y, scale_x = (1, 1) if released else (14 / grid[0], 14 / grid[1])
            assert (x, y) == (pytest.approx((grid[1] - 1) * scale_x), pytest.approx((grid[0] - 1) * scale_y))


@pytest.mark.parametrize('mode, sizes', [('slide', [(128, 128)] * 6), ('whole', [(160, 224)])])
@pytest.mark.parametrize('kind', ['pyramid_vision_llama', 'mae_vision_llama'])
def test_positions_in_both_modes(kind, mode, sizes):
    """While predicting: a window is placed onto the grid of the weights like a picture, in every stage, key for key."""
    pytest.importorskip('mmseg')
    cfg = launch.load_config(str(next(path for path in CONFIGS if path.parent.name == kind))).model
    init_default_scope('mmseg')
    cfg.test_cfg = dict(mode=mode, crop_size=(128, 128), stride=(85, 85))
    norm_cfg = dict(type='BN')
    pyramid = kind == 'pyramid_vision_llama'
    dims = (8, 8, 16, 16) if pyramid else (16,) * 4
    if pyramid:
        cfg.backbone.arch = dict(embed_dims=dims, depths=(2, 2, 2, 2), num_heads=(2, 2, 2, 2))
    else:
        cfg.backbone.arch = dict(embed_dims=16, num_layers=12, num_heads=2)
        cfg.neck.update(embed_dim=16, norm_cfg=norm_cfg)
    cfg.decode_head.update(in_channels=dims, channels=8, num_classes=3, norm_cfg=norm_cfg)
    cfg.auxiliary_head = cfg.backbone.init_cfg = None
    model = MODELS.build(cfg).eval()
    found = []
    rotaries = (
        [(c.rotary, c.key_rotary) for c in model.backbone.calibrations] if pyramid else [(model.backbone.rotary,)]
    )
    for stage, pair in enumerate(rotaries):
        for role, rotary in enumerate(pair):
            rotary.register_forward_pre_hook(lambda _, args, key=(stage, role): found.append((*key, args[0])))
    metas = [dict(ori_shape=(160, 224), img_shape=(160, 224), pad_shape=(160, 224))]
    with torch.no_grad():
        model.inference(torch.randn(1, 3, 160, 224), metas)

    expected = []
    for height, width in sizes:
        for stage, anchor in enumerate((56, 28, 14, 7) if pyramid else (14,)):
            rows, cols = (side // (4 * 2**stage if pyramid else 16) for side in (height, width))
            own = [(j, i) for i in range(rows) for j in range(cols)]
            ratio = (8, 4, 2, 1)[stage]
            cells = {}
            for x, y in own:
                cells.setdefault((y // ratio, x // ratio), []).append((x, y))
            keys = [torch.tensor(cells[cell], dtype=torch.float64).mean(dim=0).tolist() for cell in sorted(cells)]
            scale = torch.tensor([anchor / cols, anchor / rows], dtype=torch.float64)
            expected.append((stage, 0, torch.tensor(own, dtype=torch.float64) * scale))
            if pyramid and ratio > 1:  # with ratio 1 the keys are the queries' tokens
                expected.append((stage, 1, torch.tensor(keys, dtype=torch.float64) * scale))
    assert [item[:2] for item in found] == [item[:2] for item in expected]
    for (*_, positions), (*_, wanted) in zip(found, expected):
        torch.testing.assert_close(positions.double(), wanted, atol=1e-5, rtol=1e-5)


DATA = sorted((ROOT / 'configs' / 'mmseg').glob('*/*.py'))


@pytest.mark.parametrize('path', DATA, ids=lambda path: path.stem)
def test_the_library_predicts_arrays_and_paths(path, tmp_path):
    """``mmseg.apis.inference_model``, one picture and several; the data sets still check their files first."""
    pytest.importorskip('mmseg')
    from mmseg.apis import inference_model
    from mmseg.structures import SegDataSample
    from PIL import Image

    class Recorder(torch.nn.Module):
        seen = []

        def test_step(self, data):
            self.seen.extend(data['inputs'])
            return [SegDataSample() for _ in data['inputs']]

    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    file = tmp_path / '0.png'
    Image.fromarray(image[..., ::-1]).save(file)  # arrays are BGR
    init_default_scope('mmseg')
    for images, count in ((image, 1), (str(file), 1), ([image, image], 2), ([str(file)], 1)):
        model = Recorder()
        model.cfg = launch.load_config(str(path))
        for split in ('train', 'val', 'test'):
            assert model.cfg[f'{split}_dataloader'].dataset.pipeline[0].type == 'CheckSegFiles'
        results = inference_model(model, images)
        assert len(results) == count if isinstance(images, list) else isinstance(results, SegDataSample)
    assert len(Recorder.seen) == 5 and all(torch.equal(seen, Recorder.seen[0]) for seen in Recorder.seen)


def test_released_config_is_the_release(golden):
    """The released pyramid config, with the architecture of the fixture, gives the release's feature maps."""
    from mmvisionllama.checkpoints import convert_released

    pytest.importorskip('mmseg')
    fixture = golden('pyramid_seg')
    converted = convert_released(fixture.weights, num_heads=fixture.model['num_heads'])
    (path,) = (path for path in CONFIGS if path.stem.startswith('pyramid-visionllama-base') and 'released' in path.stem)
    cfg = launch.load_config(str(path)).model.backbone
    cfg.pop('init_cfg')
    cfg.arch = converted.model['arch']
    model = MODELS.build(cfg).eval()
    model.load_state_dict(converted.state_dict)
    with torch.no_grad():
        outs = model(fixture.inputs['image'])
    for i, out in enumerate(outs):
        fixture.assert_close(out, fixture.outputs[f'feat{i}'])


def test_released_plain_recipe():
    """Section D.6 gives 6e-5 for every layer; the release has 1e-4 that falls by 0.65 a layer."""
    name = 'visionllama-base-p16_mae-800e-pre_upernet_8xb2-160k_ade20k-512x512'
    for suffix in ('', '_released'):
        (path,) = (path for path in CONFIGS if path.stem == name + suffix)
        model = torch.nn.ModuleDict(dict(backbone=backbone(path), decode_head=torch.nn.Linear(2, 2, device='meta')))
        groups = build_optim_wrapper(model, launch.load_config(str(path)).optim_wrapper).optimizer.param_groups
        rates = {id(param): group['lr'] for group in groups for param in group['params']}
        embedding, block, head = (
            rates[id(model.get_parameter(key))]
            for key in ('backbone.patch_embed.projection.weight', 'backbone.layers.11.ln1.bias', 'decode_head.weight')
        )
        expected = (1e-4 * 0.65**13, 1e-4 * 0.65, 1e-4) if suffix else (6e-5,) * 3
        assert (embedding, block, head) == pytest.approx(expected)


@pytest.mark.parametrize('size', ['base', 'large'])
@pytest.mark.parametrize('suffix', ['', '_released'])
def test_regularisation_of_the_pyramid(size, suffix):
    """Drop path by size; decay 0.05 for what has two dimensions, in the release 0.01 for all but LayerNorms."""
    pytest.importorskip('mmseg')
    name = f'pyramid-visionllama-{size}_upernet_8xb2-160k_ade20k-512x512{suffix}'
    cfg = launch.load_config(str(next(path for path in CONFIGS if path.stem == name)))
    init_default_scope('mmseg')
    assert cfg.model.backbone.drop_path_rate == (0.3 if size == 'large' else 0.2)
    cfg.model.backbone.init_cfg = None
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {id(param): (group['lr'], group['weight_decay']) for group in groups for param in group['params']}
    layer_norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(layer_norms) > 50
    exempt = {id(param) for module in layer_norms for param in module.parameters()}
    for key, param in model.named_parameters():
        decay = (0.01 if id(param) not in exempt else 0.0) if suffix else (0.05 if param.ndim > 1 else 0.0)
        assert found[id(param)] == (6e-5, decay), key


def test_held_out_scenes_of_the_quickstart_are_not_padded(tmp_path):
    """Sides become multiples of the coarsest stride, labels stay: padding is as bright as ink and was taken for it."""
    pytest.importorskip('mmseg')
    image_lib = pytest.importorskip('PIL.Image')
    from mmengine.registry import DATASETS

    cfg = launch.load_config(str(ROOT / 'configs/mmseg/quickstart/pyramid_vision_llama_digit_scenes.py'))
    init_default_scope('mmseg')
    for folder, mode, suffix in (('images', 'RGB', 'jpg'), ('annotations', 'L', 'png')):
        (tmp_path / folder / 'validation').mkdir(parents=True)
        image_lib.new(mode, (177, 241), 1).save(tmp_path / folder / 'validation' / f'0.{suffix}')
    sample = DATASETS.build({**cfg.test_dataloader.dataset, 'data_root': str(tmp_path)})[0]
    assert sample['inputs'].shape == (3, 256, 192)
    assert sample['data_samples'].gt_sem_seg.shape == sample['data_samples'].ori_shape == (241, 177)
