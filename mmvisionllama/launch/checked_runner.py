"""mmengine's Runner that says in one line what is wrong with a config's loops, data and classes."""

import traceback
from typing import Any, Callable, List, Optional, Tuple

from mmengine.dataset import InfiniteSampler
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..backbones.plain import PlainBackbone
from ..backbones.pyramid_vision_llama import PyramidVisionLLaMA
from ..datasets.blame import watch_files
from ..engine.hooks.watch_files import WatchFilesHook
from ..engine.unwrapping import unwrapped
from ..errors import DataError, OptionError
from ..generation.generator import ImageGenerator
from ..generation.labelled_images import LabelledImages
from ..generation.latents import LatentShards
from ..layers.options import checked_choice, checked_number, checked_whole, type_name

BROKEN_PICTURES = ('raise', 'skip')


class CheckedRunner(Runner):
    """Runner whose data sets name a file that cannot be read, and whose data are known to fit the model.

    ``broken_pictures='skip'`` in the config takes another sample in training in the place of a broken file, and counts
    them in the log; by default the first one ends the run with its name.
    """

    @staticmethod
    def build_dataloader(dataloader: Any, seed: Optional[int] = None, diff_rank_seed: bool = False) -> DataLoader:
        """As mmengine's.

        Raises:
            OptionError: For a batch size that is no whole number, or larger than the data set where incomplete batches
                are dropped.
            DataError: For a data set without samples.
        """
        if isinstance(dataloader, dict) and 'batch_size' in dataloader:
            checked_whole('batch_size', dataloader['batch_size'])
        try:
            loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        except ValueError as error:
            # mmengine packs the samples of a data set into one array
            if traceback.extract_tb(error.__traceback__)[-1].name != '_serialize_data':
                raise
            raise DataError(NO_SAMPLES) from error
        if isinstance(loader.dataset, IterableDataset):
            return loader
        if not len(loader.dataset):
            raise DataError(NO_SAMPLES)
        if not isinstance(loader.sampler, InfiniteSampler) and not len(loader):
            raise OptionError(
                f'batch_size {loader.batch_size} is larger than the {len(loader.sampler)} samples of a process, and '
                f'drop_last leaves none: lower it'
            )
        return loader

    def build_train_loop(self, loop: Any) -> Any:
        """As mmengine's; the data set names broken files."""
        policy = checked_choice('broken_pictures', self._policy, BROKEN_PICTURES)
        if policy == 'skip':
            pass_over_broken(self._train_dataloader)
        loop = self._checked_loop(super().build_train_loop, loop, 'train')
        hook = WatchFilesHook(policy)
        hook.watch(loop.dataloader.dataset)
        self.register_hook(hook)
        return loop

    def build_val_loop(self, loop: Any) -> Any:
        """As mmengine's; the data set names broken files."""
        return self._watched(self._checked_loop(super().build_val_loop, loop, 'val'))

    def build_test_loop(self, loop: Any) -> Any:
        """As mmengine's; the data set names broken files."""
        return self._watched(self._checked_loop(super().build_test_loop, loop, 'test'))

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """As mmengine's; rates that are no numbers are refused."""
        optimizer = optim_wrapper.get('optimizer') if isinstance(optim_wrapper, dict) else None
        for name in ('lr', 'weight_decay'):
            if isinstance(optimizer, dict) and optimizer.get(name) is not None:
                checked_number(f'optim_wrapper.optimizer.{name}', optimizer[name], 0)
        return super().build_optim_wrapper(optim_wrapper)

    @property
    def _policy(self) -> str:
        return self.cfg.get('broken_pictures', 'raise')

    @staticmethod
    def _watched(loop: Any) -> Any:
        watch_files(loop.dataloader.dataset)
        return loop

    def _checked_loop(self, build: Callable, loop: Any, split: str) -> Any:
        try:
            loop = build(loop)
        except TypeError as error:
            # an argument that the loop does not take
            if traceback.extract_tb(error.__traceback__)[-1].name != build.__name__:
                raise
            raise OptionError(f'{split}_cfg of the config does not fit its loop: {error}') from error
        model = unwrapped(self.model)
        check_head(model)
        check_classes(model, loop.dataloader.dataset, f'{split}_dataloader')
        check_image_size(model, loop.dataloader.dataset, f'{split}_dataloader')
        return loop


#: what reads files beside a pipeline, and has the policy as its own option ``on_error``
READERS = ('LabelledImages', 'TokenBudgetBatchSampler')


def pass_over_broken(cfg: Any) -> None:
    """Sets ``on_error='skip'`` for every one of :data:`READERS` in the config of a data loader that does not say it."""
    for part in cfg.values() if isinstance(cfg, dict) else cfg if isinstance(cfg, (list, tuple)) else ():
        pass_over_broken(part)
    if isinstance(cfg, dict) and type_name(cfg.get('type')) in READERS:
        cfg.setdefault('on_error', 'skip')


#: parts of mmdetection's models with a number of classes; those of a cascade are lists
DETECTION_HEADS = ('bbox_head', 'mask_head', 'roi_head.bbox_head', 'roi_head.mask_head')
#: of mmsegmentation's
SEGMENTATION_HEADS = ('decode_head', 'auxiliary_head')

NO_SAMPLES = 'a data set of the config has no samples: check its ann_file, data_prefix and filter_cfg'


def check_head(model: Any) -> None:
    """Raises an OptionError for a classifier whose head takes other channels than a backbone of this package gives."""
    backbone, channels = getattr(model, 'backbone', None), None
    if isinstance(backbone, PlainBackbone):
        channels = backbone.embed_dims
    elif isinstance(backbone, PyramidVisionLLaMA):
        channels = backbone.embed_dims[backbone.out_indices[-1]]
    taken = getattr(getattr(model, 'head', None), 'in_channels', None)
    if channels is None or not isinstance(taken, int) or getattr(model, 'neck', None) is not None:
        return
    if channels != taken:
        raise OptionError(
            f'the head takes {taken} channels and the backbone gives {channels}: '
            f'set model.head.in_channels to {channels}'
        )


def class_counts(model: Any) -> List[Tuple[str, int]]:
    """Options of the heads of a classifier, detector or segmentor, or of a generator, and the classes that they say."""
    counts, kinds = [], {base.__name__ for base in type(model).__mro__}
    # proposals have one class, and heads that compare with texts any number
    is_agnostic = 'RPN' in kinds or hasattr(model, 'language_model')
    # depths have none, and segmentors that compare with texts are no EncoderDecoder
    is_segmentor = 'EncoderDecoder' in kinds and 'DepthEstimator' not in kinds
    detection, segmentation = () if is_agnostic else DETECTION_HEADS, SEGMENTATION_HEADS if is_segmentor else ()
    for part in ('head', 'network', *detection, *segmentation):
        head: Any = model
        for name in part.split('.'):
            head = getattr(head, name, None)
        for stage in head if isinstance(head, nn.ModuleList) else [head]:
            # STDC's second head tells edges from the rest
            is_of_others = getattr(stage, 'class_agnostic', False) or hasattr(stage, 'boundary_threshold')
            classes = None if is_of_others else getattr(stage, 'num_classes', None)
            if isinstance(classes, int) and not isinstance(classes, bool):
                counts.append((f'model.{part}.num_classes', classes))
    return counts


def check_classes(model: Any, dataset: Dataset, name: str) -> None:
    """Raises an OptionError for a data set of more or fewer classes than the model has: its labels mean others."""
    metainfo = getattr(dataset, 'metainfo', None) or {}
    # mmdetection's ConcatDataset has a list where those of its data sets differ
    for each in metainfo if isinstance(metainfo, list) else [metainfo]:
        found = each.get('classes')
        if found is None or 'thing_classes' in each:  # those of panoptic data are shared out among the heads
            continue
        wrong = [(option, count) for option, count in class_counts(model) if count != len(found)]
        if not wrong:
            continue
        names = ', '.join(map(str, found[:4])) + (', ...' if len(found) > 4 else '')
        options, counts = (' and '.join(dict.fromkeys(map(str, column))) for column in zip(*wrong))
        raise OptionError(
            f'the data set of {name} has {len(found)} classes ({names}) and the model has {counts}: '
            f'check the classes of the data set, or set {options} to {len(found)}'
        )


def check_image_size(model: Any, dataset: Dataset, name: str) -> None:
    """Raises an OptionError for images, or latents of images, of another size than the generator is for."""
    if not isinstance(model, ImageGenerator) or not isinstance(dataset, (LatentShards, LabelledImages)):
        return
    is_stored = isinstance(dataset, LatentShards)
    size = dataset.image_size if is_stored else dataset.size
    # a model that keeps the anchor of a smaller size samples at the size that it goes on with
    if size is None or (size, size) in (model.anchor_size, model.image_size):
        return
    height, width = model.anchor_size
    what = f'latents of {name} were encoded from' if is_stored else f'images of {name} have'
    raise OptionError(
        f'the {what} {size}x{size} pixels and the model is for {height}x{width}: choose others, or set '
        f'model.network.anchor to {size // model.codec.downsample} (or model.image_size to {size}, which keeps the '
        f'anchor)'
    )
