"""What ``gpu.py`` compares: for each case the contenders, the first of which is the reference of the ratios."""

from dataclasses import dataclass, field
from functools import partial
from typing import Callable, Dict, Optional, Sequence, Tuple

import torch
from literal_vitdet import LiteralViTDet
from torch import nn

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.generation import DiTLLaMA
from mmvisionllama.layers.attention import NO_CONTEXT

WINDOWED = (0, 1, 3, 4, 6, 7, 9, 10)
#: of --tiny, which only shows that the script runs
TINY_PLAIN = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
TINY_PYRAMID = dict(embed_dims=[16, 32], depths=[2, 2], num_heads=[1, 2], window_sizes=[4, 4], sr_ratios=[2, 1])


class Classifier(nn.Module):
    """A backbone with one output and a 1000-class head, which is what timm's models are."""

    def __init__(self, backbone: nn.Module, dims: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(dims, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x)[0])


def plain(arch: str, tiny: bool) -> nn.Module:
    backbone = VisionLLaMA(TINY_PLAIN if tiny else arch)
    return Classifier(backbone, backbone.embed_dims)


def plain_without_rotary(arch: str, tiny: bool) -> nn.Module:
    model = plain(arch, tiny)
    model.backbone.rotary_contexts = lambda *args, **kwargs: {False: NO_CONTEXT}
    return model


def pyramid(arch: str, tiny: bool) -> nn.Module:
    out = 1 if tiny else 3
    backbone = PyramidVisionLLaMA(TINY_PYRAMID if tiny else arch, out_type='avg_featmap', out_indices=(out,))
    return Classifier(backbone, backbone.embed_dims[-1])


def half_precision(model: nn.Module) -> nn.Module:
    """Weights in bf16, too: what one deploys, where autocast casts them in every pass."""
    return model.bfloat16()


def patch_embedding(kind: str, tiny: bool) -> nn.Module:
    """The same projection of patches of 16 as convolution, with channels last, or as a product of matrices."""
    if kind == 'product':
        return nn.Sequential(nn.Unfold(16, stride=16), Transposed(), nn.Linear(768, 768))
    convolution = nn.Conv2d(3, 768, 16, 16)
    return convolution.to(memory_format=torch.channels_last) if kind == 'channels last' else convolution


class Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


def illama(arch: str, tiny: bool) -> nn.Module:
    backbone = iLLaMA(TINY_PLAIN if tiny else arch)
    return Classifier(backbone, backbone.embed_dims)


def windowed(arch: str, tiny: bool) -> nn.Module:
    """ViTDet's backbone."""
    options = dict(out_type='featmap', final_norm=False, with_cls_token=False, layer_scale_init_value=0.0)
    return VisionLLaMA(
        TINY_PLAIN if tiny else arch,
        window_size=14,
        window_block_indexes=(0,) if tiny else WINDOWED,
        **options,
    )


def literal_windowed(tiny: bool) -> nn.Module:
    return LiteralViTDet(32, 2, 2, 64, (0,)) if tiny else LiteralViTDet(768, 12, 12, 2048, WINDOWED)


def dit(arch: str, tiny: bool) -> nn.Module:
    return DiTLLaMA(dict(embed_dims=32, num_layers=2, num_heads=2) if tiny else arch)


class Pretraining(nn.Module):
    """mmpretrain's MAE around an encoder, images to the loss."""

    def __init__(self, encoder: str, tiny: bool) -> None:
        super().__init__()
        from mmengine.registry import init_default_scope
        from mmpretrain.registry import MODELS

        init_default_scope('mmpretrain')
        dims, img_size = (32, 32) if tiny else (768, 224)
        arch = dict(TINY_PLAIN, feedforward_channels=128) if tiny else 'base'
        neck = dict(type='MAEPretrainDecoder', embed_dim=dims, num_patches=(img_size // 16) ** 2)
        if tiny:
            neck.update(decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2)
        loss = dict(type='PixelReconstructionLoss', criterion='L2')
        self.model = MODELS.build(
            dict(
                type='MAE',
                backbone=dict(type=encoder, arch=arch, img_size=img_size),
                neck=neck,
                head=dict(type='MAEPretrainHead', norm_pix=True, loss=loss),
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x, mode='loss')['loss']


def timm_model(name: str, tiny: bool, rotary: bool = True, **options) -> nn.Module:
    """Of timm; without its rotary embedding if asked to."""
    import timm

    if tiny:
        options.update(embed_dim=32, depth=2, num_heads=2, img_size=32)
    model = timm.create_model(name, **options)
    if not rotary:
        model.rope = None
    return model


def timm_twins(name: str, tiny: bool) -> nn.Module:
    import timm

    options = dict(
        embed_dims=(16, 32), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2), sr_ratios=(2, 1), wss=(4, 4)
    )
    return timm.create_model(name, **(options if tiny else {}))


@dataclass
class Case:
    """Contenders on one input.

    Attributes:
        name: Name of the case.
        contenders: Name -> function of ``tiny`` that makes the model; the first is the reference.
        batch: Images.
        size: Height and width, pixels.
        compiled: Through ``torch.compile``.
        formulas: Also the last contender with the package's kernels off.
        works: What is timed.
        inputs: Makes the inputs from (batch, size, device); images by default.
    """

    name: str
    contenders: Dict[str, Callable[[bool], nn.Module]]
    batch: int
    size: Tuple[int, int] = (224, 224)
    compiled: bool = False
    formulas: bool = False
    works: Sequence[str] = ('training step', 'forward')
    inputs: Optional[Callable[..., tuple]] = field(default=None)


def images(batch: int, size: Tuple[int, int], device: torch.device) -> tuple:
    return (torch.randn(batch, 3, *size, device=device),)


def latents(batch: int, size: Tuple[int, int], device: torch.device) -> tuple:
    """Noisy latents, times and labels."""
    return (
        torch.randn(batch, 4, *size, device=device),
        torch.randint(1000, (batch,), device=device),
        torch.randint(1000, (batch,), device=device),
    )


def cases() -> Sequence[Case]:
    """All cases, those first that matter most."""
    base = {
        "timm's ViT with RoPE": partial(timm_model, 'vit_base_patch16_rope_224'),
        'the same without RoPE': partial(timm_model, 'vit_base_patch16_rope_224', rotary=False),
        "timm's ViT": partial(timm_model, 'vit_base_patch16_224'),
        'mmvisionllama without RoPE': partial(plain_without_rotary, 'base'),
        'mmvisionllama': partial(plain, 'base'),
    }
    large = {"timm's ViT": partial(timm_model, 'vit_large_patch16_224'), 'mmvisionllama': partial(plain, 'large')}
    rows = [
        Case('plain B', base, 128, formulas=True),
        Case('plain L', large, 64),
        Case(
            'plain S',
            {"timm's ViT": partial(timm_model, 'vit_small_patch16_224'), 'mmvisionllama': partial(plain, 'small')},
            256,
        ),
        Case(
            'ViTDet B',
            {'literal code': literal_windowed, 'mmvisionllama': partial(windowed, 'base')},
            2,
            (1024, 1024),
            formulas=True,
        ),
        Case('plain B', {'mmvisionllama': partial(plain, 'base')}, 16, (512, 512)),
    ]
    for size, letter in (('small', 'S'), ('base', 'B'), ('large', 'L')):
        twins = {
            "timm's Twins-SVT": partial(timm_twins, f'twins_svt_{size}'),
            'mmvisionllama': partial(pyramid, size),
        }
        rows.append(Case(f'pyramid {letter}', twins, 64, formulas=size == 'small'))
    rows += [
        Case('pyramid S', {'mmvisionllama': partial(pyramid, 'small')}, 4, (800, 1216)),
        Case('DiT-LLaMA XL/2', {'mmvisionllama': partial(dit, 'xl')}, 32, (32, 32), inputs=latents),
        Case(
            'MAE B',
            {
                "mmpretrain's MAE": partial(Pretraining, 'MAEViT'),
                'mmvisionllama': partial(Pretraining, 'MAEVisionLLaMA'),
            },
            128,
            works=('training step',),
        ),
        Case(
            'patch embedding B',
            {kind: partial(patch_embedding, kind) for kind in ('convolution', 'channels last', 'product')},
            128,
        ),
        Case('iLLaMA base', {'mmvisionllama': partial(illama, 'base')}, 128),
        Case(
            'plain B',
            {name: base[name] for name in ("timm's ViT with RoPE", 'mmvisionllama without RoPE', 'mmvisionllama')},
            128,
            compiled=True,
        ),
        Case(
            'plain L',
            {
                "timm's ViT": large["timm's ViT"],
                'mmvisionllama': large['mmvisionllama'],
                'mmvisionllama, weights in bf16': lambda tiny: half_precision(plain('large', tiny)),
            },
            256,
            compiled=True,
            works=('forward',),
        ),
        Case('plain L', {'mmvisionllama': large['mmvisionllama']}, 128, compiled=True, works=('training step',)),
        Case('pyramid S', {'mmvisionllama': partial(pyramid, 'small')}, 64, compiled=True),
    ]
    return rows
