"""Which errors of mmengine's builders are mistakes in a config: told by where they were raised, not by their words."""

import difflib
import traceback
from typing import Optional

from mmengine.registry import build_functions

#: between the builder and an error about the arguments that it handed over
CONSTRUCTION = ('__init__', '__call__', 'get_instance')


def build_mistake(error: Exception) -> Optional[str]:
    """One line about a type that is not registered, or about arguments that do not fit it.

    Args:
        error: Any error.

    Returns:
        str: The line, or None if the error was not raised while a part of a config was constructed.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builders = [
        i
        for i, frame in enumerate(frames)
        if frame.f_code.co_filename == build_functions.__file__ and frame.f_code.co_name == 'build_from_cfg'
    ]
    if not builders:
        return None
    builder, inner = frames[builders[-1]], frames[builders[-1] + 1 :]
    cfg, kind = builder.f_locals['cfg'], builder.f_locals.get('obj_type')
    if not inner and isinstance(error, KeyError):
        if kind is None:
            return f'a part of the config has no type: {_short(cfg)}'
        return f'the config asks for {kind!r}, which is not registered{_similar(builder.f_locals["registry"], kind)}'
    if any(frame.f_code.co_name not in CONSTRUCTION for frame in inner) or not str(error):
        return None
    if isinstance(error, (TypeError, ValueError, AssertionError)):
        name = getattr(kind, '__name__', kind)
        return f'{name} of the config cannot be made: {" ".join(str(error).split())}'
    return None


def _short(cfg: dict) -> str:
    text = str(dict(cfg))
    return text if len(text) < 200 else f'{text[:200]} ...'


def _similar(registry, kind: str) -> str:
    known = set()
    while registry is not None:
        known.update(registry.module_dict)
        registry = registry.parent
    names = {name.lower(): name for name in known}
    close = [names[name] for name in difflib.get_close_matches(str(kind).split('.')[-1].lower(), names, 3, 0.75)]
    advice = 'check its spelling, or name its module in custom_imports'
    return f' (similar: {", ".join(close)}): {advice}' if close else f': {advice}'
