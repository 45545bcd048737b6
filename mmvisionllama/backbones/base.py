"""What every backbone of this package shares: architecture tables, pre-trained weights, freezing, initial values."""

import math
from typing import Any, Dict, List, Optional, Sequence, Union

from mmengine.model import BaseModule
from torch import nn

from ..checkpoints.reading import load_pretrained
from ..layers.embed import resize_pos_embed


class BaseBackbone(BaseModule):
    """Base of the backbones.

    ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` loads with weights-only unpickling, logs by
    name what is missing or left over, and refuses a checkpoint that lacks more than 5 % of the weights (``max_missing``
    in the same dict changes that limit).
    """

    #: name -> settings; one row of the table of architectures
    arch_zoo: Dict[str, Dict[str, Any]] = {}
    #: settings that a dict given as ``arch`` must have
    arch_keys: Sequence[str] = ()

    @classmethod
    def resolve_arch(cls, arch: Union[str, dict]) -> Dict[str, Any]:
        """Settings of a named architecture, or the checked dict itself.

        Raises:
            ValueError: For an unknown name (the message lists the known ones) or a dict with settings missing.
        """
        if isinstance(arch, str):
            name = arch.lower()
            for key, settings in cls.arch_zoo.items():
                if name in (key, *settings.get('aliases', ())):
                    return {k: v for k, v in settings.items() if k != 'aliases'}
            raise ValueError(
                f'unknown arch {arch!r} of {cls.__name__}: choose one of {", ".join(cls.arch_zoo)} or a dict'
            )
        missing = [key for key in cls.arch_keys if key not in arch]
        if missing:
            raise ValueError(f'the arch dict of {cls.__name__} lacks {", ".join(missing)}')
        return dict(arch)

    @staticmethod
    def resolve_out_indices(out_indices: Union[int, Sequence[int]], depth: int) -> List[int]:
        """Non-negative indices; raises a ValueError for one that is out of range."""
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        resolved = [index + depth if index < 0 else index for index in indices]
        for given, index in zip(indices, resolved):
            if not 0 <= index < depth:
                raise ValueError(f'out_indices {given} is out of range: there are {depth} (0 ... {depth - 1})')
        return resolved

    def init_weights(self) -> None:
        """Applies ``init_cfg``; without one the values set by the constructor stay."""
        cfgs = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg or {}]
        pretrained = [cfg for cfg in cfgs if cfg.get('type') == 'Pretrained']
        if not pretrained:
            super().init_weights()
            return
        kept = self.init_cfg
        self.init_cfg = [cfg for cfg in cfgs if cfg.get('type') != 'Pretrained']
        super().init_weights()
        self.init_cfg = kept
        for cfg in pretrained:
            options = {k: cfg[k] for k in ('max_missing', 'unsafe') if k in cfg}
            load_pretrained(self, cfg['checkpoint'], cfg.get('prefix'), **options)

    def _resize_loaded_pos_embed(self, state_dict: dict, prefix: str, *args) -> None:
        """Load-state-dict hook of backbones with a ``pos_embed`` for their ``pos_embed_grid``."""
        # the file does not say its grid: a square one is assumed, any other is left to the usual shape error
        stored = state_dict.get(prefix + 'pos_embed')
        if stored is not None and stored.ndim == 3 and stored.shape[1] != self.pos_embed.shape[1]:
            side = math.isqrt(stored.shape[1])
            if side**2 == stored.shape[1]:
                state_dict[prefix + 'pos_embed'] = resize_pos_embed(
                    stored, (side, side), self.pos_embed_grid, self.interpolate_mode
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


DROP_PATH_MODES = ('linear', 'uniform')


def drop_path_rates(rate: float, depth: int, mode: str = 'linear') -> List[float]:
    """Stochastic depth rate of each block: growing from 0 to ``rate``, or the same everywhere."""
    if mode not in DROP_PATH_MODES:
        raise ValueError(f'unknown drop_path_mode {mode!r}: choose one of {", ".join(map(repr, DROP_PATH_MODES))}')
    if mode == 'uniform':
        return [float(rate)] * depth
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def checked_choice(name: str, value: Optional[str], choices: Sequence[Optional[str]]) -> Optional[str]:
    """``value`` if it is one of ``choices``; otherwise a ValueError that lists them."""
    if value not in choices:
        raise ValueError(f'unknown {name} {value!r}: choose one of {", ".join(map(repr, choices))}')
    return value
