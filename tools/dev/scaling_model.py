#!/usr/bin/env python
"""Memory per GPU and communication per step by arithmetic: the tables of docs/scaling.md.

    python tools/dev/scaling_model.py

Parameters are counted on the models of the configs. What a block keeps for the backward pass is measured on the CPU, in
float32 and with few tokens, as the bytes of the distinct tensors that autograd saves: two blocks minus one. The rest is
arithmetic, and no measurement on a GPU.
"""

from typing import Callable, Iterator, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmvisionllama  # noqa: F401
from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.generation import DiTLLaMA

GIB = 2**30
#: bytes per parameter: float32 weights, gradients and two moments of Adam; averaged weights
STATE, AVERAGE = 4 + 4 + 8, 4


def saved_elements(model: nn.Module, run: Callable[[nn.Module], torch.Tensor]) -> int:
    """Elements of 4 bytes that autograd keeps, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in [*model.parameters(), *model.buffers()]}
    kept, sizes = [], {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.append(tensor)  # an address must not be used again
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(model)
    del out
    return sum(sizes.values()) // 4


def per_token(build: Callable[[int], nn.Module], run: Callable[[nn.Module], torch.Tensor], tokens: int) -> float:
    """Elements that one block keeps for a token."""
    one, two = (saved_elements(build(layers).train(), run) for layers in (1, 2))
    return (two - one) / tokens


def backbone(layers: int) -> nn.Module:
    arch = dict(embed_dims=1024, num_heads=16, num_layers=layers, feedforward_channels=2816)
    return VisionLLaMA(arch, img_size=128, anchor=128, out_type='raw', with_cls_token=False)


def dit(layers: int) -> nn.Module:
    return DiTLLaMA(dict(embed_dims=1152, num_heads=16, num_layers=layers), patch_size=2)


def parameters(path: str) -> int:
    """Trained parameters of a config's model."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.pop('init_cfg', None)
    cfg.model.get('backbone', {}).pop('init_cfg', None)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def largest_block(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.layers[0].parameters())


def row(
    name: str, count: int, block: int, images: int, tokens: int, layers: int, kept: float, dims: int, average: bool
):
    """Lines of the memory table, in GiB per GPU, one for each number of GPUs."""
    state = count * (STATE + AVERAGE * average)
    whole = kept * tokens * images * layers * 2
    checkpointed = (dims * layers + kept) * tokens * images * 2
    for gpus in (1, 8, 64, 512):
        plain = (state + (4 * count if gpus > 1 else 0)) / GIB  # DDP's buckets
        # one process is not sharded; two blocks gathered in bfloat16
        sharded = (state / gpus + 2 * 2 * block) / GIB if gpus > 1 else plain
        numbers = (plain, sharded, whole / GIB, checkpointed / GIB)
        yield f'| {name} | {gpus} | ' + ' | '.join(f'{number:.1f}' for number in numbers) + ' |'


def lines() -> Iterator[str]:
    """What is kept, and the lines of both tables."""
    torch.manual_seed(0)
    kept_backbone = per_token(backbone, lambda m: m(torch.rand(1, 3, 128, 128, requires_grad=True))[-1], 64)
    arguments: Tuple = (torch.rand(1, 4, 32, 32, requires_grad=True), torch.rand(1), torch.zeros(1, dtype=torch.long))
    kept_dit = per_token(dit, lambda m: m(*arguments), 256)
    yield f'kept per token and block: L {kept_backbone / 1024:.1f} C, DiT-XL {kept_dit / 1152:.1f} C'
    detector = 'configs/mmdet/vitdet/visionllama-large-p16_mae-800e-pre_vitdet_8xb4-accum2-36e_coco-1024px.py'
    generator = 'configs/generation/dit_llama/dit-llama-xl-2_8xb32-2352k_imagenet-256.py'
    counts = [parameters(path) for path in (detector, generator)]
    yield f'parameters: {counts[0] / 1e6:.1f} M, {counts[1] / 1e6:.1f} M'
    yield '| model | GPUs | state, DDP | state, FSDP2 | activations | with_cp |\n|---|---|---|---|---|---|'
    yield from row('ViTDet-L, 1 image', counts[0], largest_block(backbone(1)), 1, 4096, 24, kept_backbone, 1024, False)
    yield from row('DiT-XL/2, 32 images', counts[1], largest_block(dit(1)), 32, 256, 28, kept_dit, 1152, True)
    yield '| model | DDP, GB | FSDP2 in bfloat16, GB |\n|---|---|---|'
    for name, count in zip(('ViTDet-L', 'DiT-XL/2'), counts):
        # a ring: all-reduce sends everything twice; two gathers of 2 bytes, one reduction of 4
        yield f'| {name} | {2 * 4 * count / 1e9:.1f} | {(2 * 2 + 4) * count / 1e9:.1f} |'


if __name__ == '__main__':
    print(*lines(), sep='\n')
