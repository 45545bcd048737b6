"""One training step and one sampling step of DiT-LLaMA-S/2 against a plain implementation of the DiT block.

The reference is DiT as its authors' description reads, written with torch alone: sin-cos embedding, adaLN-Zero, GELU.
The training step is the whole one of the Runner's model without the optimizer: objective, network, backward. The
sampling step is one guided reverse step. Both use this library's diffusion for both networks.
"""

import torch
import torch.nn.functional as F
from harness import arguments, compare, gmacs_of, results_of, wanted, write_csv
from mmengine.registry import MODELS
from torch import nn

from mmvisionllama.generation import DDPMSampler, DiTLLaMA, SDESampler
from mmvisionllama.generation.dit_llama import LabelEmbed, TimestepEmbed, guide, sincos_embedding
from mmvisionllama.layers import grid_positions


class PlainBlock(nn.Module):
    """adaLN-Zero block as DiT describes it."""

    def __init__(self, dims: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dims, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)
        self.norm2 = nn.LayerNorm(dims, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dims, 4 * dims), nn.GELU(approximate='tanh'), nn.Linear(4 * dims, dims))
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(dims, 6 * dims))

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))

    def forward(self, x: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(cond).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class PlainDiT(nn.Module):
    """DiT-S/2 on 32 x 32 latents; the ends are this library's, the blocks plain."""

    in_channels = 4

    def __init__(self, dims: int = 384, layers: int = 12, heads: int = 6, patch: int = 2) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(4, dims, patch, patch)
        self.register_buffer('pos_embed', sincos_embedding(grid_positions((16, 16)), dims)[None])
        self.time_embed = TimestepEmbed(dims)
        self.label_embed = LabelEmbed(1000, dims, 0.1)
        self.blocks = nn.ModuleList(PlainBlock(dims, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dims, elementwise_affine=False, eps=1e-6)
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(dims, 2 * dims))
        self.head = nn.Linear(dims, patch * patch * 8)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        cond = self.time_embed(t) + self.label_embed(y)
        for block in self.blocks:
            x = block(x, cond)
        shift, scale = self.ada(cond).unsqueeze(1).chunk(2, dim=-1)
        x = self.head(self.norm(x) * (1 + scale) + shift)
        p = self.patch
        return x.reshape(-1, 16, 16, p, p, 8).permute(0, 5, 1, 3, 2, 4).reshape(-1, 8, 16 * p, 16 * p)

    def forward_with_cfg(self, x, t, y, cfg_scale: float, cfg_channels: str = 'all') -> torch.Tensor:
        both = self(torch.cat((x, x)), torch.cat((t, t)), torch.cat((y, torch.full_like(y, 1000))))
        return guide(*both.chunk(2), cfg_scale, self.in_channels)


def generator(network: nn.Module) -> nn.Module:
    """The Runner's model around a network."""
    model = MODELS.build(
        dict(
            type='ImageGenerator',
            network=dict(type='DiTLLaMA', arch='S', patch_size=2),
            objective=dict(type='GaussianDiffusion'),
            sampler=dict(type='DDPMSampler'),
        )
    )
    model.network = network
    return model


def train_step(model: nn.Module, latents: torch.Tensor, labels: torch.Tensor):
    """Losses and gradients."""

    def call():
        model.train()
        model.zero_grad(set_to_none=True)
        sum(model(inputs=latents, labels=labels, mode='loss').values()).backward()

    return call


def sampling_step(model: nn.Module, latents: torch.Tensor, labels: torch.Tensor):
    """One reverse step of the 250, guided."""
    sampler = DDPMSampler(model.objective, 250)
    t = torch.full((len(latents),), 100, device=latents.device)

    def call():
        model.eval()
        with torch.no_grad():
            steps = sampler.process.network_time(t)
            output = model.network.forward_with_cfg(latents, steps, labels, 1.5)
            return sampler.step(sampler.process.reverse(output, latents, t), 100, lambda: torch.randn_like(latents))

    return call


def sde_calls() -> int:
    """Network evaluations of the 250-step SDE, counted."""
    from mmvisionllama.generation import LinearInterpolant

    calls = []
    sampler = SDESampler(LinearInterpolant(), num_steps=250)
    sampler(lambda x, t: calls.append(t) or torch.zeros_like(x), lambda: torch.zeros(1, 4, 2, 2))
    return len(calls)


def main() -> None:
    args = arguments(__doc__.splitlines()[0], 'generation', gpu=True).parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    batch = 8 if device.type == 'cpu' else 64
    latents = torch.randn(batch, 4, 32, 32, device=device)
    labels = torch.randint(1000, (batch,), device=device)
    models = {'plain DiT-S/2': generator(PlainDiT()), 'DiT-LLaMA-S/2': generator(DiTLLaMA('S', patch_size=2))}
    inputs = (latents[:1], torch.zeros(1, device=device), labels[:1])
    models = {name: model.to(device) for name, model in models.items()}
    for model in models.values():  # all of it must be computed: no zero gates
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.02)
    gmacs = {name: gmacs_of(model.network, *inputs) for name, model in models.items()}
    rows = []
    works = (('training step', train_step, 3 * batch), ('guided sampling step', sampling_step, 2 * batch))
    for work, make, factor in works:
        case = f'S/2 batch {batch} {work}'
        if wanted(case, args.cases):
            calls = {name: make(model, latents, labels) for name, model in models.items()}
            work_gmacs = {name: factor * value for name, value in gmacs.items()}
            rows += compare(case, calls, rounds=args.rounds, device=device, gmacs=work_gmacs)
    print(f'network evaluations of the 250-step SDE: {sde_calls()} (released code: 500)')
    write_csv(results_of(args), rows, args.append)


if __name__ == '__main__':
    main()
