"""iLLaMA's causal kernel against an explicit additive mask, and against the released mask after the softmax."""

import torch
from harness import arguments, compare, forward_of, results_of, train_step_of, wanted, write_csv
from torch import nn

from mmvisionllama.backbones import iLLaMA
from mmvisionllama.layers import CausalContext, attend, soft_mask_matrix


class ExplicitMask(iLLaMA):
    """The same model with its causal mask written out and added to the scores."""

    def causal_context(self, grid, x: torch.Tensor) -> CausalContext:
        context = super().causal_context(grid, x)
        return CausalContext(context.rope, mask=soft_mask_matrix(x.shape[1], self.alpha).log().to(x.dtype))


class Attention(nn.Module):
    """Attention alone."""

    def __init__(self, **kwargs) -> None:
        super().__init__()
        self.kwargs = kwargs

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(q, k, v, **self.kwargs)


def measure(args, device: torch.device, dtype: str, arch: str, batch: int) -> list:
    """Attention and whole models at both resolutions, forward pass and training step."""
    rows = []
    settings = iLLaMA.resolve_arch(arch)
    heads = settings['num_heads']
    for pixels in (224, 384):
        tokens = (pixels // 16) ** 2 + 1
        mask = soft_mask_matrix(tokens, torch.zeros((), device=device)).log()
        mask = mask.to(getattr(torch, dtype))
        # enough work that starting the threads does not count
        shape = (8 * batch, heads, tokens, settings['embed_dims'] // heads)
        qkv = [torch.randn(shape, device=device, dtype=getattr(torch, dtype)) for _ in range(3)]
        attention = {'explicit mask': Attention(mask=mask), 'causal kernel': Attention(is_causal=True)}
        images = torch.randn(batch, 3, pixels, pixels, device=device)
        models = {
            'explicit mask': ExplicitMask(arch, img_size=pixels).to(device),
            'causal kernel': iLLaMA(arch, img_size=pixels).to(device),
            'released mask': iLLaMA(arch, img_size=pixels, mask_mode='released').to(device),
        }
        for work, make in (('forward', forward_of), ('train step', train_step_of)):
            case = f'attention of {arch} {pixels} batch {8 * batch} {work}'
            if wanted(case, args.cases):
                inputs = [x.detach().requires_grad_(work == 'train step') for x in qkv]
                calls = {name: make(module, *inputs) for name, module in attention.items()}
                rows += compare(case, calls, rounds=3 * args.rounds, warmup=5, device=device, dtype=dtype)
            case = f'{arch} {pixels} batch {batch} {work}'
            if wanted(case, args.cases):
                calls = {name: with_mode(model, work, make(model, images), dtype) for name, model in models.items()}
                rows += compare(case, calls, rounds=args.rounds, device=device, dtype=dtype)
    return rows


def with_mode(model: nn.Module, work: str, call, dtype: str):
    """Sets the mode before each call: both kinds of work share a model. Under autocast for half precision."""

    def run():
        model.train(work == 'train step')
        with torch.autocast('cuda', getattr(torch, dtype), enabled=dtype != 'float32'):
            return call()

    return run


if __name__ == '__main__':
    args = arguments(__doc__, 'illama', gpu=True).parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.device == 'cuda':
        results = measure(args, torch.device('cuda'), 'bfloat16', 'small', 128)
    else:
        results = measure(args, torch.device('cpu'), 'float32', 'tiny', 4)
    write_csv(results_of(args), results, args.append)
