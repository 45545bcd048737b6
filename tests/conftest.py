"""Fixtures shared by the tests."""

import gc
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Tuple

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption('--device', default='cpu', help='device on which tests make tensors without naming one')


#: files of a minute or more in few tests: started last, one of them would run alone for long
FIRST = (
    'test_launchers.py',
    'test_export.py',
    'test_sharding.py',
    'test_study.py',
    'test_kill.py',
    'test_documents.py',
    'test_zoo.py',
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(autouse=True)
def seeded():
    """Same random numbers in every run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def default_device(request):
    """Tensors are made on ``--device``; a GPU computes in fp32 what is compared in fp32."""
    device = request.config.getoption('--device')
    if device == 'cpu':
        yield
        return
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.set_default_device(device)
    yield
    torch.set_default_device(None)
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture(autouse=True)
def quiet_default_scope():
    """No test sees the default scope that another one's Runner left behind."""
    from mmengine.registry import DefaultScope

    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True, scope='session')
def configs_as_they_are():
    """mmengine lays out a config with yapf six times for each Runner, most of a small training's time."""
    from yapf.yapflib import yapf_api

    layout = yapf_api.FormatCode
    yapf_api.FormatCode = lambda text, *args, **kwargs: (text, False)
    yield
    yapf_api.FormatCode = layout


@pytest.fixture(autouse=True, scope='session')
def data_sets_without_a_collection():
    """mmengine collects garbage after packing each data set, half a second with all libraries loaded."""
    from mmengine.dataset import base_dataset

    base_dataset.gc = SimpleNamespace(collect=lambda: None)
    yield
    base_dataset.gc = gc


class Golden:
    """One fixture of the released code's outputs: weights, inputs, outputs and the JSON that describes them."""

    def __init__(self, folder: Path, name: str) -> None:
        from safetensors.torch import load_file

        device = torch.get_default_device()
        tensors = {k: v.to(device) for k, v in load_file(folder / f'{name}.safetensors').items()}
        self.weights = {k[2:]: v for k, v in tensors.items() if k.startswith('w.')}
        self.inputs = {k[3:]: v for k, v in tensors.items() if k.startswith('in.')}
        self.outputs = {k[4:]: v for k, v in tensors.items() if k.startswith('out.')}
        self.info = json.loads((folder / f'{name}.json').read_text())
        self.config = self.info['config']
        #: arguments of the released class
        self.model = self.config['model']

    @property
    def grid(self) -> Tuple[int, int]:
        """Token grid of the input."""
        patch = self.model.get('patch_size') or self.model['backbone']['patch_size']
        return tuple(-(-side // patch) for side in self.config['size'])

    @staticmethod
    def assert_close(actual: torch.Tensor, expected: torch.Tensor, tol: float = 1e-5) -> None:
        """Absolute tolerance plus the same tolerance relative to the largest magnitude."""
        assert actual.shape == expected.shape
        error = (actual.detach().double() - expected.double()).abs().max().item()
        assert error <= tol * (1 + expected.abs().max().item()), f'largest difference {error:.3g}'


@pytest.fixture
def golden():
    """Loader of the released code's numbers: those of the repository, or of the folder MMVISIONLLAMA_GOLDEN names."""
    folder = Path(os.environ.get('MMVISIONLLAMA_GOLDEN') or Path(__file__).parent / 'fixtures' / 'released')
    return lambda name: Golden(folder, name)
