"""Released checkpoints of the MAE line: pre-training, and the plain backbone that is fine-tuned afterwards.

Both come from the release's mmpretrain code, whose backbone other code bases reuse: :func:`convert_trunk` is for them.
"""

from collections import OrderedDict
from typing import Any, Dict, List, Optional, Tuple

from ...errors import CheckpointError
from .family import Family, StateDict, as_classifier, count_layers, heads_of

TRUNK_OVERRIDES = ('num_heads', 'img_size')


def split_prefix(state_dict: StateDict) -> Tuple[str, StateDict, StateDict]:
    """``'backbone.'`` or ``''``, the backbone's weights without it, and all others."""
    prefix = 'backbone.' if any(key.startswith('backbone.') for key in state_dict) else ''
    trunk = OrderedDict((key[len(prefix) :], value) for key, value in state_dict.items() if key.startswith(prefix))
    return prefix, trunk, {key: value for key, value in state_dict.items() if not key.startswith(prefix)}


def is_trunk(trunk: StateDict) -> bool:
    """Whether this is the plain backbone of the release's mmpretrain code, by its packed feed-forward layer."""
    return 'layers.0.ffn.w12.weight' in trunk and 'patch_embed.projection.weight' in trunk


def convert_trunk(trunk: StateDict, overrides: Dict[str, Any]) -> Tuple[Dict[str, Any], StateDict]:
    """The backbone without a prefix.

    Overrides: ``num_heads`` (default: head dim 64) and ``img_size`` (default: the square that the unused ``pos_embed``
    was made for, else 224). The release knows no other size than this one; as the anchor it gives the same positions
    there and AS2DRoPE at all others.

    Returns:
        tuple: Arguments of :class:`~mmvisionllama.backbones.VisionLLaMA` but for the type, and its weights.
    """
    embed_dims, in_channels, patch_size, _ = trunk['patch_embed.projection.weight'].shape
    img_size = overrides.pop('img_size', None) or _trained_size(trunk, patch_size)
    hidden_dims = trunk['layers.0.ffn.w3.weight'].shape[1]
    cfg = dict(
        arch=dict(
            embed_dims=embed_dims,
            num_layers=count_layers(trunk, 'layers.'),
            num_heads=heads_of(embed_dims, overrides.pop('num_heads', None)),
            feedforward_channels=hidden_dims,
            ffn_bias='layers.0.ffn.w3.bias' in trunk,
        ),
        img_size=img_size,
        anchor=img_size,
        patch_size=patch_size,
        in_channels=in_channels,
        qkv_bias='layers.0.attn.qkv.bias' in trunk,
        layer_scale_init_value=0.0,
        final_norm='ln1.weight' in trunk,
    )
    weights = OrderedDict()
    for key, value in trunk.items():
        if key == 'pos_embed':
            continue  # the released forward pass never reads it
        if '.ffn.w12.' in key:
            weights[key.replace('.w12.', '.gate.')] = value[:hidden_dims]
            weights[key.replace('.w12.', '.up.')] = value[hidden_dims:]
        else:
            weights[key.replace('.ffn.w3.', '.ffn.down.')] = value
    return cfg, weights


def _trained_size(trunk: StateDict, patch_size: int) -> int:
    """Side in pixels of the square images that ``pos_embed`` was made for."""
    if 'pos_embed' not in trunk:
        return 224
    tokens = trunk['pos_embed'].shape[1] - ('cls_token' in trunk)
    side = round(tokens**0.5)
    if side * side != tokens:
        raise CheckpointError(f'pos_embed has {tokens} patches, which is no square grid: give img_size')
    return side * patch_size


def add_prefix(weights: StateDict, prefix: str) -> StateDict:
    """The weights with ``prefix`` before every key."""
    return OrderedDict((prefix + key, value) for key, value in weights.items())


def refuse(unknown: List[str], what: str) -> None:
    """Raises a CheckpointError that names the keys, if there are any."""
    if unknown:
        raise CheckpointError(
            f'{len(unknown)} keys belong to no {what} ({", ".join(unknown[:4])}{", ..." if len(unknown) > 4 else ""}): '
            f'give backbone_only=True to convert the backbone alone'
        )


def matches_mae(state_dict: StateDict) -> bool:
    """The backbone with a class token, which only the MAE encoder has, or with the MAE decoder."""
    trunk = split_prefix(state_dict)[1]
    return is_trunk(trunk) and ('cls_token' in trunk or 'neck.decoder_embed.weight' in state_dict)


def convert_mae(state_dict: StateDict, overrides: Dict[str, Any]) -> Tuple[Dict[str, Any], StateDict]:
    """Overrides: those of :func:`convert_trunk`, ``decoder_num_heads`` (default: head dim 32), ``mask_ratio`` (0.75),
    ``norm_pix`` (True) and ``backbone_only`` (False)."""
    prefix, trunk, rest = split_prefix(state_dict)
    backbone, weights = convert_trunk(trunk, overrides)
    backbone = dict(type='MAEVisionLLaMA', mask_ratio=overrides.pop('mask_ratio', 0.75), **backbone)
    decoder_num_heads = overrides.pop('decoder_num_heads', None)
    norm_pix = overrides.pop('norm_pix', True)
    if overrides.pop('backbone_only', False) or not prefix:
        return backbone, weights
    refuse([key for key in rest if not key.startswith('neck.')], 'MAE model')
    weights = add_prefix(weights, prefix)
    model = dict(type='MAE', backbone=backbone)
    if rest:
        model['neck'] = _decoder(rest, backbone, decoder_num_heads)
        weights.update(rest)
    model['head'] = dict(
        type='MAEPretrainHead',
        norm_pix=norm_pix,
        patch_size=backbone['patch_size'],
        in_channels=backbone['in_channels'],
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    )
    return model, weights


def _decoder(weights: StateDict, backbone: Dict[str, Any], num_heads: Optional[int]) -> Dict[str, Any]:
    dims, embed_dims = weights['neck.decoder_embed.weight'].shape
    return dict(
        type='MAEPretrainDecoder',
        num_patches=weights['neck.decoder_pos_embed'].shape[1] - 1,
        patch_size=backbone['patch_size'],
        in_chans=backbone['in_channels'],
        embed_dim=embed_dims,
        decoder_embed_dim=dims,
        decoder_depth=count_layers(weights, 'neck.decoder_blocks.'),
        decoder_num_heads=heads_of(dims, num_heads, head_dim=32),
        mlp_ratio=weights['neck.decoder_blocks.0.ffn.layers.0.0.weight'].shape[0] / dims,
    )


def matches_plain(state_dict: StateDict) -> bool:
    """The same backbone without a class token."""
    return is_trunk(split_prefix(state_dict)[1])


def convert_plain(state_dict: StateDict, overrides: Dict[str, Any]) -> Tuple[Dict[str, Any], StateDict]:
    """Overrides: those of :func:`convert_trunk`, ``out_type`` (default: ``'avg_featmap'`` if its norm is there, else
    ``'featmap'``), ``final_norm`` (default: whether its weights are there), ``out_indices`` and ``backbone_only``; and
    of the detector's copy, whose keys do not tell it, ``window_block_indexes`` and ``window_size`` (14)."""
    prefix, trunk, rest = split_prefix(state_dict)
    backbone, weights = convert_trunk(trunk, overrides)
    out_type = overrides.pop('out_type', 'avg_featmap' if 'ln2.weight' in trunk else 'featmap')
    backbone = dict(type='VisionLLaMA', **backbone)
    backbone.update(with_cls_token=False, out_type=out_type, out_indices=overrides.pop('out_indices', -1))
    backbone['final_norm'] = overrides.pop('final_norm', backbone['final_norm'])
    windowed = overrides.pop('window_block_indexes', ())
    window_size = overrides.pop('window_size', 14)
    if windowed:
        backbone.update(window_size=window_size, window_block_indexes=list(windowed), mask_padding=False)
    for norm, used in (('ln1.', backbone['final_norm']), ('ln2.', out_type == 'avg_featmap')):
        if not used:
            weights = OrderedDict((key, value) for key, value in weights.items() if not key.startswith(norm))
    if overrides.pop('backbone_only', False) or not prefix:
        return backbone, weights

    head = {key.replace('head.layers.head.', 'head.fc.'): value for key, value in rest.items()}
    norm = {key: value for key, value in head.items() if key.startswith('neck.bn.')}
    linear = {key.replace('head.fc.', 'head.'): value for key, value in head.items() if key.startswith('head.fc.')}
    refuse([key for key in head if key not in norm and not key.startswith('head.fc.')], 'classifier')
    model, weights = as_classifier(backbone, {**add_prefix(weights, prefix), **norm}, linear)
    if norm:
        embed_dims = backbone['arch']['embed_dims']
        model['neck'] = dict(type='ClsBatchNormNeck', input_features=embed_dims, affine='neck.bn.weight' in norm)
    return model, weights


FAMILY = Family(
    'mae', matches_mae, convert_mae, (*TRUNK_OVERRIDES, 'decoder_num_heads', 'mask_ratio', 'norm_pix', 'backbone_only')
)
PLAIN_FAMILY = Family(
    'mm_plain',
    matches_plain,
    convert_plain,
    (
        *TRUNK_OVERRIDES,
        'out_type',
        'final_norm',
        'out_indices',
        'window_size',
        'window_block_indexes',
        'backbone_only',
    ),
)
