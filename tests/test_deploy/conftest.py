"""Skips tests that export where torch cannot."""

import pytest
import torch


@pytest.fixture
def exporting():
    """torch that exports, and ONNX."""
    if torch.__version__ < '2.9':
        pytest.skip('exporting needs torch 2.9')
    pytest.importorskip('onnxruntime')
