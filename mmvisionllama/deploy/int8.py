"""8-bit ONNX files: weights and activations of the linear layers, the layers that need it left in fp32.

Attention's own products, norms and residual sums keep fp32. ONNX Runtime and OpenVINO run the same file.
"""

import json
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Sequence

import torch
from torch import Tensor, nn

from .export import METADATA_KEY
from .extras import extra

#: weights of 7 bits: processors with AVX2 and without VNNI add two products in 16 bits, which saturate with 8
REDUCE_RANGE = True


def _fake(x: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    """``x`` rounded to ``levels`` steps from low to high."""
    step = ((high - low) / (levels - 1)).clamp(min=1e-12)
    return ((x / step).round() * step).clamp(low, high)


def linear_layers(network: nn.Module) -> Dict[str, nn.Linear]:
    """Name of the weight -> layer."""
    return {f'{name}.weight': layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}


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
        bound = weight.abs().amax(1, keepdim=True)
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


def _fold_transposes(model: Any) -> Dict[str, List[str]]:
    """Stores transposed weights transposed, which the quantiser takes for constants.

    Returns:
        dict: Weight -> names of the products that read it.
    """
    from onnx import numpy_helper

    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    folded = {}
    for node in [node for node in graph.node if node.op_type == 'Transpose' and node.input[0] in weights]:
        source = weights[node.input[0]]
        order = next((list(a.ints) for a in node.attribute if a.name == 'perm'), None)
        array = numpy_helper.to_array(source).transpose(order)
        graph.initializer.append(numpy_helper.from_array(array.copy(), node.output[0]))
        folded[node.output[0]] = source.name
        graph.node.remove(node)
    still_read = {name for node in graph.node for name in node.input}
    for name in set(folded.values()) - still_read:
        graph.initializer.remove(weights[name])
    products: Dict[str, List[str]] = {}
    for node in graph.node:
        for name in node.input:
            if node.op_type in ('MatMul', 'Gemm') and (name in folded or name in weights):
                products.setdefault(folded.get(name, name), []).append(node.name)
    return products


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
        OptionError: If onnx or onnxruntime is not installed.
        ValueError: If ``keep`` names a layer that the file does not have, or all.
    """
    onnx, quantization = extra('onnx'), extra('onnxruntime.quantization')

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.batches: Iterator[dict] = ({name: batch.numpy()} for batch in images)

        def get_next(self) -> Any:
            return next(self.batches, None)

    model = onnx.load(str(path))
    products = _fold_transposes(model)
    keep = list(keep)
    unknown = [name for name in keep if name not in products]
    if unknown:
        raise ValueError(f'{path} has no layer with the weight {", ".join(unknown)}')
    if len(set(keep)) == len(products):
        raise ValueError('every layer is to be kept: there is nothing to quantise')
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
            extra_options=dict(MatMulConstBOnly=True),
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
