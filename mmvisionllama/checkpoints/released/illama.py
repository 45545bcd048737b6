"""Released iLLaMA classifiers (docs/paper_vs_release.md)."""

import math
from typing import Any, Dict, Tuple

from ...errors import CheckpointError
from .family import Family, StateDict, as_classifier, count_layers, heads_of, rename

RULES = (
    ('patch_embed.proj.', 'patch_embed.projection.'),
    ('blocks.', 'layers.'),
    ('.norm1.', '.ln1.'),
    ('.norm2.', '.ln2.'),
    ('.mlp.fc1.', '.ffn.gate.'),
    ('.mlp.fc3.', '.ffn.up.'),
    ('.mlp.fc2.', '.ffn.down.'),
)


def matches(state_dict: StateDict) -> bool:
    """ViT blocks whose feed-forward layer has a third linear."""
    return 'patch_embed.proj.weight' in state_dict and 'blocks.0.mlp.fc3.weight' in state_dict


def image_size(num_patches: int, patch_size: int, given: Any) -> Any:
    """``given``, or the side of the square image with that many patches."""
    if given is not None:
        return given
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise CheckpointError(f'pos_embed has {num_patches} patch positions, no square grid: give img_size')
    return side * patch_size


def convert(state_dict: StateDict, overrides: Dict[str, Any]) -> Tuple[Dict[str, Any], StateDict]:
    """Overrides: ``num_heads`` (default: head dim 64), ``img_size`` (default: the square one that the position
    embedding fits), ``mask_mode`` (default ``'multiplicative'``, which the weights were trained
    with)."""
    embed_dims, in_channels, patch_size, _ = state_dict['patch_embed.proj.weight'].shape
    img_size = image_size(state_dict['pos_embed'].shape[1] - 1, patch_size, overrides.pop('img_size', None))
    backbone = dict(
        type='iLLaMA',
        arch=dict(
            embed_dims=embed_dims,
            num_layers=count_layers(state_dict, 'blocks.'),
            num_heads=heads_of(embed_dims, overrides.pop('num_heads', None)),
            feedforward_channels=state_dict['blocks.0.mlp.fc1.weight'].shape[0],
        ),
        img_size=img_size,
        patch_size=patch_size,
        in_channels=in_channels,
        qkv_bias='blocks.0.attn.qkv.bias' in state_dict,
        mask_mode=overrides.pop('mask_mode', 'multiplicative'),
        rope_scale='none',
    )
    head = {k: v for k, v in state_dict.items() if k.startswith('head.')}
    body = rename({k: v for k, v in state_dict.items() if k not in head}, RULES)
    converted = {
        'backbone.' + ('ln1.' + key[len('norm.') :] if key.startswith('norm.') else key): value
        for key, value in body.items()
    }
    return as_classifier(backbone, converted, head)


FAMILY = Family('illama', matches, convert, ('num_heads', 'img_size', 'mask_mode'))
