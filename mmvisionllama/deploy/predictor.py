"""One way to predict: a checkpoint or any exported file, pictures in, the libraries' own results out."""

from pathlib import Path
from typing import Any, Iterable, List, Optional, Sequence, Union

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope, init_default_scope

from ..analysis.resolution_transfer import Size, scale_pipeline
from ..datasets.pictures import left_lying, read, upright
from ..errors import DataError, OptionError
from ..layers.options import type_name
from ..zoo import config_and_weights, config_of, list_models
from .models import file_pipeline, image_pipeline, load_model, session_model
from .runtimes import SUFFIXES, is_exported, load_exported

CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')  # mmengine's
PICTURE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
#: what PIL calls 8-bit grey, colour, palette and colour with transparency
PICTURE_MODES = ('1', 'L', 'RGB', 'P', 'RGBA', 'LA')
#: of a picture, as it is and as it is resized: Pillow's own bound of what is no attack
MAX_PIXELS = 89_478_485


def list_pictures(images: Any) -> List[Union[str, np.ndarray]]:
    """A path, a folder, an array or a list of them as a list; folders give their pictures in order.

    Raises:
        DataError: For a folder without a picture, and for what is none of these.
    """
    if isinstance(images, np.ndarray):
        return [images]
    if isinstance(images, (str, Path)):
        path = Path(images)
        if not path.is_dir():
            return [str(path)]
        found = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not found:
            raise DataError(f'folder {str(path)!r} has no picture ({", ".join(PICTURE_SUFFIXES)})')
        return found
    if isinstance(images, Iterable):
        return [item for image in images for item in list_pictures(image)]
    raise DataError(f'cannot predict on a {type(images).__name__}: give paths, folders or arrays (H, W, 3)')


def check_picture(image: Union[str, np.ndarray]) -> Any:
    """The array that is given, or the file as a Pillow image.

    Raises:
        DataError: For a picture that is missing, damaged, of more than :data:`MAX_PIXELS`, or not 8-bit grey or RGB.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise DataError(f'expected an array (H, W, 3) of uint8, got {image.shape} of {image.dtype}')
        return image
    picture = read(image, 'picture', max_pixels=MAX_PIXELS)
    if picture.mode not in PICTURE_MODES:
        raise DataError(f'picture {image!r} has the mode {picture.mode}, not 8-bit grey or RGB: convert it')
    return picture


def enlarged_pixels(pipeline: Sequence[dict], width: int, height: int) -> int:
    """Pixels of a picture after the step that enlarges it most, of those that bound one side alone."""
    most = 0
    for step in pipeline:
        name = type_name(step['type'])
        scale = step.get('size' if name == 'torchvision/Resize' else 'scale')
        if name in ('ResizeEdge', 'torchvision/Resize') and isinstance(scale, int):
            edges = dict(short=min(width, height), long=max(width, height), width=width, height=height)
            factor = scale / edges[step.get('edge', 'short')]
            most = max(most, round(width * factor) * round(height * factor))
    return most


class Predictor:
    """Predicts with a checkpoint or with an exported file, through the same preparation and post-processing.

    An exported file is put in the place of the network inside the library's own model: normalisation, sliding windows,
    resizing and the result types are the library's in both cases.

    Args:
        file_or_config: File of :func:`~mmvisionllama.deploy.export`, a config (path or ``Config``), or the name of a
            model: one of ``list_models()``.
        checkpoint: Weights of the config; a name takes those that come with the package without it.
        size: Pixels of the prepared picture, a side or (height, width), in the place of those of the test pipeline,
            which keeps its proportions (:func:`~mmvisionllama.analysis.resolution_transfer.scale_pipeline`).
        device: Of a checkpoint's model.
        threads: Of ONNX Runtime and OpenVINO, 0 for their own choice; for PyTorch, ``torch.set_num_threads`` says it.
        precision: In which OpenVINO computes: ``'f32'``, ``'bf16'`` or ``'f16'``.

    Raises:
        CheckpointError: For files that are missing, damaged, of another tool, or do not fit the config.
        OptionError: For a config without a checkpoint, or the other way round, and for values that make no sense.

    Examples::

        predictor = Predictor('model.onnx')  # or Predictor('vision_llama_digits', size=64)
        predictor(['cat.jpg', 'folder'])[0].pred_label
    """

    def __init__(
        self,
        file_or_config: Any,
        checkpoint: Optional[str] = None,
        *,
        size: Optional[Size] = None,
        device: str = 'cpu',
        threads: int = 0,
        precision: str = 'f32',
    ) -> None:
        if not isinstance(file_or_config, Config) and is_exported(file_or_config):
            if checkpoint is not None:
                raise OptionError('an exported file has its weights inside: leave the checkpoint out')
            session = load_exported(file_or_config, threads=threads, precision=precision)
            self.scope = session.metadata.get('scope')
            self.model = session_model(session)
            pipeline = file_pipeline(session.metadata)
        else:
            cfg = file_or_config
            if isinstance(cfg, str) and cfg in list_models():
                if checkpoint is None:
                    cfg, checkpoint = config_and_weights(cfg)
                else:
                    cfg = config_of(cfg)
            if not isinstance(cfg, Config):
                if not Path(cfg).is_file():
                    raise OptionError(
                        f'{str(cfg)!r} does not exist: give an exported file, a config or one of list_models()'
                    )
                if Path(cfg).suffix not in CONFIG_SUFFIXES:
                    raise OptionError(
                        f'{str(cfg)!r} is no exported file ({", ".join(SUFFIXES)}) and no config '
                        f'({", ".join(CONFIG_SUFFIXES)}): weights are the checkpoint of a config, which stands first'
                    )
                cfg = Config.fromfile(cfg)
            if checkpoint is None:
                raise OptionError('a config needs a checkpoint: Predictor(config, checkpoint)')
            self.scope = cfg.get('default_scope')
            self.model = load_model(cfg, checkpoint).to(device)
            pipeline = image_pipeline(cfg)
        if size is not None:
            if min(np.atleast_1d(size)) < 1:
                raise OptionError(f'size={size!r}: give pixels, a side or (height, width)')
            pipeline = scale_pipeline(pipeline, size)
        self._enter_scope()
        is_load = [type_name(step['type']).startswith('LoadImage') for step in pipeline]
        if not any(is_load):
            raise OptionError('the test pipeline has no LoadImageFromFile: it cannot prepare pictures')
        start = is_load.index(True)
        self._load = Compose(pipeline[: start + 1])
        self._steps = pipeline[start + 1 :]
        self._prepare = Compose(self._steps)

    def _enter_scope(self) -> None:
        current = DefaultScope.get_current_instance()
        if self.scope and (current is None or current.scope_name != self.scope):
            init_default_scope(self.scope)

    @property
    def classes(self) -> Optional[Sequence[str]]:
        """Names of the classes, where they are known."""
        return self.model.dataset_meta.get('classes')

    def prepare(self, image: Union[str, np.ndarray]) -> dict:
        """What the model's ``test_step`` takes, for one picture.

        Raises:
            DataError: As :func:`check_picture`, and for one so narrow that resizing would enlarge it beyond
                :data:`MAX_PIXELS`, or not work.
        """
        picture = check_picture(image)
        is_array = isinstance(image, np.ndarray)
        name = 'the picture' if is_array else f'picture {image!r}'
        width, height = image.shape[1::-1] if is_array else picture.size
        if enlarged_pixels(self._steps, width, height) > MAX_PIXELS:
            raise DataError(
                f'{name} of {width} x {height} is so narrow that the test pipeline would make more than '
                f'{MAX_PIXELS:,} pixels of it: cut it'
            )
        if is_array or left_lying(picture):
            pixels = image if is_array else np.asarray(upright(picture).convert('RGB'))[..., ::-1].copy()
            shape, path = pixels.shape[:2], None if is_array else image
            results = dict(img=pixels, img_shape=shape, ori_shape=shape, img_path=path, sample_idx=0, img_id=0)
        else:
            try:
                results = self._load(dict(img_path=image, sample_idx=0, img_id=0))
            except (AssertionError, cv2.error) as error:  # mmcv's, which reads with OpenCV
                raise DataError(
                    f'{name} is of a format or size that OpenCV does not read: convert or cut it'
                ) from error
        try:
            return self._prepare(results)
        except cv2.error as error:
            raise DataError(f'{name} of {width} x {height} cannot be resized by the test pipeline: cut it') from error

    def __call__(self, images: Any, batch_size: int = 1) -> List[Any]:
        """Predictions for pictures.

        Args:
            images: Paths, folders, arrays ``(H, W, 3)`` of uint8 in BGR order as in the libraries, or lists of them.
            batch_size: Pictures in one call of the network; of one prepared size if it is above 1.

        Returns:
            list: The library's data samples, one for each picture.

        Raises:
            DataError: For a picture that cannot be used.
            OptionError: For a batch size below 1.
        """
        if batch_size < 1:
            raise OptionError(f'batch_size={batch_size}: give 1 or more pictures')
        self._enter_scope()
        pictures = list_pictures(images)
        samples = []
        for first in range(0, len(pictures), batch_size):
            batch = pseudo_collate([self.prepare(picture) for picture in pictures[first : first + batch_size]])
            with torch.no_grad():
                samples.extend(self.model.test_step(batch))
        return samples
