"""8-bit weights and activations by torchao, after training or in training.

Quantised are the linear layers of attention and feed-forward in all blocks, as in the iLLaMA paper (arXiv 2404.06773);
patch embedding, norms and head stay as they are. Weights get a symmetric scale per output channel, activations an
asymmetric one per token, computed at run time.
"""

import io
from typing import Any

import torch
from torch import nn

from .checkpoints.reading import read_checkpoint
from .errors import MissingExtraError, OptionError

#: parts of the names of the layers that are quantised, in this package's and mmpretrain's transformers
PARTS = ('attn', 'ffn')


def _torchao() -> Any:
    try:
        import torchao.quantization
        import torchao.quantization.qat
    except ImportError as error:
        raise MissingExtraError(
            "8-bit quantisation needs torchao: pip install 'mmvisionllama[quantization]'"
        ) from error
    return torchao.quantization


def check_available() -> None:
    """Raises an ImportError that says what to install if torchao is missing."""
    _torchao()


def is_quantised_layer(module: nn.Module, name: str) -> bool:
    """Whether this linear layer of a model is quantised."""
    return isinstance(module, nn.Linear) and any(part in name.split('.') for part in PARTS)


def quantised_layers(model: nn.Module) -> list:
    """Names of the layers that are, or would be, quantised.

    Raises:
        OptionError: If there are none.
    """
    names = [name for name, module in model.named_modules() if is_quantised_layer(module, name)]
    if not names:
        raise OptionError(f'nothing to quantise: no linear layer lies in a module called {" or ".join(PARTS)}')
    return names


def simulate_int8(model: nn.Module) -> nn.Module:
    """Rounds weights and activations as 8-bit arithmetic would, with straight-through gradients, in place.

    Parameters stay the same objects under the same names: optimizers, checkpoints and resuming do not notice.
    """
    ao = _torchao()
    quantised_layers(model)
    config = ao.qat.QATConfig(
        activation_config=ao.qat.IntxFakeQuantizeConfig(torch.int8, 'per_token', is_symmetric=False),
        weight_config=ao.qat.IntxFakeQuantizeConfig(torch.int8, 'per_channel', is_symmetric=True),
        step='prepare',
    )
    ao.quantize_(model, config, filter_fn=is_quantised_layer)
    return model


def quantise(model: nn.Module) -> nn.Module:
    """Turns the layers into real 8-bit ones, in place; they compute what :func:`simulate_int8` simulates."""
    ao = _torchao()
    quantised_layers(model)
    config = ao.Int8DynamicActivationInt8WeightConfig(
        act_mapping_type=ao.MappingType.ASYMMETRIC, set_inductor_config=False, version=2
    )
    simulated = any(isinstance(module, ao.qat.FakeQuantizedLinear) for module in model.modules())
    if simulated:
        ao.quantize_(model, ao.qat.QATConfig(config, step='convert'), filter_fn=is_quantised_layer)
    else:
        ao.quantize_(model, config, filter_fn=is_quantised_layer)
    return model.eval()


def size_on_disk(model: nn.Module) -> int:
    """Bytes of a file with the model's state dict."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def save_quantised(model: nn.Module, path: str) -> None:
    """Writes the state dict of a quantised model."""
    torch.save({'state_dict': model.state_dict()}, path)


def load_quantised(model: nn.Module, path: str) -> nn.Module:
    """Loads a file of :func:`save_quantised` into a model that was built but not quantised.

    Reading is weights-only; torchao declares its tensor types as safe.
    """
    _torchao()
    model.load_state_dict(read_checkpoint(path)['state_dict'], assign=True)
    return model.eval()
