"""8-bit ONNX files: weights and activations of linear layers and patch projections, what needs it left in fp32.

Attention's own products, norms, residual sums and all results keep fp32. ONNX Runtime and OpenVINO run the same file.
"""

import json
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Sequence

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..layers.embed import PatchProjection
from .export import METADATA_KEY
from .extras import extra

#: weights of 7 bits: processors with AVX2 and without VNNI add two products in 16 bits, which saturate with 8
REDUCE_RANGE = True


def _fake(x: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    """``x`` rounded to ``levels`` steps from low to high."""
    step = ((high - low) / (levels - 1)).clamp(min=1e-12)
    return ((x / step).round() * step).clamp(low, high)


def linear_layers(network: nn.Module) -> Dict[str, nn.Module]:
    """Name of the weight -> linear layer or patch projection."""
    kinds = (nn.Linear, PatchProjection)
    return {f'{name}.weight': layer for name, layer in network.named_modules() if isinstance(layer, kinds)}


@torch.no_grad()
def sensitivity(network: nn.Module, images: Tensor) -> Dict[str, float]:
    """How far the output moves when one layer alone is computed in 8 bits, the most sensitive layer first.

    Args:
        network: From :func:`~mmvisionllama.deploy.export_network`.
        images: Normalised images, ``(B, C, H, W)``.

    Returns:
        dict: Name of the layer's weight -> root mean square of the difference, relative to the output's own.
    """
    (expected,) = _outputs(network, images)
    found = {}
    for name, layer in linear_layers(network).items():
        weight = layer.weight.data
        bound = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
        hook = layer.register_forward_pre_hook(lambda _, args: (_fake(args[0], *args[0].aminmax(), 256), *args[1:]))
        layer.weight.data = _fake(weight, -bound, bound, 127)
        try:
            (moved,) = _outputs(network, images)
        finally:
            layer.weight.data = weight
            hook.remove()
        found[name] = float((moved - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt().clamp(min=1e-12))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _outputs(network: nn.Module, images: Tensor) -> Sequence[Tensor]:
    out = network(images)
    return (out,) if isinstance(out, Tensor) else out


def _fold_weights(model: Any) -> Dict[str, List[str]]:
    """Stores weights in the shape in which products read them, which the quantiser takes for constants.

    Returns:
        dict: Weight -> names of the products that read it.
    """
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    source, stored = {name: name for name in values}, {weight.name: weight for weight in graph.initializer}
    products: Dict[str, List[str]] = {}
    for node in graph.node:
        if node.op_type in ('Constant', 'Concat', 'Reshape', 'Transpose') and values.keys() >= set(node.input):
            (values[node.output[0]],) = ReferenceEvaluator(node).run(None, {name: values[name] for name in node.input})
            if node.input and node.input[0] in source:
                source[node.output[0]] = source[node.input[0]]
        for name in node.input:
            if node.op_type in ('MatMul', 'Gemm') and name in source and values[name].ndim > 1:
                products.setdefault(source[name], []).append(node.name)
                stored.setdefault(name, numpy_helper.from_array(values[name].copy(), name))
    _store(graph, stored)
    return products


def _store(graph: Any, weights: Dict[str, Any]) -> None:
    """Makes these the graph's weights, without the nodes that computed them and without what nothing reads."""
    nodes, read = [], {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if weights.keys().isdisjoint(node.output) and not read.isdisjoint(node.output):
            nodes.append(node)
            read.update(node.input)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(weight for name, weight in weights.items() if name in read)


def quantize_onnx(path: Any, out: Any, images: Iterable[Tensor], keep: Iterable[str] = ()) -> Path:
    """Writes the 8-bit form of an exported ONNX file.

    Weights get a scale for each output channel, activations one for the tensor, from the smallest and largest value
    that the images give.

    Args:
        path: File of :func:`~mmvisionllama.deploy.export`.
        out: File to write.
        images: Batches of normalised images, ``(B, C, H, W)``, that the ranges are read from.
        keep: Weights whose layers stay in fp32, by the names that :func:`sensitivity` gives.

    Raises:
        OptionError: If onnx or onnxruntime is not installed, and if ``keep`` names a layer that the file does not have,
            or all.
    """
    onnx, quantization = extra('onnx'), extra('onnxruntime.quantization')

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.batches: Iterator[dict] = ({name: batch.numpy()} for batch in images)

        def get_next(self) -> Any:
            return next(self.batches, None)

    model = onnx.load(str(path))
    products = _fold_weights(model)
    keep = list(keep)
    unknown = [name for name in keep if name not in products]
    if unknown:
        raise OptionError(f'{path} has no layer with the weight {", ".join(unknown)}')
    if len(set(keep)) == len(products):
        raise OptionError('every layer is to be kept: there is nothing to quantise')
    out = Path(out)
    between = out.with_suffix('.folded.onnx')
    try:
        onnx.save(model, str(between))
        quantization.quantize_static(
            str(between),
            str(out),
            Reader(model.graph.input[0].name),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=['MatMul', 'Gemm'],
            per_channel=True,
            reduce_range=REDUCE_RANGE,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=[node for name, nodes in products.items() if name not in keep for node in nodes],
            # results in 8 bits would cost accuracy, and time where fp32 goes on: rotations, SwiGLU's product, sums
            extra_options=dict(MatMulConstBOnly=True, OpTypesToExcludeOutputQuantization=['MatMul', 'Gemm']),
        )
    finally:
        between.unlink(missing_ok=True)
    quantized = onnx.load(str(out))
    (stored,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    metadata = dict(json.loads(stored.value), int8=dict(kept=sorted(keep)))
    del quantized.metadata_props[:]
    quantized.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
    onnx.save(quantized, str(out))
    return out
