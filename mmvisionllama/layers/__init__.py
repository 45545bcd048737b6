"""Layers in plain PyTorch: rotary embedding, attention, feed-forward, norms and the block."""

from .attention import RotaryAttention, attend, attention_weights
from .block import DropPath, TransformerBlock
from .causal import CausalAttention, CausalContext, soft_mask_matrix
from .embed import PEG, PatchEmbed, resize_pos_embed
from .feedforward import GELUFFN, SwiGLU, build_ffn, swiglu_hidden
from .layer_scale import LayerScale, scaled_linear
from .local_global import GlobalSubsampledAttention, GSAPositionCalibration, SubsampledContext
from .norm import build_norm
from .rotary import (
    RotaryEmbedding,
    RotaryTable,
    apply_rotary,
    axis_scales,
    gather_table,
    grid_positions,
    sequence_positions,
)
from .window import WindowAttention, WindowContext, merge_windows, partition_windows, window_context

__all__ = [
    'CausalAttention',
    'CausalContext',
    'DropPath',
    'GELUFFN',
    'GSAPositionCalibration',
    'GlobalSubsampledAttention',
    'LayerScale',
    'PEG',
    'PatchEmbed',
    'RotaryAttention',
    'RotaryEmbedding',
    'RotaryTable',
    'SubsampledContext',
    'SwiGLU',
    'TransformerBlock',
    'WindowAttention',
    'WindowContext',
    'apply_rotary',
    'attend',
    'attention_weights',
    'axis_scales',
    'build_ffn',
    'build_norm',
    'gather_table',
    'grid_positions',
    'merge_windows',
    'partition_windows',
    'resize_pos_embed',
    'scaled_linear',
    'sequence_positions',
    'soft_mask_matrix',
    'swiglu_hidden',
    'window_context',
]
