"""Pyramid VisionLLaMA against timm's Twins-SVT of the same size, and against a literal implementation at 800 x 1216."""

import torch
from harness import arguments, compare, forward_of, gmacs_of, peak_mib_of, results_of, train_step_of, wanted, write_csv
from literal_pyramid import LiteralPyramidVisionLLaMA
from plain import with_mode
from torch import nn

from mmvisionllama.backbones import PyramidVisionLLaMA
from mmvisionllama.layers import swiglu_hidden

PACKAGES = ('timm',)
WORKS = (('forward', forward_of), ('train step', train_step_of))


class Classifier(nn.Module):
    """Backbone, GAP and a 1000-class head, what timm's models are."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.backbone = PyramidVisionLLaMA(arch, out_type='avg_featmap')
        self.head = nn.Linear(self.backbone.embed_dims[-1], 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x)[0])


def against_twins(args) -> list:
    """fp32 on the CPU, batch 4 at 224."""
    import timm

    rows = []
    images = torch.randn(4, 3, 224, 224)
    for size in ('small', 'base'):
        models = {f'timm Twins-SVT-{size}': timm.create_model(f'twins_svt_{size}'), 'mmvisionllama': Classifier(size)}
        gmacs = {name: gmacs_of(model, images) for name, model in models.items()}
        for work, make in WORKS:
            case = f'pyramid {size} 224 batch 4 {work}'
            if wanted(case, args.cases):
                calls = {name: with_mode(m, work == 'train step', make(m, images)) for name, m in models.items()}
                rounds = args.rounds if size == 'base' else 2 * args.rounds
                rows += compare(case, calls, rounds=rounds, gmacs=gmacs, packages=PACKAGES)
    return rows


def against_literal(args) -> list:
    """fp32 on the CPU, one image of detection size: time and peak memory beyond weights and input."""
    rows = []
    images = torch.randn(1, 3, 800, 1216)
    settings = PyramidVisionLLaMA.resolve_arch('small')
    dims = settings['embed_dims']
    models = {
        'literal': LiteralPyramidVisionLLaMA(
            dims, settings['depths'], settings['num_heads'], [swiglu_hidden(c) for c in dims]
        ),
        'mmvisionllama': PyramidVisionLLaMA('small'),
    }
    for work, make in WORKS:
        case = f'pyramid small 800x1216 batch 1 {work} against literal'
        if wanted(case, args.cases):
            calls = {name: with_mode(m, work == 'train step', make(m, images)) for name, m in models.items()}
            peaks = {name: peak_mib_of(call) for name, call in calls.items()}
            rows += compare(case, calls, rounds=3, warmup=1, peak_mib=peaks)
    return rows


if __name__ == '__main__':
    args = arguments(__doc__, 'pyramid').parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    write_csv(results_of(args), against_twins(args) + against_literal(args), args.append)
