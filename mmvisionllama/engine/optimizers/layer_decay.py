"""Layer-wise learning-rate decay for models of mmpretrain, mmsegmentation and mmdetection alike."""

from typing import Dict, List, Tuple

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ...errors import OptionError

OPTIONS = ('layer_decay_rate', 'custom_keys')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that fall with the distance from the output: rate ** (number of depths - 1 - depth).

    A backbone gives the depth of its parameters, wherever it is in the model: any module with a method
    ``get_layer_depth(param_name, prefix)`` that returns ``(depth, number of depths)``, as ours and mmpretrain's have.
    Everything outside (necks, heads) has the full learning rate. Norms, biases and whatever else is one-dimensional,
    tokens and position parameters take no weight decay. Frozen parameters are left out.

    Args:
        optim_wrapper_cfg: The optimizer wrapper; its ``optimizer`` says lr and weight_decay.
        paramwise_cfg: ``layer_decay_rate``, the factor per layer in (0, 1]; and optionally ``custom_keys``, part of a
            parameter's name to ``dict(lr_mult=..., decay_mult=...)``, factors on top (the longest match counts;
            ``decay_mult`` replaces the rule for weight decay).

    Raises:
        OptionError: Without a layer_decay_rate in (0, 1], without lr, for unknown options, and for a model whose
            backbone cannot say depths.

    Examples:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     constructor='LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.7),
        ... )
    """

    def _validate_cfg(self) -> None:
        self.paramwise_cfg = dict(self.paramwise_cfg)
        unknown = [key for key in self.paramwise_cfg if key not in OPTIONS]
        if unknown:
            raise OptionError(
                f'paramwise_cfg has {", ".join(unknown)}: {type(self).__name__} knows {", ".join(OPTIONS)} '
                '(paramwise_cfg=dict(_delete_=True, ...) drops what a config inherits)'
            )
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if rate is None or not 0 < rate <= 1:
            raise OptionError(
                f'{type(self).__name__} needs paramwise_cfg=dict(layer_decay_rate=RATE) with RATE in (0, 1], got {rate}'
            )
        if self.base_lr is None:
            raise OptionError(f'{type(self).__name__} scales the learning rate: give optimizer=dict(lr=...)')

    def add_params(self, params: List[dict], module: nn.Module, **kwargs) -> None:
        """Appends one group per learning rate and weight decay, the earliest layers first.

        Args:
            params: The groups; filled in place.
            module: The whole model.
        """
        backbones = find_backbones(module)
        groups: Dict[tuple, dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            depth, num_depths = layer_depth(name, backbones)
            scale = self.paramwise_cfg['layer_decay_rate'] ** (num_depths - 1 - depth)
            custom = self._custom(name)
            lr = self.base_lr * scale * custom.get('lr_mult', 1.0)
            settings = dict(lr=lr)
            if self.base_wd is not None:
                settings['weight_decay'] = self.base_wd * custom.get('decay_mult', float(decays(name, param.ndim)))
            key = (depth - num_depths, *settings.values())
            group = groups.setdefault(key, dict(params=[], **settings, lr_scale=scale, layer_id=depth))
            group['params'].append(param)
        params.extend(groups[key] for key in sorted(groups))
        MMLogger.get_current_instance().info(self._table(params, backbones))

    def _custom(self, name: str) -> dict:
        keys = [key for key in self.paramwise_cfg.get('custom_keys', {}) if key in name]
        return self.paramwise_cfg['custom_keys'][max(keys, key=len)] if keys else {}

    def _table(self, groups: List[dict], backbones: Dict[str, nn.Module]) -> str:
        """One line per depth: the groups of a ViT-B would fill pages parameter by parameter."""
        names = ', '.join(f'{prefix.rstrip(".")} ({type(module).__name__})' for prefix, module in backbones.items())
        lines = [f'layer-wise decay {self.paramwise_cfg["layer_decay_rate"]} in {names}:']
        lines.append(f'{"depth":>6}{"lr":>12}{"weight decay":>14}{"tensors":>9}{"parameters":>13}')
        for group in groups:
            tensors, total = len(group['params']), sum(param.numel() for param in group['params'])
            decay = group.get('weight_decay', 0.0)
            lines.append(f'{group["layer_id"]:>6}{group["lr"]:>12.4g}{decay:>14.4g}{tensors:>9}{total:>13,}')
        return '\n'.join(lines)


def find_backbones(model: nn.Module) -> Dict[str, nn.Module]:
    """Prefix to module of everything that can say depths; of nested ones the innermost, which is the backbone itself.

    Raises:
        OptionError: If there is none.
    """
    found = {f'{name}.' if name else '': module for name, module in model.named_modules() if has_depths(module)}
    found = {
        prefix: module
        for prefix, module in found.items()
        if not any(other != prefix and other.startswith(prefix) for other in found)
    }
    # mmpretrain's classifiers have the method and hand the question to their backbone
    if not found or (len(found) == 1 and hasattr(found.get(''), 'backbone')):
        backbone = getattr(model, 'backbone', model)
        raise no_depths(backbone)
    return found


def no_depths(backbone: nn.Module) -> OptionError:
    return OptionError(
        f'layer-wise decay needs a backbone that says the depth of its parameters, '
        f'get_layer_depth(param_name, prefix) -> (depth, number of depths), and {type(backbone).__name__} does '
        f'not: take a backbone of mmvisionllama, one of mmpretrain that has it, or another constructor'
    )


def has_depths(module: nn.Module) -> bool:
    return callable(getattr(module, 'get_layer_depth', None))


def layer_depth(name: str, backbones: Dict[str, nn.Module]) -> Tuple[int, int]:
    """Depth of a parameter of the model and the number of depths; outside the backbones the last one."""
    own = next((prefix for prefix in backbones if name.startswith(prefix)), None)
    prefix = next(iter(backbones)) if own is None else own
    try:
        depth, num_depths = backbones[prefix].get_layer_depth(name, prefix)
    except NotImplementedError as error:  # mmpretrain's ResNet
        raise no_depths(backbones[prefix]) from error
    if own is None:
        return num_depths - 1, num_depths
    if not 0 <= depth < num_depths:
        raise OptionError(
            f'{type(backbones[prefix]).__name__}.get_layer_depth says depth {depth} of {num_depths} for {name}: '
            f'expected 0 ... {num_depths - 1}'
        )
    return depth, num_depths


def decays(name: str, ndim: int) -> bool:
    """Whether a parameter takes weight decay: matrices and kernels do, but not tokens and position parameters."""
    parts = name.split('.')
    named = any('pos_embed' in part or 'position' in part or part.endswith(('_token', '_tokens')) for part in parts)
    # register tokens, and learned directions of rotary embeddings
    return ndim > 1 and not named and parts[-1] != 'registers' and parts[-2:] != ['rotary', 'vectors']
