"""Released pyramid models: the classifier, and the segmentation and detection backbones (docs/paper_vs_release.md)."""

from typing import Any, Dict, Tuple

from ...errors import CheckpointError
from .family import Family, StateDict, as_classifier, count_layers, heads_of, rename
from .plain import RULES as BLOCK_RULES

RULES = (
    ('blocks.', 'stages.'),
    ('norm_list.', 'norms.'),
    *(rule for rule in BLOCK_RULES if rule[0].startswith('.')),
    *((f'patch_embeds.{s}.proj.', f'patch_embeds.{s}.projection.') for s in range(4)),
)
HEAD_DIM = 32
PREFIX = 'backbone.'


def backbone_part(state_dict: StateDict) -> StateDict:
    """The backbone's keys of a whole segmentor or detector; other state dicts as they are."""
    if not any(key.startswith(PREFIX) for key in state_dict):
        return state_dict
    return {key[len(PREFIX) :]: value for key, value in state_dict.items() if key.startswith(PREFIX)}


def matches(state_dict: StateDict) -> bool:
    """Several patch embeddings and SwiGLU blocks that carry a stage and a block index."""
    return {'patch_embeds.0.proj.weight', 'blocks.0.0.mlp.c_fc1.weight'} <= backbone_part(state_dict).keys()


def convert(state_dict: StateDict, overrides: Dict[str, Any]) -> Tuple[Dict[str, Any], StateDict]:
    """A classifier if there is a final norm, else the bare backbone with a norm per stage (the dense copies; of a whole
    segmentor or detector the backbone alone, since its other parts are the library's own).

    Overrides: ``num_heads`` (one per stage; default: head dim 32), ``img_size`` (224), ``window_size`` (7),
    ``auto_scale`` (the release's scaling; False for classifiers, True with stage norms, as the released configs), and
    ``use_ntk`` (the NTK-aware alpha of the queries).
    """
    state_dict = backbone_part(state_dict)
    stages = count_layers(state_dict, 'patch_embeds.')
    depths = [count_layers(state_dict, f'blocks.{s}.') for s in range(stages)]
    embeds = [state_dict[f'patch_embeds.{s}.proj.weight'] for s in range(stages)]  # [C, C', p, p] each
    embed_dims = [weight.shape[0] for weight in embeds]
    num_heads = overrides.pop('num_heads', None) or [None] * stages
    if isinstance(num_heads, int) or len(num_heads) != stages:
        raise CheckpointError(f'num_heads must have one value for each of the {stages} stages, got {num_heads}')
    reductions = [state_dict.get(f'blocks.{s}.1.attn.sr.weight') for s in range(stages)]
    dense = 'norm_list.0.weight' in state_dict
    auto_scale = overrides.pop('auto_scale', dense)
    ntk_alpha = overrides.pop('use_ntk', None)
    if ntk_alpha:
        rope_cfg = dict(scale='none', ntk_alpha=ntk_alpha, ntk_keys='plain_base')
    else:
        # the release scales by 14 / H in every stage, whatever the stage's grid was in training
        rope_cfg = dict(scale='height', anchor_grid=(14, 14)) if auto_scale else dict(scale='none')
    backbone = dict(
        type='PyramidVisionLLaMA',
        arch=dict(
            embed_dims=embed_dims,
            depths=depths,
            num_heads=[heads_of(dims, heads, HEAD_DIM) for dims, heads in zip(embed_dims, num_heads)],
            patch_sizes=[weight.shape[-1] for weight in embeds],
            window_sizes=[overrides.pop('window_size', 7)] * stages,
            sr_ratios=[1 if weight is None else weight.shape[-1] for weight in reductions],
            feedforward_channels=[state_dict[f'blocks.{s}.0.mlp.c_fc1.weight'].shape[0] for s in range(stages)],
        ),
        img_size=overrides.pop('img_size', 224),
        in_channels=embeds[0].shape[1],
        qkv_bias='blocks.0.0.attn.qkv.bias' in state_dict,
        layer_scale_init_value=1e-4 if 'blocks.0.0.gamma_1' in state_dict else 0.0,
        rope_cfg=rope_cfg,
        key_position='flat_index',
        mask_padding=False,
    )
    head = {key: value for key, value in state_dict.items() if key.startswith('head.')}
    body = {key: value for key, value in state_dict.items() if key not in head}
    if dense:
        backbone.update(out_indices=list(range(stages)), norm_after_stage='in_trunk')
        return backbone, rename(body, RULES)

    backbone.update(out_indices=[stages - 1], out_type='avg_featmap', gap_norm='twice')
    final_norm = f'norms.{stages - 1}.'
    body = {final_norm + key[len('norm.') :] if key.startswith('norm.') else key: v for key, v in body.items()}
    converted = {PREFIX + key: value for key, value in rename(body, RULES).items()}
    return as_classifier(backbone, converted, head)


FAMILY = Family('pyramid', matches, convert, ('num_heads', 'img_size', 'window_size', 'auto_scale', 'use_ntk'))
