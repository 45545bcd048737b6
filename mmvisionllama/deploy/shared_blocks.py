"""Pyramids in ONNX: of a stage's blocks that differ in their weights alone, one is traced and serves for all.

Tracing with dynamic sizes costs seconds a block. Here every block becomes one node of the graph, and the traced ones
the functions that these nodes call; inlined they give the graph that tracing every block would.
"""

from typing import Any, Callable, List, Tuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from ..backbones import PyramidVisionLLaMA

DOMAIN = 'mmvisionllama'


class BlockCall(nn.Module):
    """A node in the place of a block: tokens ``(B, H * W, C)`` and a tensor of shape ``(H, W)`` to tokens."""

    def __init__(self, block: nn.Module, function: str) -> None:
        super().__init__()
        self.function = function
        # the block's own, so that its weights keep their names in the file
        for kind in ('_parameters', '_buffers', '_modules', '_non_persistent_buffers_set'):
            getattr(self, kind).update(getattr(block, kind))

    def forward(self, x: Tensor, sizes: Tensor) -> Tensor:
        maps = x.unflatten(1, sizes.shape)
        inputs = (maps, sizes, *(weight for _, weight in _weights(self)))
        name = f'{DOMAIN}::{self.function}'
        return torch.onnx.ops.symbolic(name, inputs, dtype=x.dtype, shape=maps.shape, version=1).flatten(1, 2)


class LoneBlocks(nn.Module):
    """A block of each kind of a stage, side by side, which make their contexts.

    Maps ``(B, H, W, C)`` and a tensor of shape ``(H, W)`` to the output ``(B, H, W, C)`` of each.
    """

    def __init__(self, backbone: PyramidVisionLLaMA, stage: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(backbone.stages[stage][:2])
        self._context = lambda *args: backbone.context(stage, *args)

    def forward(self, maps: Tensor, sizes: Tensor) -> Tuple[Tensor, ...]:
        torch._check(maps.shape[1] == sizes.shape[0] and maps.shape[2] == sizes.shape[1])
        contexts = [self._context(kind, sizes.shape, maps.device, maps.dtype) for kind in range(len(self.blocks))]
        outputs = (block(maps.flatten(1, 2), context) for block, context in zip(self.blocks, contexts))
        return tuple(x.unflatten(1, sizes.shape) for x in outputs)


def _weights(block: nn.Module) -> List[Tuple[str, Tensor]]:
    return [*block.named_parameters(), *block.named_buffers()]


def share_blocks(network: nn.Module, to_onnx: Callable[..., Any]) -> List[Any]:
    """Replaces the blocks of pyramids by calls, in place.

    Args:
        network: An exported network.
        to_onnx: ``to_onnx(module, example, dynamic_shapes)`` makes an ``onnx_ir.Model`` of a module.

    Returns:
        list: The functions that are called (``onnx_ir.Function``) and those that they call, for :func:`inline`.
    """
    functions = []
    for backbone in [module for module in network.modules() if isinstance(module, PyramidVisionLLaMA)]:
        for stage, blocks in enumerate(backbone.stages[: max(backbone.out_indices) + 1]):
            lone, example = LoneBlocks(backbone, stage), torch.randn(2, 23, 31, backbone.embed_dims[stage])
            # no two of batch, rows and columns are related
            axes = dict.fromkeys(range(3), Dim.DYNAMIC), dict.fromkeys(range(2), Dim.DYNAMIC)
            model = to_onnx(lone.eval(), (example, example[0, ..., 0]), axes)
            functions += model.functions.values()
            for kind, block in enumerate(lone.blocks):
                functions.append(_as_function(model, kind, block, f'block_{len(functions)}'))
                for index in range(kind, len(blocks), 2):
                    blocks[index] = BlockCall(blocks[index], functions[-1].name)
        # the same node for all blocks of a stage: what the functions make from its shape is merged afterwards
        backbone.context = lambda stage, block, grid, *args: torch.zeros(()).expand(grid)
    return functions


def _as_function(model: Any, kind: int, block: nn.Module, name: str) -> Any:
    """One of the blocks of a graph, with its weights as inputs in the order of its calls."""
    import onnx_ir
    from onnx_ir.passes import common

    graph = model.graph.clone()
    graph.outputs[:] = [graph.outputs[kind]]
    common.RemoveUnusedNodesPass()(onnx_ir.Model(graph, ir_version=model.ir_version))
    values, weights = dict(graph.initializers), [f'blocks.{kind}.{key}' for key, _ in _weights(block)]
    for key, value in values.items():
        del graph.initializers[key]
        if key not in weights:  # functions have no initializers
            constant = onnx_ir.node('Constant', [], dict(value=value.const_value))
            graph.insert_before(graph[0], constant)
            value.replace_all_uses_with(constant.outputs[0])
    graph.inputs.extend(values.get(key, onnx_ir.Value(name=key)) for key in weights)
    function = onnx_ir.Function(DOMAIN, name, graph=graph, attributes=[])
    function.opset_imports.update(model.opset_imports)
    return function


def inline(model: Any, functions: List[Any]) -> None:
    """Puts the functions of :func:`share_blocks` where an ``onnx_ir.Model`` calls them."""
    from onnx_ir.passes import common

    model.functions.update({function.identifier(): function for function in functions})
    model.opset_imports[DOMAIN] = 1
    common.InlinePass()(model)
    del model.opset_imports[DOMAIN]
