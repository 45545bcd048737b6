"""Plain VisionLLaMA against timm's ViT of the same size, and against a literal implementation at three resolutions."""

import torch
from harness import arguments, compare, forward_of, gmacs_of, results_of, train_step_of, wanted, write_csv
from literal import LiteralVisionLLaMA
from torch import nn

from mmvisionllama.backbones import VisionLLaMA

PACKAGES = ('timm',)
SIZES = {'small': (384, 12, 6, 1024), 'base': (768, 12, 12, 2048)}


class Classifier(nn.Module):
    """Backbone and a 1000-class head, what timm's models are."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.backbone = VisionLLaMA(arch)
        self.head = nn.Linear(self.backbone.embed_dims, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x)[0])


def cpu(args) -> list:
    """fp32 on the CPU."""
    import timm

    rows = []
    images = torch.randn(4, 3, 224, 224)
    for size in SIZES:
        models = {f'timm ViT-{size}': timm.create_model(f'vit_{size}_patch16_224'), 'mmvisionllama': Classifier(size)}
        gmacs = {name: gmacs_of(model, images) for name, model in models.items()}
        for work, make in (('forward', forward_of), ('train step', train_step_of)):
            case = f'{size} 224 batch 4 {work}'
            if wanted(case, args.cases):
                calls = {name: make(model, images) for name, model in models.items()}
                for name, model in models.items():  # each call sets its own mode
                    calls[name] = with_mode(model, work == 'train step', calls[name])
                rounds = args.rounds if size == 'base' else 2 * args.rounds
                rows += compare(case, calls, rounds=rounds, gmacs=gmacs, packages=PACKAGES)
    for pixels, batch in ((224, 4), (512, 1), (1024, 1)):
        images = torch.randn(batch, 3, pixels, pixels)
        dims, layers, heads, hidden = SIZES['small']
        models = {'literal': LiteralVisionLLaMA(dims, layers, heads, hidden), 'mmvisionllama': VisionLLaMA('small')}
        for work, make in (('forward', forward_of), ('train step', train_step_of)):
            case = f'small {pixels} batch {batch} {work} against literal'
            if wanted(case, args.cases):
                calls = {name: with_mode(m, work == 'train step', make(m, images)) for name, m in models.items()}
                rows += compare(case, calls, rounds=3 if pixels == 1024 else args.rounds, warmup=1)
    return rows


def with_mode(model: nn.Module, training: bool, call):
    """Sets the mode before each call: contenders of different cases share a model."""

    def run():
        model.train(training)
        return call()

    return run


def cuda(args) -> list:
    """bf16 autocast on a GPU, eager and compiled."""
    import timm

    device = torch.device('cuda')
    rows = []
    for size in SIZES:
        for batch in (128,):
            images = torch.randn(batch, 3, 224, 224, device=device)
            models = {
                f'timm ViT-{size}': timm.create_model(f'vit_{size}_patch16_224').to(device),
                'mmvisionllama': Classifier(size).to(device),
            }
            for compiled in (False, True):
                run = {name: torch.compile(model) if compiled else model for name, model in models.items()}
                for work, make in (('forward', forward_of), ('train step', train_step_of)):
                    case = f'{size} 224 batch {batch} {work} {"compiled" if compiled else "eager"}'
                    if not wanted(case, args.cases):
                        continue
                    calls = {}
                    for name, model in run.items():
                        call = with_mode(model, work == 'train step', make(model, images))
                        calls[name] = torch.autocast('cuda', torch.bfloat16)(call)
                    rows += compare(
                        case,
                        calls,
                        rounds=3 * args.rounds,
                        warmup=5,
                        device=device,
                        dtype='bfloat16',
                        packages=PACKAGES,
                    )
    return rows


if __name__ == '__main__':
    args = arguments(__doc__, 'plain', gpu=True).parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    write_csv(results_of(args), cuda(args) if args.device == 'cuda' else cpu(args), args.append)
