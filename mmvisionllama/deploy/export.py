"""Exporting: ``torch.export`` with dynamic batch, height and width first, every other format from that program."""

import contextlib
import copy
import json
import os
import time
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..errors import OptionError
from ..version import __version__
from .extras import extra
from .networks import Network
from .shared_blocks import inline, share_blocks

#: target -> (suffix of its file, libraries that write it)
TARGETS = {
    'torch': ('.pt2', ()),
    'aoti': ('.pt2', ()),
    'onnx': ('.onnx', ('onnx', 'onnxscript')),
    'openvino': ('.xml', ('onnx', 'onnxscript', 'openvino')),
}
DEFAULT_OPSET = 20
#: what torch's exporter is written for, and the last one that onnxscript brings its graphs to
OPSETS = (18, 25)
#: bytes of weights in an ONNX file, one message of protobuf's 2 GiB; the rest is for the graph
ONNX_LIMIT = 2**31 - 2**24
#: under this name every file carries its description, as JSON
METADATA_KEY = 'mmvisionllama'


class Export(NamedTuple):
    """What :func:`export` wrote.

    Attributes:
        path (Path): The file.
        seconds (float): What it took.
    """

    path: Path
    seconds: float


def check_target(target: str) -> None:
    """Raises an OptionError for an unknown target, or for one whose libraries are missing."""
    if target not in TARGETS:
        raise OptionError(f'unknown export target {target!r}: choose one of {", ".join(TARGETS)}')
    if torch.__version__ < '2.9':  # torch's versions compare with such
        raise OptionError(f'exporting needs torch >= 2.9, and torch {torch.__version__} is installed')
    for library in TARGETS[target][1]:
        extra(library)


def target_path(path: Any, target: str) -> Path:
    """``path`` with the target's suffix, which is added where it is missing."""
    path, suffix = Path(path), TARGETS[target][0]
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def check_weights(network: Network, target: str) -> None:
    """Raises an OptionError for weights that are too large for the target's file."""
    size = sum(weight.nbytes for weight in (*network.parameters(), *network.buffers()))
    if 'onnx' in TARGETS[target][1] and size > ONNX_LIMIT:
        fitting = [name for name, (_, libraries) in TARGETS.items() if 'onnx' not in libraries]
        raise OptionError(
            f"the weights take {size / 2**30:.1f} GiB, and ONNX files, which OpenVINO's are made from, hold 2 GiB at "
            f'most: export to {" or ".join(fitting)}'
        )


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A name beside ``path`` for a file that has yet to be judged.

    It takes the place of ``path`` when the block ends, and is removed where an error ends it.
    """
    aside = path.with_name(f'{path.stem}.partial{path.suffix}')
    suffixes = ('.bin', '.xml') if path.suffix == '.xml' else (path.suffix,)  # OpenVINO goes by the name alone
    try:
        yield aside
        for suffix in suffixes:
            os.replace(aside.with_suffix(suffix), path.with_suffix(suffix))
    finally:
        for suffix in suffixes:
            aside.with_suffix(suffix).unlink(missing_ok=True)


def export_program(network: Network) -> ExportedProgram:
    """``torch.export`` of a network, with the axes dynamic that it names."""
    shapes = tuple(dict.fromkeys(axes, Dim.DYNAMIC) for axes in network.input_axes)
    return _trace(network, network.example(), shapes)


def _trace(module: nn.Module, example: Tuple[Tensor, ...], shapes: Tuple[dict, ...]) -> ExportedProgram:
    # the cache of fake results costs a pyramid a third of its tracing, for hardly two of its shapes are equal
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    # sizes of 0 and 1 are no special cases: one program serves a batch of one image and grids of one row
    oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)
    with torch.no_grad(), oblivious, uncached:
        program = torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
    program.graph.eliminate_dead_code()  # such as the dtypes that were asked for
    return program


def describe(network: Network, info: Optional[dict] = None) -> Dict[str, Any]:
    """What a file says of itself: task, names, versions, and ``info`` (classes, normalisation, anchor, config)."""
    anchor = next((list(m.anchor_grid) for m in network.modules() if hasattr(m, 'anchor_grid')), None)
    return {
        'task': network.task,
        'inputs': list(network.input_names),
        'outputs': list(network.output_names),
        'anchor_grid': anchor,
        'versions': {'mmvisionllama': __version__, 'torch': torch.__version__},
        **(info or {}),
    }


def _write_torch(network: Network, metadata: dict, path: Path) -> None:
    program = export_program(network)
    try:
        torch.export.save(program, path, extra_files={f'{METADATA_KEY}.json': json.dumps(metadata)})
    except RuntimeError as error:
        if type(error).__name__ != 'SerializeError':  # torch has it in a private module
            raise
        path.unlink(missing_ok=True)  # half of a file
        reason = str(error).split(':')[0]
        raise OptionError(f'torch.export cannot write this model ({reason}): export to onnx') from error


def _to_onnx(program: ExportedProgram, opset: int, **names: Any) -> 'torch.onnx.ONNXProgram':
    # the runtimes optimise by themselves; the exporter's rewriting takes as long as all the rest and gains nothing
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        return torch.onnx.export(program, opset_version=opset, dynamo=True, optimize=False, verbose=False, **names)


def _write_onnx(network: Network, metadata: dict, path: Path, opset: int) -> None:
    import onnx

    # a copy with the same parameters
    calling = copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})
    functions = share_blocks(calling, lambda *args: _to_onnx(_trace(*args), opset).model)
    onnx_program = _to_onnx(
        export_program(calling),
        opset,
        input_names=list(network.input_names),
        output_names=list(network.output_names),
    )
    inline(onnx_program.model, functions)
    _tidy(onnx_program.model)
    proto = onnx_program.model_proto
    _name_axes(proto.graph, network)
    (written,) = (entry.version for entry in proto.opset_import if not entry.domain)
    if written != opset:  # torch warns only
        raise OptionError(
            f'opset {opset} cannot be written with these versions of torch and onnxscript: take {written}'
        )
    metadata = dict(metadata, opset=written)
    metadata['versions'] = {**metadata['versions'], 'onnx': onnx.__version__}
    proto.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
    _check_graph(proto.graph)
    onnx.save(proto, path)


def _tidy(model: Any) -> None:
    """Constants computed once, equal nodes merged, unused ones dropped, and what each node was in PyTorch: its stack,
    with the paths of the machine that exported, which takes more room than the graph."""
    from onnx_ir.passes import common

    for step in (
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        step(model)


def _name_axes(graph: Any, network: Network) -> None:
    """Names the dynamic axes of inputs and outputs; shapes inside the graph are left to the runtimes."""
    names = {}
    for value, axes in zip(graph.input, network.input_axes):
        for axis, name in axes.items():
            dim = value.type.tensor_type.shape.dim[axis]
            names[dim.dim_param] = name
            dim.dim_param = name
    for value in graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = names.get(dim.dim_param, f'{value.name}_{axis}')
    del graph.value_info[:]


def _check_graph(graph: Any) -> None:
    """Raises an OptionError for what runtimes compile wrongly or not at all."""
    found = {node.op_type for node in graph.node} & {'If', 'Loop', 'Scan', 'SequenceConstruct'}
    if found:
        raise OptionError(f'the exported graph has {", ".join(sorted(found))} nodes: this model is not supported')


def write_openvino(onnx_path: Path, metadata: dict, path: Path) -> None:
    """An ONNX file as OpenVINO's pair of files."""
    import openvino

    model = openvino.convert_model(str(onnx_path))
    metadata = dict(metadata)
    metadata['versions'] = {**metadata['versions'], 'openvino': openvino.__version__}
    model.set_rt_info(json.dumps(metadata), METADATA_KEY)
    openvino.save_model(model, path, compress_to_fp16=False)


def export(
    network: Network,
    path: Any,
    target: str = 'onnx',
    *,
    opset: int = DEFAULT_OPSET,
    info: Optional[dict] = None,
) -> Export:
    """Writes a network as a file for any batch, height and width.

    Args:
        network: From :func:`~mmvisionllama.deploy.export_network`.
        path: File to write; the target's suffix is added where it is missing.
        target: One of :data:`TARGETS`. ``'torch'`` and ``'aoti'`` need torch alone, ``'aoti'`` also a C++ compiler.
        opset: Of the ONNX graph.
        info: More to keep in the file, as JSON: classes, normalisation, config.

    Raises:
        OptionError: For an unknown target, a missing library, an opset that torch does not write, weights of more than
            2 GiB in ONNX and OpenVINO, and a model that does not export.
    """
    check_target(target)
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise OptionError(f'opset {opset} is not written: choose one from {OPSETS[0]} to {OPSETS[1]}')
    check_weights(network, target)
    path = target_path(path, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    metadata = describe(network, info)
    if target == 'torch':
        _write_torch(network, metadata, path)
    elif target == 'aoti':
        torch._inductor.aoti_compile_and_package(
            export_program(network),
            package_path=str(path),
            inductor_configs={'aot_inductor.metadata': {METADATA_KEY: json.dumps(metadata)}},
        )
    elif target == 'onnx':
        _write_onnx(network, metadata, path, opset)
    else:
        between = path.with_suffix('.onnx.tmp')
        try:
            _write_onnx(network, metadata, between, opset)
            write_openvino(between, metadata, path)
        finally:
            between.unlink(missing_ok=True)
    return Export(path, time.perf_counter() - start)
