"""Small helpers for the arguments of layers and models."""

from typing import Any, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor


def checked_choice(name: str, value: Any, choices: Sequence[Any], aliases: Optional[Mapping[Any, Any]] = None) -> Any:
    """The choice that ``value`` names.

    Args:
        name: Name of the argument, for the message.
        value: What was given.
        choices: What it may be.
        aliases: Other spelling -> choice.

    Raises:
        ValueError: For anything else; the message lists the choices.
    """
    # 0 == False and 1 == True: a number is no switch
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
    if aliases and isinstance(value, str) and value in aliases:
        return aliases[value]
    raise ValueError(f'unknown {name} {value!r}: choose one of {", ".join(map(repr, choices))}')


def to_2tuple(value: Union[int, float, Sequence]) -> Tuple:
    """``n`` to ``(n, n)``; a pair stays a pair."""
    if isinstance(value, (int, float)):
        return (value, value)
    if len(value) != 2:
        raise ValueError(f'expected one number or a (height, width) pair, got {value!r}')
    return tuple(value)


def exporting() -> bool:
    """Whether ``torch.export`` is tracing: a branch on a size would then fix that size in the program."""
    return getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)()


def num_cells(length: int, cell: int) -> int:
    """``ceil(length / cell)``, by a division of positive numbers only: that of ONNX rounds towards zero."""
    return (length + (cell - 1)) // cell


def side_ratio(numerator: float, side: int) -> Union[float, Tensor]:
    """``numerator / side``; while exporting a scalar tensor, as runtimes have no division of sizes by Python."""
    if not exporting():
        return numerator / side
    return torch.scalar_tensor(numerator, dtype=torch.float32) / side


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which positions, angles and rotations of tokens of ``dtype`` are computed."""
    return torch.promote_types(dtype, torch.float32)
