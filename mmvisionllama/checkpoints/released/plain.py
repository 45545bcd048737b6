"""Released plain classifiers, trained with supervision (docs/paper_vs_release.md)."""

from typing import Any, Dict, Tuple

from .family import Family, StateDict, as_classifier, count_layers, heads_of, rename

RULES = (
    ('patch_embed.proj.', 'patch_embed.projection.'),
    ('blocks.', 'layers.'),
    ('.gamma_1', '.ls1.weight'),
    ('.gamma_2', '.ls2.weight'),
    ('.norm1.', '.ln1.'),
    ('.norm2.', '.ln2.'),
    ('.mlp.c_fc1.', '.ffn.gate.'),
    ('.mlp.c_fc2.', '.ffn.up.'),
    ('.mlp.c_proj.', '.ffn.down.'),
)


def matches(state_dict: StateDict) -> bool:
    """Plain blocks with SwiGLU, no adaLN and no second patch embedding."""
    return 'patch_embed.proj.weight' in state_dict and 'blocks.0.mlp.c_fc1.weight' in state_dict


def convert(state_dict: StateDict, overrides: Dict[str, Any]) -> Tuple[Dict[str, Any], StateDict]:
    """Overrides: ``num_heads`` (default: head dim 64), ``img_size`` (224), ``auto_scale`` (False; True for the weights
    that were trained or evaluated with the release's scaling), ``cls_position`` (``'above_top_right'``;
    ``'top_right'`` for weights trained with torch < 1.13)."""
    embed_dims, in_channels, patch_size, _ = state_dict['patch_embed.proj.weight'].shape
    has_token = 'cls_token' in state_dict
    has_scale = 'blocks.0.gamma_1' in state_dict
    img_size = overrides.pop('img_size', 224)
    backbone = dict(
        type='VisionLLaMA',
        arch=dict(
            embed_dims=embed_dims,
            num_layers=count_layers(state_dict, 'blocks.'),
            num_heads=heads_of(embed_dims, overrides.pop('num_heads', None)),
            feedforward_channels=state_dict['blocks.0.mlp.c_fc1.weight'].shape[0],
        ),
        img_size=img_size,
        patch_size=patch_size,
        in_channels=in_channels,
        qkv_bias='blocks.0.attn.qkv.bias' in state_dict,
        with_cls_token=has_token,
        layer_scale_init_value=1e-4 if has_scale else 0.0,
        rope_cfg=dict(scale='height' if overrides.pop('auto_scale', False) else 'none'),
    )
    if has_token:
        backbone.update(
            out_type='cls_token', cls_position=overrides.pop('cls_position', 'above_top_right'), final_norm=True
        )
    else:  # the mean comes before the norm
        backbone.update(out_type='avg_featmap', final_norm=False)

    head = {k: v for k, v in state_dict.items() if k.startswith('head.')}
    body = rename({k: v for k, v in state_dict.items() if k not in head}, RULES)
    final_norm = 'backbone.ln1.' if has_token else 'backbone.ln2.'
    converted = {}
    for key, value in body.items():
        key = final_norm + key[len('norm.') :] if key.startswith('norm.') else 'backbone.' + key
        converted[key] = value
    return as_classifier(backbone, converted, head)


FAMILY = Family('plain', matches, convert, ('num_heads', 'img_size', 'auto_scale', 'cls_position'))
