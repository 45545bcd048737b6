"""Fully sharded training in half precision: what FSDP casts must not reach the positions."""

import copy

import pytest
import torch
from torch import distributed as dist

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.generation import DiTLLaMA
from mmvisionllama.pretraining import MAEVisionLLaMA

fsdp = pytest.importorskip('torch.distributed.fsdp')
if not hasattr(fsdp, 'fully_shard'):
    pytest.skip('this torch has fully_shard on GPUs only', allow_module_level=True)

PLAIN = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=32)
PYRAMID = dict(embed_dims=(16,) * 4, depths=(2,) * 4, num_heads=(2,) * 4, feedforward_channels=(16,) * 4)
MODELS = {
    'plain': lambda: VisionLLaMA(PLAIN, layer_scale_init_value=0.0),
    'plain with LayerScale': lambda: VisionLLaMA(PLAIN, layer_scale_init_value=0.1, with_cp=True),
    'pyramid': lambda: PyramidVisionLLaMA(PYRAMID, out_indices=(0, 1, 2, 3)),
    'iLLaMA': lambda: iLLaMA(PLAIN),
    'iLLaMA with a soft mask': lambda: iLLaMA(PLAIN, soft_mask=0.5),
    'MAE': lambda: MAEVisionLLaMA(PLAIN),
    'DiT': lambda: DiTLLaMA(PLAIN, num_classes=4),
}


@pytest.fixture
def mesh():
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh('cpu', (1,))
    dist.destroy_process_group()


def blocks_of(model):
    return [block for block in model.modules() if hasattr(block, 'attn') and hasattr(block, 'ffn')]


def outputs(model, name):
    generator = torch.Generator().manual_seed(1)
    if name == 'DiT':
        latents = torch.randn(2, 4, 16, 16, generator=generator)
        return [model(latents, torch.tensor([3, 900]), torch.tensor([0, 1]))]
    images = torch.randn(2, 3, 64, 96, generator=generator)
    if name == 'MAE':
        return [model(images, noise=torch.rand(2, 24, generator=generator))[0]]
    return list(model(images))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
@pytest.mark.parametrize('name', list(MODELS))
def test_sharded_half_precision_keeps_positions_exact(name, dtype, mesh):
    reference = MODELS[name]().eval()
    if name == 'DiT':  # its blocks start as the identity
        for param in reference.parameters():
            torch.nn.init.normal_(param, std=0.1)
    model = copy.deepcopy(reference).train()
    for block in blocks_of(model):
        fsdp.fully_shard(block, mesh=mesh, mp_policy=fsdp.MixedPrecisionPolicy(param_dtype=dtype))
    fsdp.fully_shard(model, mesh=mesh, mp_policy=fsdp.MixedPrecisionPolicy(param_dtype=dtype))
    seen = set()
    for block in blocks_of(model):
        block.attn.register_forward_pre_hook(
            lambda module, args: seen.update(
                (args[0].dtype, args[1].query.cos.dtype, args[1].key.sin.dtype) for _ in range(1)
            )
        )
    if name == 'DiT':
        model.label_embed.drop_prob = 0.0
    outs = outputs(model, name)
    assert seen == {(dtype, torch.float32, torch.float32)}, 'tokens in half precision, angles not'
    for ours, theirs in zip(outs, outputs(reference, name)):
        assert ours.dtype == dtype
        error = (ours.float() - theirs).norm() / theirs.norm()
        assert error < (0.03 if dtype == torch.bfloat16 else 0.005), error
    sum(out.float().square().mean() for out in outs).backward()
    grads = {name: param.grad for name, param in model.named_parameters() if param.grad is not None}
    assert all(grad.full_tensor().isfinite().all() for grad in grads.values())
    missing = {name for name, _ in model.named_parameters()} - set(grads)
    assert not missing, missing
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
