"""A detector is exported up to its proposals."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmvisionllama import deploy, launch
from mmvisionllama.deploy.models import model_config

CONFIG = Path(__file__).parents[2] / 'configs/mmdet/quickstart/pyramid_vision_llama_digit_scenes.py'


@pytest.mark.nightly
def test_the_neck_and_the_rpn_are_in_one_file_for_every_size(tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext')
    cfg = launch.load_config(str(CONFIG))
    init_default_scope('mmdet')
    arch = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), sr_ratios=(4, 2))
    cfg.model.backbone = dict(type='PyramidVisionLLaMA', arch=arch, out_indices=(0, 1), layer_scale_init_value=0.0)
    cfg.model.neck.update(in_channels=[8, 16])
    model = MODELS.build(model_config(cfg))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    network = deploy.export_network(model)
    session = deploy.load_exported(deploy.export(network, tmp_path / 'model', 'onnx').path, threads=1)
    assert session.metadata['task'] == 'detection'
    assert len(session.metadata['outputs']) == 3 * len(model.rpn_head.prior_generator.strides)
    assert deploy.largest_difference(network, session, [(160, 352), (100, 130), (64, 64)], batches=(1, 3)) <= 1e-5
