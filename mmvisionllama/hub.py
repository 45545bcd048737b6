"""Models on the Hugging Face hub, and in folders laid out like its own: ``config.json`` and ``model.safetensors``.

Needs huggingface_hub and safetensors, the extra ``hub``.
"""

import json
from pathlib import Path
from typing import Any, Dict, Optional, Union

from torch import nn

from .checkpoints import find_state_dict, load_strictly, read_checkpoint
from .checkpoints.reading import dataset_meta
from .checkpoints.writing import safetensors_metadata
from .errors import MissingExtraError, OptionError
from .zoo import get_model

try:
    import safetensors.torch
    from huggingface_hub import PyTorchModelHubMixin
    from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
except ImportError as error:
    raise MissingExtraError(f"{__name__} needs {error.name}: pip install 'mmvisionllama[hub]'") from error


#: arguments of :func:`get_model` that are no values of the model
OWN_ARGUMENTS = {'name', 'pretrained', 'backbone_only'}


def _refuse_types(options: Any) -> None:
    """A fetched ``config.json`` may set numbers, but not say what is built: a ``type`` can be any importable object."""
    if isinstance(options, dict):
        wrong = [key for key in options if key == 'type' or key.startswith('_') or '.' in key]
        if wrong:
            raise OptionError(f'overrides may not set {", ".join(map(repr, wrong))}: they are values, not other parts')
        options = list(options.values())
    if isinstance(options, (list, tuple)):
        for option in options:
            _refuse_types(option)


class HubModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name='mmvisionllama',
    tags=['visionllama'],
    paper_url='https://arxiv.org/abs/2403.00522',
):
    """A model of the zoo that ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` know how to handle.

    The folder holds the name and the overrides, and the weights under the names of the model's own state dict, with the
    classes where they are known.

    Args:
        name: One of :func:`list_models`.
        backbone_only: See :func:`get_model`.
        overrides: Values merged into the model's config: ``dict(head=dict(num_classes=10))``. Not ``type``.

    Attributes:
        model: What :func:`get_model` builds.

    Raises:
        KeyError, MissingExtraError, ValueError: See :func:`get_model`.
        OptionError: The overrides name a ``type`` or an argument of :func:`get_model`.

    Examples::

        HubModel('vision_llama_digits').load('epoch_18.pth').save_pretrained('folder')
        model = HubModel.from_pretrained('folder').model  # or the name of a repository
    """

    def __init__(self, name: str, backbone_only: bool = False, overrides: Optional[Dict[str, Any]] = None) -> None:
        super().__init__()
        _refuse_types(overrides)
        for key in OWN_ARGUMENTS & set(overrides or ()):  # a fetched config.json would have any file or address read
            raise OptionError(f'overrides may not set {key!r}: they are values of the model')
        try:
            json.dumps(overrides)  # what config.json cannot hold the mixin would leave out
        except (TypeError, ValueError) as error:
            raise OptionError(f'overrides have to be what JSON can hold ({error}): numbers, text, lists') from error
        self.model = get_model(name, backbone_only=backbone_only, **(overrides or {}))
        self.arguments = (name, backbone_only, overrides or {})

    def load(self, pretrained: Union[bool, str] = True) -> 'HubModel':
        """Fills the model from a checkpoint, or from the weights of the package: see :func:`get_model`."""
        name, backbone_only, overrides = self.arguments
        self.model = get_model(name, pretrained, backbone_only, **overrides)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        metadata = safetensors_metadata(getattr(self.model, 'dataset_meta', None))
        safetensors.torch.save_model(self.model, str(Path(save_directory) / SAFETENSORS_SINGLE_FILE), metadata)

    @classmethod
    def _load_as_safetensor(cls, model: 'HubModel', model_file: str, map_location: str, strict: bool) -> 'HubModel':
        """Always strictly, and by the reader that all checkpoints go through."""
        checkpoint = read_checkpoint(model_file, map_location=map_location)
        load_strictly(model.model, find_state_dict(checkpoint), model_file)
        classes = dataset_meta(checkpoint)
        if classes:
            model.model.dataset_meta = classes
        return model.to(map_location).eval()

    _load_as_pickle = _load_as_safetensor
