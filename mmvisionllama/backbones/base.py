"""What every backbone of this package shares: architecture tables, pre-trained weights, freezing, initial values."""

import math
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import OptionError
from ..layers.embed import PatchEmbed, resize_pos_embed
from ..layers.feedforward import swiglu_hidden
from ..layers.norm import NORMS
from ..layers.options import checked_choice, checked_dict, checked_rate, checked_sides, checked_whole, type_name
from ..layers.valid_grid import BatchPixels, ImageSizes, ValidGrid, checked_sizes, resize_pos_embed_each


class BaseBackbone(BaseModule):
    """Base of the backbones.

    ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` loads with weights-only unpickling, logs by
    name what is missing or left over, and refuses a checkpoint that lacks more than 5 % of the weights (``max_missing``
    in the same dict changes that limit): it is
    :class:`~mmvisionllama.checkpoints.loading.StrictPretrained` here.
    """

    #: name -> settings; one row of the table of architectures
    arch_zoo: Dict[str, Dict[str, Any]] = {}
    #: settings that a dict given as ``arch`` must have
    arch_keys: Sequence[str] = ()
    #: settings that it may have
    arch_options: Sequence[str] = ()

    def __init__(self, init_cfg: Optional[Union[dict, list]] = None) -> None:
        super().__init__(strict_pretrained(init_cfg))
        #: where the images are in the batch that the whole model is at; see :mod:`mmvisionllama.engine.image_sizes`
        self.batch_pixels = BatchPixels()

    def is_output(self, index: int) -> bool:
        """``index in out_indices``, which torch 2.5 takes for False where a compiler makes symbols of numbers."""
        return any(index == other for other in self.out_indices)

    @classmethod
    def resolve_arch(cls, arch: Union[str, dict]) -> Dict[str, Any]:
        """Settings of a named architecture, or the checked dict itself.

        Raises:
            OptionError: For an unknown name (the message lists the known ones) or a dict with settings missing or
                unknown.
        """
        if not isinstance(arch, (str, dict)):
            raise OptionError(f'arch of {cls.__name__} must be a name or a dict, got {arch!r}')
        if isinstance(arch, str):
            name = arch.lower()
            for key, settings in cls.arch_zoo.items():
                if name in (key, *settings.get('aliases', ())):
                    return {k: v for k, v in settings.items() if k != 'aliases'}
            raise OptionError(
                f'unknown arch {arch!r} of {cls.__name__}: choose one of {", ".join(cls.arch_zoo)} or a dict'
            )
        missing = [key for key in cls.arch_keys if key not in arch]
        if missing:
            raise OptionError(f'the arch dict of {cls.__name__} lacks {", ".join(missing)}')
        known = (*cls.arch_keys, *cls.arch_options)
        unknown = [key for key in arch if key not in known]
        if unknown:
            raise OptionError(
                f'the arch dict of {cls.__name__} does not know {", ".join(unknown)}: its keys are {", ".join(known)}'
            )
        return dict(arch)

    @staticmethod
    def resolve_indices(name: str, indices: Union[int, Sequence[int]], depth: int) -> List[int]:
        """Non-negative indices of ``depth`` things; raises an OptionError for one that is out of range."""
        indices = list(indices) if isinstance(indices, (list, tuple, range)) else [indices]
        for index in indices:
            if not -depth <= checked_whole(name, index, -math.inf) < depth:
                raise OptionError(f'{name} {index} is out of range: there are {depth} (0 ... {depth - 1})')
        resolved = [index % depth for index in indices]
        if len(set(resolved)) < len(resolved):
            raise OptionError(f'{name} names one index twice: {indices}')
        return resolved

    @classmethod
    def resolve_out_indices(cls, out_indices: Union[int, Sequence[int]], depth: int) -> List[int]:
        """As :meth:`resolve_indices`; there is at least one, and they ascend as the outputs do."""
        resolved = cls.resolve_indices('out_indices', out_indices, depth)
        if not resolved or resolved != sorted(resolved):
            raise OptionError(f'out_indices must be one index or several that ascend, got {out_indices!r}')
        return resolved

    @staticmethod
    def ffn_options(ffn_cfg: Optional[dict], drop_rate: float) -> dict:
        """``ffn_cfg`` with the backbone's dropout where it names none; SwiGLU by default."""
        return dict(dict(drop=drop_rate), **(checked_dict('ffn_cfg', ffn_cfg) or dict(type='swiglu')))

    @staticmethod
    def rope_options(rope_cfg: Optional[dict]) -> dict:
        """A copy of ``rope_cfg``; an OptionError for what is the backbone's to give."""
        options = checked_dict('rope_cfg', rope_cfg)
        given = [name for name in ('anchor', 'key_position', 'head_dim', 'num_heads', 'sr_ratio') if name in options]
        if given:
            raise OptionError(f'rope_cfg has {given[0]}, which is an argument of the backbone or of its arch')
        return options

    def add_pos_embed(
        self, patch_embed: PatchEmbed, img_size: Union[int, Sequence[int]], extra_tokens: int = 0
    ) -> None:
        """Adds a learnable position embedding for the grid of ``img_size`` and ``extra_tokens`` more rows."""
        self.pos_embed_grid = patch_embed.grid(checked_sides('img_size', img_size))
        tokens = self.pos_embed_grid[0] * self.pos_embed_grid[1] + extra_tokens
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, patch_embed.projection.out_channels))
        self._register_load_state_dict_pre_hook(self._resize_loaded_pos_embed)

    def valid_pixels(self, x: Tensor, valid_sizes: Optional[ImageSizes]) -> Optional[ValidGrid]:
        """Where the images are in the padded batch ``x``, ``(B, C, H, W)``; None if all of it is image."""
        if isinstance(x, (list, tuple)):
            raise ValueError(f'{type(self).__name__} takes no packed images: pad them and give valid_sizes instead')
        if valid_sizes is not None:
            return ValidGrid(checked_sizes(valid_sizes, x), x.shape[2:])
        batch = self.batch_pixels.get()
        if batch is not None and batch.mask.shape != (len(x), *x.shape[2:]):
            raise ValueError(
                f'the images of a padded batch {tuple(batch.mask.shape)} came as {(len(x), *x.shape[2:])}: with cut or '
                f'resized batches (slide inference, say) test one image at a time without padding'
            )
        return batch

    @property
    def first_patch(self) -> Tuple[int, int]:
        """Pixels (height, width) of a token of the first map."""
        return next(module.patch_size for module in self.modules() if isinstance(module, PatchEmbed))

    def pos_embed_for(self, grid: Sequence[int], valid: Optional[ValidGrid] = None) -> Tensor:
        """The patches' position embedding for ``grid``, or for each image's own: ``(1 | B, H * W, C)``."""
        if valid is None:
            return resize_pos_embed(self.pos_embed, self.pos_embed_grid, grid, self.interpolate_mode)
        return resize_pos_embed_each(self.pos_embed, self.pos_embed_grid, valid, self.interpolate_mode)

    def _resize_loaded_pos_embed(self, state_dict: dict, prefix: str, *args) -> None:
        """Load-state-dict hook of backbones with a ``pos_embed`` for their ``pos_embed_grid``."""
        # the file does not say its grid: as many tokens as here are taken for the same grid, another square number for
        # a square one; any other is left to the usual shape error
        stored = state_dict.get(prefix + 'pos_embed')
        if stored is not None and stored.ndim == 3 and stored.shape[1] != self.pos_embed.shape[1]:
            side = math.isqrt(stored.shape[1])
            if side**2 == stored.shape[1]:
                state_dict[prefix + 'pos_embed'] = resize_pos_embed(
                    stored, (side, side), self.pos_embed_grid, self.interpolate_mode
                )

    def refuse_mask(self, mask: Any) -> None:
        """Raises an OptionError for a mask: masked image modelling asks its backbone to hide patches."""
        if mask is not None:
            raise OptionError(
                f'{type(self).__name__} hides no patches: MAE takes MAEVisionLLaMA; methods that hand a mask to their '
                f'backbone (SimMIM, BEiT, MaskFeat) need one that replaces the masked patches, which this package lacks'
            )

    def frozen_modules(self) -> List[Union[nn.Module, nn.Parameter]]:
        """What ``frozen_stages`` freezes."""
        return []

    def _freeze_stages(self) -> None:
        for part in self.frozen_modules():
            if isinstance(part, nn.Module):
                part.eval()
                part.requires_grad_(False)
            else:
                part.requires_grad = False

    def train(self, mode: bool = True) -> 'BaseBackbone':
        """Switches the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        return self


def init_linear(module: nn.Module, std: float = 0.02) -> None:
    """Truncated normal weights and zero biases for linear layers; for ``Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_conv(module: nn.Module) -> None:
    """Normal weights of std ``sqrt(2 / fan_out)`` and zero biases for convolutions, Twins' initial values."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def is_pretrained(cfg: dict) -> bool:
    """Whether an initialiser loads weights: named, or, in pure Python configs and dumped ones, by class or its path."""
    return type_name(cfg.get('type')) in ('Pretrained', 'PretrainedInit', 'StrictPretrained')


def strict_pretrained(init_cfg: Optional[Union[dict, list]]) -> Optional[Union[dict, list]]:
    """``init_cfg`` with this package's initialiser in the place of mmengine's ``Pretrained``, last as it is there."""
    if not init_cfg:
        return init_cfg
    cfgs = [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg)
    strict = [dict(cfg, type='StrictPretrained') for cfg in cfgs if is_pretrained(cfg)]
    if not strict:
        return init_cfg
    return strict[0] if isinstance(init_cfg, dict) else [cfg for cfg in cfgs if not is_pretrained(cfg)] + strict


def resolved_norm(cfg: dict, name: str = 'norm_cfg') -> dict:
    """``norm_cfg``, or what has this name, whose type is one of :data:`~mmvisionllama.layers.norm.NORMS` or a class."""
    cfg = checked_dict(name, cfg)
    kind = cfg.get('type', 'LN')
    registered = MODELS.get(kind) if isinstance(kind, str) and kind not in NORMS else None
    return dict(cfg, type=registered) if registered is not None else cfg


def hidden_channels(embed_dims: int, given: Optional[int], ffn_cfg: dict) -> Optional[int]:
    """Hidden size of a feed-forward layer: the given one, or SwiGLU's for its type, or None for the layer's own."""
    if given is None and ffn_cfg.get('type', 'swiglu') == 'swiglu':
        return swiglu_hidden(embed_dims)
    return given


def per_stage(settings: Dict[str, Any], defaults: Dict[str, Any], whole: Sequence[str]) -> Dict[str, Any]:
    """Settings of an architecture with one value per stage, those that are left out filled in.

    Args:
        settings: ``depths`` and others; each a list, or None.
        defaults: Values for the most stages there are.
        whole: Settings whose values are positive whole numbers.

    Raises:
        OptionError: For a setting that is no list, is of another length than ``depths``, or holds another value.
    """
    for key, values in settings.items():
        if values is not None and (not isinstance(values, (list, tuple)) or not values):
            raise OptionError(f'arch {key} must be a list with one value per stage, got {values!r}')
    stages = len(settings['depths'])
    settings = {**{key: values and values[:stages] for key, values in defaults.items()}, **settings}
    for key, values in settings.items():
        if values is not None and len(values) != stages:
            raise OptionError(f'arch {key} has {len(values)} values for {stages} stages: give one per stage')
        for value in values if key in whole else ():
            checked_whole(f'arch {key}', value)
    return settings


DROP_PATH_MODES = ('linear', 'uniform')


def drop_path_rates(rate: float, depth: int, mode: str = 'linear') -> List[float]:
    """Stochastic depth rate of each block: growing from 0 to ``rate``, or the same everywhere."""
    checked_rate('drop_path_rate', rate)
    if checked_choice('drop_path_mode', mode, DROP_PATH_MODES) == 'uniform':
        return [float(rate)] * depth
    return [rate * i / max(depth - 1, 1) for i in range(depth)]
