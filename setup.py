"""Packaging. Two distributions provide each mm import name, so none is required: they are extras."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = {}
exec((ROOT / 'mmvisionllama' / 'version.py').read_text(), VERSION)

EXTRAS = {
    # the maintained line of the mm libraries: mmengine, mmcv, mmpretrain, mmdet, mmseg under their usual import names
    'onedl': [
        'onedl-mmengine>=0.10.12',
        'onedl-mmcv>=2.3.6',
        'onedl-mmpretrain>=1.3.6',
        'onedl-mmdetection>=3.5.1',
        'onedl-mmsegmentation>=1.4.2',
    ],
    # OpenMMLab's own packages; mmdet and mmseg refuse mmcv 2.2, and resuming needs torch <= 2.5
    'openmmlab': [
        'mmengine>=0.10.7',
        'mmcv>=2.1.0,<2.2',
        'mmpretrain>=1.2.0',
        'mmdet>=3.3.0',
        'mmsegmentation>=1.2.2',
    ],
    # the digits of the demos ship with scikit-learn
    'digits': ['scikit-learn>=1.3', 'pillow'],
    # latents (diffusers), the adaptive ODE sampler (torchdiffeq), metrics (torch-fidelity)
    'generation': ['diffusers>=0.30', 'torchdiffeq>=0.2.4', 'torch-fidelity>=0.3', 'scipy'],
    # 8-bit quantisation of iLLaMA and every other classifier
    'quantization': ['torchao>=0.17'],
    # exporting to ONNX and OpenVINO, and running both
    'deploy': ['onnx>=1.23.2', 'onnxscript>=0.7.2', 'onnxruntime>=1.32.0', 'openvino>=2026.4.1', 'pillow'],
    # reading .safetensors checkpoints
    'safetensors': ['safetensors'],
    # the other side of the benchmarks
    'benchmark': ['timm>=1.0.20'],
    # running the test suite and the checks of a commit
    'test': [
        'pytest',
        'pytest-xdist',
        'ruff',
        'codespell',
        'pre-commit',
        'safetensors',
        'scikit-learn',
        'timm>=1.0.20',
    ],
}

setup(
    name='mmvisionllama',
    version=VERSION['__version__'],
    description='The VisionLLaMA family for mmengine, mmpretrain, mmsegmentation and mmdetection',
    long_description=(ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmvisionllama', 'mmvisionllama.*']),
    # mmengine comes from one of two distributions (extras onedl and openmmlab)
    install_requires=['torch>=2.4'],
    extras_require=EXTRAS,
)
