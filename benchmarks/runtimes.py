"""Speed of exported files: the runtimes against eager PyTorch, and against timm's ViT of the same size in each of them.

    python benchmarks/runtimes.py [--cases 'plain small 224'] [--rounds 9]

timm's model is exported at one size, ours at any. 8 bits: random weights and ranges, for the speed alone.
"""

import tempfile
from pathlib import Path
from typing import Callable, Dict, Tuple

import torch
from harness import arguments, compare, forward_of, results_of, wanted, write_csv
from torch import nn

from mmvisionllama import deploy
from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA
from mmvisionllama.deploy.export import describe, write_openvino
from mmvisionllama.deploy.int8 import quantize_onnx
from mmvisionllama.deploy.networks import Network, without_obstacles
from mmvisionllama.deploy.runtimes import has_amx

PACKAGES = ('onnxruntime', 'openvino', 'timm')
MODELS = {
    'plain small': (lambda: VisionLLaMA('small'), 'vit_small_patch16_224'),
    'plain base': (lambda: VisionLLaMA('base'), 'vit_base_patch16_224'),
    'pyramid small': (lambda: PyramidVisionLLaMA('small', out_type='avg_featmap'), None),
    'plain tiny': (lambda: VisionLLaMA(dict(embed_dims=64, num_layers=2, num_heads=2)), 'vit_tiny_patch16_224'),
}
SIZES = [(224, 1), (224, 8), (512, 1), (512, 8)]
#: ONNX Runtime's threads spin for a while after a call, on cores that the next contender needs
PAUSE = 0.1
#: what decides the speed of 8 bits and of bf16
FLAGS = ('avx2', 'avx512f', 'avx512_vnni', 'avx_vnni', 'avx512_bf16', 'amx_bf16', 'amx_int8')


class Ours(nn.Module):
    """Backbone and a 1000-class head, what timm's models are."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.embed_dims if isinstance(backbone, VisionLLaMA) else 512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x)[0])


class Classifier(Network):
    """A model that maps images to logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)


class FixedSize(Classifier):
    """A model for images of one size."""

    input_axes = ({0: 'batch'},)
    size = (2, 224, 224)

    def example(self, size=None, generator=None) -> tuple:
        return super().example(size or self.size, generator)


def flags() -> str:
    """Those of :data:`FLAGS` that the processor has."""
    info = Path('/proc/cpuinfo')
    words = info.read_text().split() if info.exists() else []
    return ' '.join(flag for flag in FLAGS if flag in words)


def runtimes(
    model: nn.Module, network: Network, images: torch.Tensor, folder: Path, int8: bool
) -> Tuple[Dict[str, Callable[[], object]], Dict[str, str]]:
    """A forward pass of ``images`` in each runtime (PyTorch runs the model itself), and MiB of the files."""
    threads = torch.get_num_threads()
    onnx_path = deploy.export(network, folder / 'model', 'onnx').path
    write_openvino(onnx_path, describe(network), onnx_path.with_suffix('.xml'))
    files = {'ONNX Runtime': (onnx_path, {}), 'OpenVINO f32': (onnx_path.with_suffix('.xml'), {})}
    has_bf16 = 'bf16' in flags() and not (threads == 1 and has_amx())  # where OpenVINO crashes
    if has_bf16:
        files['OpenVINO bf16'] = (onnx_path.with_suffix('.xml'), dict(precision='bf16'))
    if int8:
        path = quantize_onnx(onnx_path, folder / 'int8.onnx', [images[:1]])
        files['ONNX Runtime, 8 bits'] = (path, {})
        write_openvino(path, describe(network), path.with_suffix('.xml'))
        files['OpenVINO, 8 bits'] = (path.with_suffix('.xml'), {})
        if has_bf16:
            files['OpenVINO, 8 bits and bf16'] = (path.with_suffix('.xml'), dict(precision='bf16'))
    calls = {'eager': forward_of(model, images), 'compiled': forward_of(torch.compile(model), images)}
    for name, (path, options) in files.items():
        session = deploy.load_exported(path, threads=threads, **options)
        calls[name] = lambda session=session: session(images)
    weights = {name: path.with_suffix('.bin') if path.suffix == '.xml' else path for name, (path, _) in files.items()}
    return calls, {name: f'{path.stat().st_size / 2**20:.1f}' for name, path in weights.items()}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], 'runtimes')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    for name, (build, theirs) in MODELS.items():
        for pixels, batch in SIZES:
            case = f'{name} {pixels} batch {batch}'
            if not wanted(case, args.cases or [n for n in MODELS if n != 'plain tiny']):
                continue
            torch._dynamo.reset()
            torch.manual_seed(0)
            images = torch.randn(batch, 3, pixels, pixels)
            with tempfile.TemporaryDirectory() as folder:
                model = Ours(build()).eval()
                network = Classifier(without_obstacles(model)).eval()
                ours, mib = runtimes(model, network, images, Path(folder), int8=True)
                found = compare(case, ours, rounds=args.rounds, packages=PACKAGES, pause=PAUSE)
                if theirs:
                    import timm

                    model = timm.create_model(theirs, img_size=pixels).eval()
                    network = FixedSize(model).eval()
                    network.size = (2, pixels, pixels)
                    Path(folder, 'timm').mkdir()
                    other, _ = runtimes(model, network, images, Path(folder, 'timm'), int8=False)
                    for runtime, call in other.items():
                        pair = {f'timm, {runtime}': call, runtime: ours[runtime]}
                        found += compare(f'{case}, {runtime}', pair, rounds=args.rounds, packages=PACKAGES, pause=PAUSE)
            rows += found
            # written after each case: a stop loses one
            more = [dict(row, flags=flags(), mib=mib.get(row['contender'], '')) for row in found]
            write_csv(results_of(args), more, args.append or rows != found, ('flags', 'mib'))


if __name__ == '__main__':
    main()
