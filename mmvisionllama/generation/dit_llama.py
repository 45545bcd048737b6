"""DiT-LLaMA and SiT-LLaMA, and the DiT and SiT they are compared with: one class (sections 4.1 and A.1).

Legend: B batch, N tokens, C channels, H x W token grid, P patch size.
"""

from typing import Optional, Sequence, Union

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..backbones.base import BaseBackbone, hidden_channels
from ..errors import OptionError
from ..layers import (
    AS2DRoPE,
    AttentionContext,
    PatchEmbed,
    RotaryAttention,
    build_ffn,
    grid_positions,
    sincos_embedding,
    sinusoid,
)
from ..layers.attention import NO_CONTEXT
from ..layers.options import (
    check_flags,
    check_heads,
    checked_choice,
    checked_rate,
    checked_sides,
    checked_whole,
    made,
    size_agnostic,
)

POSITIONS = ('rope', 'sincos')
CFG_CHANNELS = ('all', 'first_three')
CFG_CHANNELS_ALIASES = {'released': 'first_three'}


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``LN(x) * (1 + scale) + shift`` without affine weights: ``(B, N, C)`` with ``(B, C)`` modulations."""
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale[:, None])


def guide(cond: Tensor, uncond: Tensor, scale: float, num_channels: Optional[int] = None) -> Tensor:
    """Classifier-free guidance ``uncond + scale * (cond - uncond)`` of the first ``num_channels`` channels.

    Args:
        cond: Prediction with the label, ``(B, channels, height, width)``.
        uncond: Prediction with the null label.
        scale: 1 is no guidance.
        num_channels: The channels after these stay conditional; None guides all.
    """
    if num_channels is None or num_channels >= cond.shape[1]:
        return torch.lerp(uncond, cond, scale)
    guided = torch.lerp(uncond[:, :num_channels], cond[:, :num_channels], scale)
    return torch.cat((guided, cond[:, num_channels:]), dim=1)


class TimestepEmbed(nn.Module):
    """256 sinusoids of the time, then two linears with SiLU between.

    Args:
        embed_dims: Channels C.
        frequency_dims: Number of sinusoids.
    """

    def __init__(self, embed_dims: int, frequency_dims: int = 256) -> None:
        super().__init__()
        self.frequency_dims = frequency_dims
        self.fc1 = nn.Linear(frequency_dims, embed_dims)
        self.fc2 = nn.Linear(embed_dims, embed_dims)

    def forward(self, t: Tensor) -> Tensor:
        """Times ``(B,)``, integer or float, to ``(B, C)``."""
        features = sinusoid(t, self.frequency_dims).to(self.fc1.weight.dtype)
        return self.fc2(F.silu(self.fc1(features)))


class LabelEmbed(nn.Embedding):
    """Class embedding whose last row is the null class; training replaces labels by it at random.

    Args:
        num_classes: Classes, without the null class.
        embed_dims: Channels C.
        drop_prob: Probability that a label is dropped in training; 0 leaves out the null class.
    """

    def __init__(self, num_classes: int, embed_dims: int, drop_prob: float = 0.1) -> None:
        super().__init__(num_classes + (drop_prob > 0), embed_dims)
        self.num_classes = num_classes
        self.drop_prob = drop_prob

    def forward(self, labels: Tensor) -> Tensor:
        """Labels ``(B,)``, int64 in 0 ... num_classes, to ``(B, C)``."""
        if self.training and self.drop_prob:
            dropped = torch.rand(labels.shape, device=labels.device) < self.drop_prob
            labels = torch.where(dropped, self.num_classes, labels)
        return super().forward(labels)


class AdaLNBlock(nn.Module):
    """adaLN-Zero block: shift, scale and gate of both branches are linear in the condition.

    Args:
        attn: Module called as ``attn(x, context)``.
        ffn: Module called as ``ffn(x)``.
        embed_dims: Channels C.
        with_cp: Recompute the block in the backward pass instead of keeping its activations.
    """

    def __init__(self, attn: nn.Module, ffn: nn.Module, embed_dims: int, with_cp: bool = False) -> None:
        super().__init__()
        self.attn = attn
        self.ffn = ffn
        self.ada = nn.Linear(embed_dims, 6 * embed_dims)
        self.with_cp = with_cp

    def forward(self, x: Tensor, context: AttentionContext, cond: Tensor) -> Tensor:
        """Tokens ``(B, N, C)`` and activated condition ``(B, C)`` to ``(B, N, C)``."""
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(self._forward, x, context, cond, use_reentrant=False)
        return self._forward(x, context, cond)

    def _forward(self, x: Tensor, context: AttentionContext, cond: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(cond).chunk(6, dim=1)  # [B, C] each
        x = torch.addcmul(x, gate1[:, None], self.attn(modulate(x, shift1, scale1), context))
        return torch.addcmul(x, gate2[:, None], self.ffn(modulate(x, shift2, scale2)))


@MODELS.register_module()
class DiTLLaMA(BaseBackbone):
    """Diffusion transformer with VisionLLaMA blocks: adaLN-Zero, 2D RoPE in every attention, SwiGLU.

    The network of DiT-LLaMA and SiT-LLaMA, which differ in what they are trained for (``GaussianDiffusion``,
    ``LinearInterpolant``). DiT and SiT themselves are the same class with ``position='sincos'`` and
    ``ffn_cfg=dict(type='gelu', approximate='tanh')``.

    Any latent size and aspect ratio that ``patch_size`` divides works in every call: positions are scaled onto the
    grid of the training size ``anchor`` (eq. 4). Nothing positional is stored.

    Args:
        arch: ``'S'``, ``'B'``, ``'L'`` or ``'XL'`` (Table 18), or a dict with ``embed_dims``, ``num_layers``,
            ``num_heads`` and optionally ``feedforward_channels`` (hidden size of the feed-forward layers).
        patch_size: Side of a patch in latent pixels; 2, 4 and 8 in the literature.
        in_channels: Channels of the latents.
        num_classes: Classes, without the null class.
        label_drop_prob: Probability that training replaces a label by the null class; 0 leaves that class out.
        learn_sigma: Twice the output channels, the second half for the variance.
        return_sigma: False drops that half from the output, as SiT does (its published weights have it).
        anchor: Latent size that the weights were trained at, a number or (height, width).
        position: ``'rope'``, or ``'sincos'`` for DiT's absolute embedding of the patches.
        rope_cfg: Options of :class:`~mmvisionllama.layers.AS2DRoPE`; ``scale`` applies to ``'sincos'`` too.
        ffn_cfg: ``dict(type='swiglu' | 'gelu', ...)``.
        backend: Attention backend, see :func:`~mmvisionllama.layers.attend`.
        with_cp: Activation checkpointing of every block.
        init_cfg: mmengine's initialisation config; see :class:`BaseBackbone` for ``Pretrained``.

    Raises:
        ValueError: For an unknown arch or option, and for a head dim that RoPE cannot split.

    Examples:
        >>> network = DiTLLaMA('S', patch_size=4)
        >>> network(torch.randn(2, 4, 32, 48), torch.tensor([10, 999]), torch.tensor([3, 1000])).shape
        torch.Size([2, 8, 32, 48])
    """

    arch_zoo = {
        's': dict(aliases=('small',), embed_dims=384, num_layers=12, num_heads=6),
        'b': dict(aliases=('base',), embed_dims=768, num_layers=12, num_heads=12),
        'l': dict(aliases=('large',), embed_dims=1024, num_layers=24, num_heads=16),
        'xl': dict(aliases=('xlarge',), embed_dims=1152, num_layers=28, num_heads=16),
    }
    arch_keys = ('embed_dims', 'num_layers', 'num_heads')
    arch_options = ('feedforward_channels',)

    def __init__(
        self,
        arch: Union[str, dict] = 'XL',
        patch_size: int = 2,
        in_channels: int = 4,
        num_classes: int = 1000,
        label_drop_prob: float = 0.1,
        learn_sigma: bool = True,
        return_sigma: bool = True,
        anchor: Union[int, Sequence[int]] = 32,
        position: str = 'rope',
        rope_cfg: Optional[dict] = None,
        ffn_cfg: Optional[dict] = None,
        backend: str = 'auto',
        with_cp: bool = False,
        init_cfg: Optional[Union[dict, list]] = None,
    ) -> None:
        super().__init__(init_cfg)
        settings = self.resolve_arch(arch)
        self.embed_dims: int = settings['embed_dims']
        self.num_layers: int = checked_whole('num_layers', settings['num_layers'])
        self.num_heads: int = settings['num_heads']
        check_heads(self.embed_dims, self.num_heads)
        check_flags(learn_sigma=learn_sigma, return_sigma=return_sigma, with_cp=with_cp)
        checked_whole('num_classes', num_classes)
        checked_rate('label_drop_prob', label_drop_prob)
        ffn_cfg = dict(ffn_cfg or dict(type='swiglu'))
        hidden_dims = hidden_channels(self.embed_dims, settings.get('feedforward_channels'), ffn_cfg)

        self.in_channels = in_channels
        self.num_classes = num_classes
        self.learn_sigma = learn_sigma
        self.return_sigma = return_sigma and learn_sigma
        self.position = checked_choice('position', position, POSITIONS)
        if position == 'sincos' and self.embed_dims % 4:
            raise ValueError(f"position='sincos' needs embed_dims divisible by 4, got {self.embed_dims}")

        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        self.patch_size = self.patch_embed.patch_size
        self.anchor_grid = self.token_grid(checked_sides('anchor', anchor))
        head_dim = self.embed_dims // self.num_heads
        self.rotary = made('rope_cfg', AS2DRoPE, head_dim, self.num_heads, **(rope_cfg or {}))
        if self.rotary.is_learned:
            raise OptionError("blocks of DiT share their rotary table: it takes no directions='mixed'")
        self.time_embed = TimestepEmbed(self.embed_dims)
        self.label_embed = LabelEmbed(num_classes, self.embed_dims, label_drop_prob)
        self.layers = nn.ModuleList(
            AdaLNBlock(
                RotaryAttention(self.embed_dims, self.num_heads, backend=backend),
                build_ffn(ffn_cfg, self.embed_dims, hidden_dims),
                self.embed_dims,
                with_cp=with_cp,
            )
            for _ in range(self.num_layers)
        )
        self.head_ada = nn.Linear(self.embed_dims, 2 * self.embed_dims)
        self.head_channels = in_channels * (2 if learn_sigma else 1)
        self.head = nn.Linear(self.embed_dims, self.patch_size[0] * self.patch_size[1] * self.head_channels)
        self._init_values()

    def _init_values(self) -> None:
        """DiT's initial values: every block starts as the identity, the output at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.projection.weight.view(self.embed_dims, -1))
        nn.init.zeros_(self.patch_embed.projection.bias)
        for weight in (self.label_embed.weight, self.time_embed.fc1.weight, self.time_embed.fc2.weight):
            nn.init.normal_(weight, std=0.02)
        for linear in (self.head, self.head_ada, *(layer.ada for layer in self.layers)):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.head_channels if self.return_sigma else self.in_channels

    @property
    def null_label(self) -> int:
        """Label of the null class.

        Raises:
            OptionError: If the network was built without one.
        """
        if not self.label_embed.drop_prob:
            raise OptionError('this network has no null class, so no guidance: train with label_drop_prob > 0')
        return self.num_classes

    def token_grid(self, size: Sequence[int]) -> tuple:
        """Token grid (H, W) of latents of ``size`` (height, width).

        Raises:
            OptionError: If the patch does not divide the size.
        """
        if not size_agnostic() and any(side % patch or side < patch for side, patch in zip(size, self.patch_size)):
            raise OptionError(
                f'patch size {self.patch_size[0]}x{self.patch_size[1]} does not divide the latent size '
                f'{size[0]}x{size[1]}: choose sides that are multiples of the patch '
                f'(image sides: multiples of patch x VAE factor)'
            )
        return self.patch_embed.grid(size)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predicts noise and variance (DiT) or velocity (SiT).

        Args:
            x: Noisy latents, ``(B, in_channels, height, width)``.
            t: Times, ``(B,)``: integers 0 ... 999 of the diffusion, or floats in [0, 1] of the interpolant.
            y: Labels, ``(B,)``, int64; ``num_classes`` is the null class.

        Returns:
            Tensor: ``(B, out_channels, height, width)``.

        Raises:
            ValueError: If the patch does not divide the size, for another number of channels, and unless there is one
                time and one label per image.
        """
        if t.shape != x.shape[:1] or y.shape != x.shape[:1]:
            raise OptionError(
                f'times and labels must be of shape ({x.shape[0]},), one per image, got {tuple(t.shape)} and '
                f'{tuple(y.shape)}'
            )
        grid = self.token_grid(x.shape[-2:])
        x, _ = self.patch_embed(x)  # [B, N, C]
        cond = F.silu(self.time_embed(t) + self.label_embed(y))  # [B, C]
        context = NO_CONTEXT
        if self.position == 'rope':
            context = AttentionContext(self.rotary(self.rotary.positions(grid, self.anchor_grid, x.device)))
        else:
            positions = grid_positions(grid, self.anchor_grid, self.rotary.scale, x.device)
            x = x + sincos_embedding(positions, self.embed_dims).to(x.dtype)
        for layer in self.layers:
            x = layer(x, context, cond)
        shift, scale = self.head_ada(cond).chunk(2, dim=1)
        x = self.head(modulate(x, shift, scale))  # [B, N, P * P * head_channels]
        return self.unpatchify(x, grid)

    def unpatchify(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """Tokens ``(B, H * W, P * P * head_channels)`` to ``(B, out_channels, H * P, W * P)``."""
        height, width = self.patch_size
        x = x.unflatten(2, (height, width, -1)).unflatten(1, tuple(grid))  # [B, H, W, P, P, channels]
        x = x[..., : self.out_channels].permute(0, 5, 1, 3, 2, 4)  # [B, channels, H, P, W, P]
        return x.reshape(x.shape[0], self.out_channels, grid[0] * height, grid[1] * width)

    def forward_with_cfg(self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float, cfg_channels: str = 'all') -> Tensor:
        """:meth:`forward` with classifier-free guidance, both halves in one batch.

        Args:
            x: As :meth:`forward`.
            t: As :meth:`forward`.
            y: As :meth:`forward`.
            cfg_scale: Strength; 1 is the plain conditional prediction (one evaluation instead of two).
            cfg_channels: ``'all'`` guides the prediction on all ``in_channels``; ``'first_three'`` (``'released'`` is
                accepted) on these only, as the published numbers were made. The variance stays conditional.

        Returns:
            Tensor: As :meth:`forward`.
        """
        cfg_channels = checked_choice('cfg_channels', cfg_channels, CFG_CHANNELS, CFG_CHANNELS_ALIASES)
        if cfg_scale == 1:
            return self(x, t, y)
        null = torch.full_like(y, self.null_label)
        both = self(torch.cat((x, x)), torch.cat((t, t)), torch.cat((y, null)))
        guided = min(3, self.in_channels) if cfg_channels == 'first_three' else self.in_channels
        return guide(*both.chunk(2), cfg_scale, guided)
