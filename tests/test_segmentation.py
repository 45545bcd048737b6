"""Segmentation configs: every size is placed onto the grid of the weights, and the released ones are the release."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

from mmvisionllama.engine import launch

ROOT = Path(__file__).parents[1]
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


def test_released_config_is_the_release(golden):
    """The released pyramid config, with the architecture of the fixture, gives the release's feature maps."""
    from mmvisionllama.checkpoints import convert_released

    pytest.importorskip('mmseg')
    fixture = golden('pyramid_seg')
    converted = convert_released(fixture.weights, num_heads=fixture.info['config']['model']['num_heads'])
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
