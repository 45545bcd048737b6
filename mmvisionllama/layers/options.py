"""Small helpers for the arguments of layers and models."""

import inspect
import math
from numbers import Integral, Real
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from ..errors import OptionError


def type_name(kind: Any) -> str:
    """The last part of a type's name; in a config it may be a name, one with dots or a class."""
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def checked_choice(name: str, value: Any, choices: Sequence[Any], aliases: Optional[Mapping[Any, Any]] = None) -> Any:
    """The choice that ``value`` names.

    Args:
        name: Name of the argument, for the message.
        value: What was given.
        choices: What it may be.
        aliases: Other spelling -> choice.

    Raises:
        OptionError: For anything else; the message lists the choices.
    """
    # 0 == False and 1 == True: a number is no switch
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
    if aliases and isinstance(value, str) and value in aliases:
        return aliases[value]
    raise OptionError(f'unknown {name} {value!r}: choose one of {", ".join(map(repr, choices))}')


def checked_whole(name: str, value: Any, least: float = 1, most: Optional[int] = None) -> int:
    """``value``, or an OptionError unless it is a whole number in ``least`` ... ``most``."""
    if not _is_whole(value) or value < least or (most is not None and value > most):
        kind = 'positive whole number' if least == 1 and most is None else 'whole number'
        span = '' if most is None else f' in {least} ... {most}'
        if most is None and least != 1 and math.isfinite(least):
            span = f' of at least {least}'
        raise OptionError(f'{name} must be a {kind}{span}, got {value!r}')
    return int(value)


def checked_number(name: str, value: Any, least: float = -math.inf) -> float:
    """``value``, or an OptionError unless it is a finite number of at least ``least``."""
    if not _is_finite(value) or value < least:
        span = '' if math.isinf(least) else f' of at least {least:g}'
        raise OptionError(f'{name} must be a finite number{span}, got {value!r}')
    return value


def checked_positive(name: str, value: Any) -> float:
    """``value``, or an OptionError unless it is a finite number above 0."""
    if not _is_finite(value) or value <= 0:
        raise OptionError(f'{name} must be positive and finite, got {value!r}')
    return value


def checked_rate(name: str, value: Any) -> float:
    """``value``, or an OptionError unless it is a number in [0, 1)."""
    if not _is_finite(value) or not 0 <= value < 1:
        raise OptionError(f'{name} must be in [0, 1), got {value!r}')
    return value


def checked_sides(name: str, value: Any) -> Tuple[int, int]:
    """A whole number n above 0 as ``(n, n)``, a (height, width) pair as it is, or an OptionError."""
    sides = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(sides) != 2 or not all(_is_whole(side) and side > 0 for side in sides):
        raise OptionError(f'{name} must be a positive whole number or a (height, width) pair of them, got {value!r}')
    return sides


def check_heads(embed_dims: Any, num_heads: Any) -> None:
    """Raises an OptionError unless the heads divide the channels."""
    if checked_whole('embed_dims', embed_dims) % checked_whole('num_heads', num_heads):
        raise OptionError(f'num_heads {num_heads} does not divide embed_dims {embed_dims}')


def check_flags(**flags: Any) -> None:
    """Raises an OptionError for a flag that is not True or False; the text 'False' would count as true."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise OptionError(f'{name} must be True or False, got {value!r}')


def checked_dict(name: str, value: Any) -> dict:
    """A copy of a dictionary of options, empty for None; an OptionError for anything else."""
    if value is not None and not isinstance(value, Mapping):
        raise OptionError(f'{name} must be a dictionary of options, got {value!r}')
    return dict(value or {})


def made(name: str, cls: Callable, *args: Any, **options: Any) -> Any:
    """``cls(*args, **options)``, with an OptionError that calls a wrong set of options by the name of their dict."""
    try:
        inspect.signature(cls).bind(*args, **options)
    except TypeError as error:
        raise OptionError(f'{name} does not fit {cls.__name__}: {error}') from error
    return cls(*args, **options)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def to_2tuple(value: Union[int, float, Sequence]) -> Tuple:
    """``n`` to ``(n, n)``; a pair stays a pair."""
    if isinstance(value, (int, float)):
        return (value, value)
    if len(value) != 2:
        raise ValueError(f'expected one number or a (height, width) pair, got {value!r}')
    return tuple(value)


def ceil_div(count: Union[int, float], size: int) -> Union[int, float]:
    """``count / size`` rounded up."""
    if isinstance(count, float):
        return -(-count // size)
    return (count + size - 1) // size  # ONNX divides negative numbers towards zero


def exporting() -> bool:
    """Whether ``torch.export`` is tracing (``strict=False``)."""
    # in a graph of torch.compile is_exporting is true, too
    tracing = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)
    return not torch.compiler.is_dynamo_compiling() and tracing()


def size_agnostic() -> bool:
    """Whether what is traced is to serve other sizes: a branch on one would fix it, or make one more graph."""
    return torch.compiler.is_dynamo_compiling() or exporting()


def may_have_rest(side: int, size: int) -> bool:
    """Whether ``side`` is no multiple of ``size``; of a side that a graph leaves open, always."""
    if not size_agnostic():
        return side % size > 0
    if not torch.compiler.is_dynamo_compiling() or torch.__version__ < '2.9':
        return True
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # takes long to import

    return not statically_known_true(side % size == 0)


def side_ratio(numerator: float, side: int) -> Union[float, Tensor]:
    """``numerator / side``; while exporting a scalar tensor, as runtimes have no division of sizes by Python."""
    if not exporting():
        return numerator / side
    return torch.scalar_tensor(numerator, dtype=torch.float32) / side


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Dtype that autocast gives ``x`` as an input of linear layers, its own without autocast."""
    device = x.device.type
    if x.dtype == torch.float64 or device == 'meta' or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


def autocast(x: Tensor) -> Tensor:
    """``x`` in the dtype that autocast gives the inputs of linear layers, or as it is."""
    return x.to(autocast_dtype(x))


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which positions, angles and rotations of tokens of ``dtype`` are computed."""
    return torch.promote_types(dtype, torch.float32)
