"""Running exported files: one call for every format."""

import contextlib
import json
import os
import pickle
import threading
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, OptionError
from .export import METADATA_KEY
from .extras import extra

#: suffix -> formats of exported files
SUFFIXES = ('.onnx', '.xml', '.pt2')
PRECISIONS = ('f32', 'bf16', 'f16')


class Session(NamedTuple):
    """An exported file, ready to run.

    Attributes:
        format (str): ``'onnx'``, ``'openvino'``, ``'torch'`` or ``'aoti'``.
        metadata (dict): What the file says of itself.
        run (Callable): Tensors in the order of ``metadata['inputs']`` to a list of tensors.
    """

    format: str
    metadata: Dict[str, Any]
    run: Callable[..., List[Tensor]]

    def __call__(self, *inputs: Tensor) -> List[Tensor]:
        return self.run(*inputs)


def is_exported(path: Any) -> bool:
    """Whether the name of a file is that of an exported one."""
    return str(path).lower().endswith(SUFFIXES)


def _described(text: Any, path: Path) -> Dict[str, Any]:
    try:
        metadata = json.loads(text) if text else None
    except (TypeError, ValueError):
        metadata = None
    if not isinstance(metadata, dict) or not {'task', 'inputs', 'outputs'} <= set(metadata):
        raise CheckpointError(f'{str(path)!r} was not written by tools/deployment/export.py: export the model with it')
    return metadata


def _load_onnx(path: Path, threads: int) -> Session:
    ort = extra('onnxruntime')
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    metadata = _described(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path)

    def run(*inputs: Tensor) -> List[Tensor]:
        feed = {name: x.detach().cpu().numpy() for name, x in zip(metadata['inputs'], inputs)}
        return [torch.from_numpy(out) for out in session.run(metadata['outputs'], feed)]

    return Session('onnx', metadata, run)


def has_amx() -> bool:
    """Whether Linux says that the processor has Intel's AMX."""
    info = Path('/proc/cpuinfo')
    return info.exists() and ' amx_tile' in info.read_text()


def check_bf16(threads: int, precision: str) -> None:
    """Raises an OptionError where OpenVINO would end the whole process (its issue 33300, seen with 2026.4.1).

    With Intel's AMX models with SwiGLU end it in bf16 with one thread, others do not; what a file holds is
    not looked at.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    if precision == 'bf16' and (threads or cpus) == 1 and has_amx():
        raise OptionError(
            "OpenVINO may crash in bf16 with one thread on this processor: give threads=2 or more, or precision='f32'"
        )


def _load_openvino(path: Path, threads: int, precision: str) -> Session:
    openvino = extra('openvino')
    check_bf16(threads, precision)
    core = openvino.Core()
    model = core.read_model(str(path))
    text = model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info(METADATA_KEY) else None
    metadata = _described(text, path)
    # without the hint processors with bf16 compute in bf16
    settings = {'INFERENCE_PRECISION_HINT': precision}
    if threads:
        settings['INFERENCE_NUM_THREADS'] = threads
    compiled = core.compile_model(model, 'CPU', settings)
    mine = threading.local()

    def run(*inputs: Tensor) -> List[Tensor]:
        # the model's own call has one request for all threads, which then read each other's results
        if not hasattr(mine, 'request'):
            mine.request = compiled.create_infer_request()
        outputs = mine.request.infer({name: x.detach().cpu().numpy() for name, x in zip(metadata['inputs'], inputs)})
        return [torch.from_numpy(outputs[name].copy()) for name in metadata['outputs']]

    return Session('openvino', metadata, run)


def _as_list(outputs: Any) -> List[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """``torch.load`` unpickles tensors alone, also where ``torch.export`` asks for more after a first failure."""
    names = ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')  # torch takes one of the two
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ[names[0]] = '1'
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update(before)


def _load_pt2(path: Path) -> Session:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith('.so') or 'data/aotinductor/' in name for name in names):
        compiled = torch._inductor.aoti_load_package(str(path))
        metadata = _described(compiled.get_metadata().get(METADATA_KEY), path)
        return Session('aoti', metadata, lambda *inputs: _as_list(compiled(*inputs)))
    files = {f'{METADATA_KEY}.json': ''}
    try:
        if any('/custom_obj' in name for name in names):  # torch unpickles them by a way of its own
            raise pickle.UnpicklingError('custom objects')
        with _weights_only():
            program = torch.export.load(str(path), extra_files=files)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'{str(path)!r} holds a pickle of more than tensors, which can run any code on this machine: do not use '
            f'it, and export the model again if it is yours'
        ) from error
    metadata = _described(files[f'{METADATA_KEY}.json'], path)
    # the guards of the tracer include conditions on strides that no result depends on
    module = program.module(check_guards=False)

    def run(*inputs: Tensor) -> List[Tensor]:
        with torch.no_grad():
            return _as_list(module(*inputs))

    return Session('torch', metadata, run)


def load_exported(path: Any, *, threads: int = 0, precision: str = 'f32') -> Session:
    """Opens a file of :func:`~mmvisionllama.deploy.export`.

    A ``.pt2`` file is a program: its pickles are read weights-only, but its graph names functions, and a compiled one
    is machine code. Open those of sources you trust.

    Args:
        path: ``.onnx``, ``.xml`` (its ``.bin`` beside it) or ``.pt2``.
        threads: Threads of ONNX Runtime and OpenVINO; 0 for their own choice.
        precision: In which OpenVINO computes: ``'f32'``, ``'bf16'`` or ``'f16'``.

    Raises:
        CheckpointError: For a file that is missing, damaged, of another tool, or with a pickle of more than tensors.
        OptionError: If its runtime is not installed, for negative threads, an unknown precision, and bf16 with one
            thread on processors with AMX, where OpenVINO crashes.
    """
    path = Path(path)
    if threads < 0:
        raise OptionError(f'threads={threads}: give their number, or 0 for the choice of the runtime')
    if precision not in PRECISIONS:
        raise OptionError(f'unknown precision {precision!r}: choose one of {", ".join(PRECISIONS)}')
    if not path.is_file():
        raise CheckpointError(f'{str(path)!r} does not exist')
    if not is_exported(path):
        raise CheckpointError(f'{str(path)!r} is no exported file: expected one of {", ".join(SUFFIXES)}')
    suffix = path.suffix.lower()
    if suffix == '.xml' and not path.with_suffix('.bin').is_file():
        raise CheckpointError(f'{str(path)!r} lacks its weights {path.with_suffix(".bin").name!r} beside it')
    try:
        if suffix == '.onnx':
            return _load_onnx(path, threads)
        if suffix == '.xml':
            return _load_openvino(path, threads, precision)
        return _load_pt2(path)
    except (CheckpointError, ImportError):
        raise
    except ValueError as error:
        if type(error).__module__.startswith('mmvisionllama'):
            raise
        raise _unreadable(path, error) from error
    except Exception as error:  # each runtime has errors of its own
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = ' '.join(str(error).split())[:200]
    return CheckpointError(f'{str(path)!r} cannot be read, export the model again: {reason}')


def largest_difference(
    network: nn.Module,
    session: Session,
    sizes: Sequence[Tuple[int, int]],
    batches: Sequence[int] = (1,),
    images: Optional[Tensor] = None,
) -> float:
    """Largest difference between an exported file and the network, relative to the largest value of each output.

    Args:
        network: What was exported.
        session: The file.
        sizes: (height, width) of the inputs.
        batches: Batch sizes.
        images: Normalised images ``(B, C, H, W)`` of at least the largest batch, which are resized; random inputs by
            default. 8-bit files cut off what is beyond the images that they were calibrated with.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in batches:
        for height, width in sizes:
            if images is None:
                inputs = network.example((batch, height, width), generator)
            else:
                inputs = (F.interpolate(images[:batch], (height, width), mode='bilinear', align_corners=False),)
            with torch.no_grad():
                expected = _as_list(network(*inputs))
            for ours, theirs in zip(session(*inputs), expected, strict=True):
                if ours.shape != theirs.shape:
                    return float('inf')
                difference = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)
                largest = max(largest, float('inf') if difference.isnan() else float(difference))
    return largest
