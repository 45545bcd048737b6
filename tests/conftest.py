"""Fixtures shared by the tests."""

import json
import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Same random numbers in every run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quiet_default_scope():
    """No test sees the default scope that another one's Runner left behind."""
    from mmengine.registry import DefaultScope

    yield
    DefaultScope._instance_dict.clear()


class Golden:
    """One fixture of the released code's outputs: weights, inputs, outputs and the JSON that describes them."""

    def __init__(self, folder: Path, name: str) -> None:
        from safetensors.torch import load_file

        tensors = load_file(folder / f'{name}.safetensors')
        self.weights = {k[2:]: v for k, v in tensors.items() if k.startswith('w.')}
        self.inputs = {k[3:]: v for k, v in tensors.items() if k.startswith('in.')}
        self.outputs = {k[4:]: v for k, v in tensors.items() if k.startswith('out.')}
        self.info = json.loads((folder / f'{name}.json').read_text())

    @staticmethod
    def assert_close(actual: torch.Tensor, expected: torch.Tensor, tol: float = 1e-5) -> None:
        """Absolute tolerance plus the same tolerance relative to the largest magnitude."""
        assert actual.shape == expected.shape
        error = (actual.detach().double() - expected.double()).abs().max().item()
        assert error <= tol * (1 + expected.abs().max().item()), f'largest difference {error:.3g}'


@pytest.fixture
def golden():
    """Loader of the numeric fixtures in the folder that MMVISIONLLAMA_GOLDEN names; skips without it."""
    folder = os.environ.get('MMVISIONLLAMA_GOLDEN')
    if not folder or not Path(folder).is_dir():
        pytest.skip('MMVISIONLLAMA_GOLDEN does not name a folder of numeric fixtures')
    return lambda name: Golden(Path(folder), name)
