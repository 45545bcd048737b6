"""One MAE training step of the Base size at 224, mask ratio 0.75: our encoder against mmpretrain's MAEViT.

Decoder, head and loss are the same mmpretrain modules on both sides.
"""

import torch
from harness import arguments, compare, results_of, wanted, write_csv
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmvisionllama  # noqa: F401

PACKAGES = ('onedl-mmpretrain', 'onedl-mmcv')
ENCODERS = {
    'mmpretrain MAEViT': dict(type='MAEViT', arch='b'),
    'mmvisionllama': dict(type='MAEVisionLLaMA', arch='base'),
}


def build(encoder: dict) -> nn.Module:
    """The whole pre-training model around an encoder."""
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='MAE',
            backbone=dict(encoder),
            neck=dict(type='MAEPretrainDecoder', embed_dim=768),
            head=dict(type='MAEPretrainHead', norm_pix=True, loss=dict(type='PixelReconstructionLoss', criterion='L2')),
        )
    ).train()


def step_of(model: nn.Module, images: torch.Tensor):
    """Forward and backward pass of the loss, optimizer left out."""

    def call():
        model.zero_grad(set_to_none=True)
        model(images, mode='loss')['loss'].backward()

    return call


def encoder_step_of(model: nn.Module, images: torch.Tensor):
    """The same of the encoder alone, under the sum of its squared latents."""

    def call():
        model.zero_grad(set_to_none=True)
        model.backbone(images)[0].float().square().mean().backward()

    return call


def gmacs_of(model: nn.Module, images: torch.Tensor, encoder: bool) -> float:
    """GMACs of one forward pass under a mask."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.backbone(images) if encoder else model(images, mode='loss')
    return counter.get_total_flops() / 2e9


def main() -> None:
    args = arguments(__doc__, 'mae', gpu=True).parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    cuda = device.type == 'cuda'
    batch = 128 if cuda else 4
    images = torch.randn(batch, 3, 224, 224, device=device)
    models = {name: build(encoder).to(device) for name, encoder in ENCODERS.items()}
    rows = []
    for part, make in (('step', step_of), ('encoder step', encoder_step_of)):
        case = f'MAE base 224 batch {batch} {part}'
        if not wanted(case, args.cases):
            continue
        calls = {name: make(model, images) for name, model in models.items()}
        if cuda:
            calls = {name: torch.autocast('cuda', torch.bfloat16)(call) for name, call in calls.items()}
        gmacs = {name: gmacs_of(model, images, part != 'step') for name, model in models.items()}
        rows += compare(
            case,
            calls,
            rounds=args.rounds,
            device=device,
            dtype='bfloat16' if cuda else 'float32',
            gmacs=gmacs,
            packages=PACKAGES,
        )
    write_csv(results_of(args), rows, args.append)


if __name__ == '__main__':
    main()
