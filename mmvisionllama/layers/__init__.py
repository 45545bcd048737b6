"""Layers in plain PyTorch, one idea a file: rotary embedding, attention, feed-forward, norms and the block."""

from .as2drope import AS2DRoPE, RotaryEmbedding, axis_scales, grid_positions
from .attention import (
    AttentionContext,
    RotaryAttention,
    attend,
    attention_weights,
    gather_context,
    placed_context,
)
from .attention_backends import (
    ATTENTION_BACKENDS,
    AttentionBackend,
    AttentionSpec,
    register_attention,
    use_attention,
)
from .block import DropPath, TransformerBlock
from .causal_attention import causal_context, soft_mask_matrix
from .embed import PEG, PatchEmbed, resize_pos_embed, sincos_embedding, sinusoid
from .feedforward import GELUFFN, SwiGLU, build_ffn, swiglu_hidden
from .graph import keep_in_graph
from .kernels import use_kernels
from .layer_scale import LayerScale
from .logit_scale import log_n_scale
from .norm import RMSNorm, build_norm
from .options import checked_choice, to_2tuple
from .position_augmentation import PositionAugmentation
from .position_calibration import GSAPositionCalibration
from .rotary import RotaryTable, apply_rotary, gather_table, rotate_qkv
from .segments import Segments
from .subsampled_attention import GlobalSubsampledAttention
from .valid_grid import ImageSizes, ValidGrid
from .window_attention import WindowAttention, merge_windows, partition_windows, window_context

#: earlier names: every attention has one signature and one context now
CausalAttention = RotaryAttention
CausalContext = SubsampledContext = WindowContext = AttentionContext

__all__ = [
    'AS2DRoPE',
    'ATTENTION_BACKENDS',
    'AttentionBackend',
    'AttentionContext',
    'AttentionSpec',
    'CausalAttention',
    'CausalContext',
    'DropPath',
    'GELUFFN',
    'GSAPositionCalibration',
    'GlobalSubsampledAttention',
    'ImageSizes',
    'LayerScale',
    'PEG',
    'PatchEmbed',
    'PositionAugmentation',
    'RMSNorm',
    'RotaryAttention',
    'RotaryEmbedding',
    'RotaryTable',
    'Segments',
    'SubsampledContext',
    'SwiGLU',
    'TransformerBlock',
    'ValidGrid',
    'WindowAttention',
    'WindowContext',
    'apply_rotary',
    'attend',
    'attention_weights',
    'axis_scales',
    'build_ffn',
    'build_norm',
    'causal_context',
    'checked_choice',
    'gather_context',
    'gather_table',
    'grid_positions',
    'keep_in_graph',
    'log_n_scale',
    'merge_windows',
    'partition_windows',
    'placed_context',
    'register_attention',
    'resize_pos_embed',
    'rotate_qkv',
    'sincos_embedding',
    'sinusoid',
    'soft_mask_matrix',
    'swiglu_hidden',
    'to_2tuple',
    'use_attention',
    'use_kernels',
    'window_context',
]
