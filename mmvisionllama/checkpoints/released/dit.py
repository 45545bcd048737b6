"""Released DiT-LLaMA and SiT-LLaMA, and the DiT and SiT they are compared with (docs/paper_vs_release.md).

The two objectives train the same network, so their checkpoints have the same keys and shapes: the caller says which
one a file is.
"""

import math
from typing import Any, Dict, Tuple

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...layers import grid_positions, sincos_embedding
from .family import Family, StateDict, count_layers, heads_of, rename

RULES = (
    ('x_embedder.proj.', 'patch_embed.projection.'),
    ('t_embedder.mlp.0.', 'time_embed.fc1.'),
    ('t_embedder.mlp.2.', 'time_embed.fc2.'),
    ('y_embedder.embedding_table.', 'label_embed.'),
    ('final_layer.adaLN_modulation.1.', 'head_ada.'),
    ('final_layer.linear.', 'head.'),
    ('blocks.', 'layers.'),
    ('.adaLN_modulation.1.', '.ada.'),
    ('.mlp.c_fc1.', '.ffn.gate.'),
    ('.mlp.c_fc2.', '.ffn.up.'),
    ('.mlp.c_proj.', '.ffn.down.'),
    ('.mlp.fc1.', '.ffn.up.'),
    ('.mlp.fc2.', '.ffn.down.'),
)
OVERRIDES = ('num_heads', 'anchor')


def matches(state_dict: StateDict) -> bool:
    """adaLN blocks between a patch and a label embedding."""
    return 'x_embedder.proj.weight' in state_dict and 'blocks.0.adaLN_modulation.1.weight' in state_dict


def _anchor(state_dict: StateDict, patch_size: int, given) -> int:
    """Latent size of the training: given, or told by the stored position embedding, or the published 32."""
    if given is not None:
        return given
    if 'pos_embed' not in state_dict:
        return 32
    return math.isqrt(state_dict['pos_embed'].shape[1]) * patch_size


def _check_sincos(pos_embed: Tensor, anchor: int, patch_size: int) -> None:
    """DiT stores its fixed embedding; the network computes it."""
    side = anchor // patch_size
    expected = sincos_embedding(grid_positions((side, side)), pos_embed.shape[-1])
    if pos_embed.shape[1:] != expected.shape or not torch.allclose(pos_embed[0].float(), expected, atol=1e-4):
        raise CheckpointError(
            f'the stored position embedding {tuple(pos_embed.shape)} is not the 2D sin-cos table of a {side}x{side} '
            f'grid, which the network computes: give the latent size of the training as anchor'
        )


def network_of(state_dict: StateDict, overrides: Dict[str, Any]) -> Tuple[Dict[str, Any], StateDict]:
    """Config and weights of the network alone; pops ``num_heads`` and ``anchor``."""
    embed_dims, in_channels, patch_size, _ = state_dict['x_embedder.proj.weight'].shape
    is_llama = 'blocks.0.mlp.c_fc1.weight' in state_dict
    up = state_dict['blocks.0.mlp.c_fc1.weight' if is_llama else 'blocks.0.mlp.fc1.weight']
    anchor = _anchor(state_dict, patch_size, overrides.pop('anchor', None))
    head_channels = state_dict['final_layer.linear.weight'].shape[0] // patch_size**2
    network = dict(
        type='DiTLLaMA',
        arch=dict(
            embed_dims=embed_dims,
            num_layers=count_layers(state_dict, 'blocks.'),
            num_heads=heads_of(embed_dims, overrides.pop('num_heads', None), 72 if embed_dims == 1152 else 64),
            feedforward_channels=up.shape[0],
        ),
        patch_size=patch_size,
        in_channels=in_channels,
        num_classes=state_dict['y_embedder.embedding_table.weight'].shape[0] - 1,
        learn_sigma=head_channels == 2 * in_channels,
        anchor=anchor,
    )
    if not is_llama:
        network.update(position='sincos', ffn_cfg=dict(type='gelu', approximate='tanh'))
        if 'pos_embed' in state_dict:
            _check_sincos(state_dict['pos_embed'], anchor, patch_size)
    weights = rename(state_dict, RULES, drop=('pos_embed',))  # without effect in the LLaMA networks
    return network, {f'network.{key}': value for key, value in weights.items()}


def convert_dit(state_dict: StateDict, overrides: Dict[str, Any]) -> Tuple[Dict[str, Any], StateDict]:
    """Overrides: ``num_heads`` (default: head dim 64, 72 for XL), ``anchor`` (latent size of the training)."""
    network, weights = network_of(state_dict, overrides)
    objective = dict(type='GaussianDiffusion', learn_sigma=network['learn_sigma'])
    return _generator(network, objective, dict(type='DDPMSampler', num_steps=250)), weights


def convert_sit(state_dict: StateDict, overrides: Dict[str, Any]) -> Tuple[Dict[str, Any], StateDict]:
    """Overrides as :func:`convert_dit`."""
    network, weights = network_of(state_dict, overrides)
    network['return_sigma'] = False
    return _generator(network, dict(type='LinearInterpolant'), dict(type='SDESampler', num_steps=250)), weights


def _generator(network: dict, objective: dict, sampler: dict) -> Dict[str, Any]:
    codec = dict(type='VAECodec' if network['in_channels'] == 4 else 'PixelCodec')
    # the published images and numbers were made with guidance of the first three channels
    return dict(
        type='ImageGenerator',
        network=network,
        objective=objective,
        sampler=sampler,
        codec=codec,
        cfg_channels='first_three',
    )


FAMILY = Family('dit', matches, convert_dit, OVERRIDES, twins=('sit',))
SIT_FAMILY = Family('sit', matches, convert_sit, OVERRIDES, twins=('dit',))
