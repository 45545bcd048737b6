"""One exported file per backbone at many sizes: seconds of the export, contents of the graph, distance from PyTorch.

    python benchmarks/exported.py [--models 'plain small' 'pyramid small'] [--append]

LayerScale is set to 1: with its initial 1e-4 a wrong block would hardly show. Threads are PyTorch's own number for all.
"""

import argparse
import datetime
import importlib.metadata
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Dict

import torch
from harness import RESULTS, machine, write_csv
from torch import nn

from mmvisionllama import deploy
from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA
from mmvisionllama.layers import LayerScale

SIZES = [(160, 352), (100, 130), (33, 47), (224, 224), (96, 64), (17, 16), (250, 97), (129, 512), (1024, 1024)]
BATCHES = (1, 3)
MODELS = {
    f'{family} {arch}': (kind, arch)
    for family, kind in (('plain', VisionLLaMA), ('pyramid', PyramidVisionLLaMA))
    for arch in ('small', 'base', 'large')
}
TINY = {'tiny plain': (VisionLLaMA, dict(embed_dims=16, num_layers=2, num_heads=2))}
MORE = ('export_s', 'nodes', 'branches_and_loops', 'complex_tensors', 'largest_difference', 'mib')


def contents(path: Path) -> Dict[str, int]:
    """Counts of an ONNX graph."""
    import onnx

    graph = onnx.load(path).graph
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    kinds = [value.type.tensor_type.elem_type for value in (*inferred.value_info, *graph.input, *graph.output)]
    kinds += [weight.data_type for weight in graph.initializer]
    return dict(
        nodes=len(graph.node),
        branches_and_loops=sum(node.op_type in ('If', 'Loop', 'Scan') for node in graph.node),
        complex_tensors=sum(kind in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128) for kind in kinds),
    )


def measure(name: str, folder: Path, sizes: list) -> list:
    """A row for each runtime."""
    torch.manual_seed(0)
    kind, arch = {**MODELS, **TINY}[name]
    model = kind(arch).eval()
    for module in model.modules():
        if isinstance(module, LayerScale):
            nn.init.ones_(module.weight)
    network, rows = deploy.export_network(model), []
    for target in ('onnx', 'openvino'):
        written = deploy.export(network, folder / 'model', target)
        if target == 'onnx':
            counts = contents(written.path)
        session = deploy.load_exported(written.path, threads=torch.get_num_threads())
        difference = deploy.largest_difference(network, session, sizes, BATCHES)
        weights = written.path if target == 'onnx' else written.path.with_suffix('.bin')
        row = dict(
            case=name,
            contender={'onnx': 'ONNX Runtime', 'openvino': 'OpenVINO f32'}[target],
            reference='PyTorch eager',
            device='cpu',
            dtype='float32',
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            versions=' '.join(f'{p}={importlib.metadata.version(p)}' for p in ('onnx', 'onnxruntime', 'openvino')),
            machine=machine(torch.device('cpu')),
            date=datetime.date.today().isoformat(),
            command=shlex.join(['python', *sys.argv]),
            export_s=f'{written.seconds:.1f}',
            largest_difference=f'{difference:.1e}',
            mib=f'{weights.stat().st_size / 2**20:.0f}',
            **counts,
        )
        del session
        rows.append(row)
        print(f'{name}, {row["contender"]}: exported in {row["export_s"]} s, difference {difference:.1e}', flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', choices=[*MODELS, *TINY], default=list(MODELS), metavar='NAME')
    parser.add_argument('--largest', type=int, default=1024, help='leave out sizes with a longer side')
    parser.add_argument('--out', type=Path, default=RESULTS / 'exported_cpu.csv')
    parser.add_argument('--append', action='store_true', help='add to the file')
    args = parser.parse_args()
    sizes = [size for size in SIZES if max(size) <= args.largest]
    for number, name in enumerate(args.models):  # written after each: a stop loses one model
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(name, Path(folder), sizes)
        write_csv(args.out, rows, args.append or number > 0, MORE)
    if any(row['branches_and_loops'] or row['complex_tensors'] for row in rows):
        sys.exit('error: a graph has branches, loops or complex numbers')


if __name__ == '__main__':
    main()
