"""What the pickle inside a checkpoint may name: stand-ins that can do nothing else, and a look that runs nothing.

torch's weights-only unpickler calls whatever stands in its list of safe globals with whatever the file says. Each
entry added here is therefore narrower than its namesake: ``getattr`` knows the four statistics of a ``HistoryBuffer``,
a numpy ``dtype`` is plain numbers or text and takes no fields from the file (with them a file can make an array of
pointers), a ``HistoryBuffer`` takes its own three attributes, an ``argparse.Namespace``, which the published files
hold, is filled once, and a ``ConfigDict`` takes a dictionary.
"""

import argparse
import contextlib
import pickle
import re
from typing import Any, Callable, Iterator, List, Optional, Tuple

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging.history_buffer import HistoryBuffer

#: modules whose functions run commands, import code or open files; what a checkpoint names of them is no accident
CODE_MODULES = (
    r'(_io|_pickle|_posixsubprocess|asyncio|bdb|builtins|__builtin__|cProfile|code|codeop|commands|ctypes|doctest|'
    r'ensurepip|functools|gc|importlib|inspect|io|marshal|multiprocessing|nt|operator|os|pathlib|pdb|pickle|pip|'
    r'pkgutil|platform|posix|profile|pty|pydoc|runpy|shutil|signal|site|socket|sqlite3|ssl|subprocess|sys|tempfile|'
    r'threading|timeit|trace|types|urllib|venv|webbrowser|zipimport|torch\.hub|torch\.utils\.cpp_extension)\..+'
)

#: what the modules above have that holds data, or does nothing by itself
HARMLESS = (
    r'(builtins|__builtin__)\.(bool|bytearray|bytes|complex|dict|float|frozenset|getattr|int|list|long|object|range|'
    r'set|slice|str|tuple|unicode|xrange)|functools\.partial|operator\.(attr|item)getter|types\.SimpleNamespace|'
    r'pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path'  # _local: Python 3.13
)

STATISTICS = ('min', 'max', 'current', 'mean')


def _refuse(what: str) -> None:
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {what}')  # worded as torch words it


class _PlainDtype:
    """``numpy.dtype`` of numbers, truth values and text; the byte order is all that it takes from its state."""

    def __init__(self, name: str, align: Any = False, copy: Any = False) -> None:
        if not isinstance(name, str) or not re.fullmatch(r'[|<>=]?([biufc]\d{1,2}|[SU]\d{1,6})', name):
            _refuse(f'numpy.dtype({name!r:.60})')
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])


class _PlainArray(np.ndarray):
    """``numpy.ndarray`` that is filled once, with bytes of a plain dtype; pickled again it is an ordinary array."""

    def __new__(cls, *args: Any) -> None:
        _refuse('numpy.ndarray(...)')

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if self.__dict__.get('filled') or not isinstance(dtype, _PlainDtype) or not isinstance(data, bytes):
            _refuse('numpy.ndarray of objects')
        self.filled = True
        super().__setstate__((1, shape, dtype.dtype, fortran, data))

    def __reduce__(self) -> tuple:
        return self.view(np.ndarray).__reduce__()


class _PlainHistory(HistoryBuffer):
    """``HistoryBuffer`` that turns into a real one when its numbers arrive; its table of methods stays the class's."""

    def __setstate__(self, state: dict) -> None:
        log, count, length = state['_log_history'], state['_count_history'], state['max_length']
        if not isinstance(log, np.ndarray) or not isinstance(count, np.ndarray) or not isinstance(length, int):
            _refuse('mmengine.logging.history_buffer.HistoryBuffer(...)')
        self._set_default_statistics()
        self.__dict__ = dict(max_length=length, _log_history=np.array(log), _count_history=np.array(count))
        self.__class__ = HistoryBuffer


class _PlainNamespace(argparse.Namespace):
    """``argparse.Namespace`` that turns into a real one when its attributes arrive."""

    def __setstate__(self, state: dict) -> None:
        if type(state) is not dict or not all(isinstance(key, str) for key in state):
            _refuse('argparse.Namespace(...)')
        self.__class__ = argparse.Namespace
        self.__dict__.update(state)


class _PlainConfig:
    """``ConfigDict``, which a config gives a data set's ``metainfo`` for a dictionary in it, and the Runner saves.

    It takes its values as they are: copies of what it holds several times could be far larger than the file.
    """

    def __new__(cls, *args: Any) -> ConfigDict:
        # earlier mmengines pickle it item by item, which torch allows for its own dictionaries alone
        if len(args) != 1 or type(args[0]) is not dict:
            _refuse('mmengine.config.config.ConfigDict(...)')
        found = ConfigDict()
        dict.update(found, args[0])
        return found


def _statistic(owner: Any, name: str) -> Callable:
    if owner is not _PlainHistory or name not in STATISTICS:
        _refuse(f'builtins.getattr({getattr(owner, "__name__", owner)!r:.60}, {name!r:.60})')
    return getattr(HistoryBuffer, name)


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not _PlainArray:
        _refuse('numpy.core.multiarray._reconstruct(...)')
    return np.ndarray.__new__(_PlainArray, (0,), 'b')


def _scalar(dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, _PlainDtype) or not isinstance(data, bytes):
        _refuse('numpy.core.multiarray.scalar(...)')
    return np.frombuffer(data, dtype.dtype, count=1)[0]


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != 'latin1':
        _refuse('_codecs.encode(...)')
    return text.encode('latin1')


def _as(thing: Any, module: str, name: str) -> Any:
    """``thing`` under the name that a file calls it by."""
    thing.__module__, thing.__name__, thing.__qualname__ = module, name, name
    return thing


def _stand_ins() -> List[Any]:
    found = [
        _as(_PlainHistory, HistoryBuffer.__module__, 'HistoryBuffer'),
        _as(_PlainNamespace, 'argparse', 'Namespace'),
        _as(_PlainArray, 'numpy', 'ndarray'),
        _as(_PlainDtype, 'numpy', 'dtype'),
        _as(_statistic, 'builtins', 'getattr'),
        _as(_PlainConfig, ConfigDict.__module__, 'ConfigDict'),
        _as(_latin1, '_codecs', 'encode'),  # bytes in a pickle of protocol 2; torch 2.4 does not know it
        slice,
        range,
    ]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # numpy 1 and 2
        found.append(_as(lambda *args: _reconstruct(*args), module, '_reconstruct'))
        found.append(_as(lambda *args: _scalar(*args), module, 'scalar'))
    return found


STAND_INS = _stand_ins()


@contextlib.contextmanager
def safe_globals() -> Iterator[None]:
    """torch's list with the stand-ins, and with what the user allowed but their namesakes; afterwards as it was."""
    names = {(thing.__module__, thing.__qualname__) for thing in STAND_INS}

    def is_namesake(thing: Any) -> bool:
        if isinstance(thing, tuple):  # torch >= 2.6: (object, name in the file)
            return tuple(thing[1].rsplit('.', 1)) in names
        return (getattr(thing, '__module__', None), getattr(thing, '__qualname__', None)) in names

    before = list(torch.serialization.get_safe_globals())
    torch.serialization.clear_safe_globals()  # torch 2.4 has no context manager for it
    try:
        torch.serialization.add_safe_globals([thing for thing in before if not is_namesake(thing)] + STAND_INS)
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


class _Inert:
    """Stands for everything a pickle names while it is only looked at: can be called and filled, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> '_Inert':
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any) -> '_Inert':
        return _Inert()

    def _ignore(self, *args: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


class Look(pickle._Unpickler):  # the one in Python: C's allocates what the file asks for
    """Reads a pickle without importing or calling anything that it names.

    Attributes:
        names: ``(module, name)`` of every global, in order.
        storages: The persistent ids, i.e. what the tensors claim to be stored in.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding='utf-8', errors='surrogateescape')
        self.names: List[Tuple[str, str]] = []
        self.storages: List[Any] = []

    def find_class(self, module: str, name: str) -> type:
        self.names.append((module, name))
        return type(name, (_Inert,), {})

    def persistent_load(self, pid: Any) -> _Inert:
        self.storages.append(pid)
        return _Inert()

    def code(self) -> Optional[str]:
        """The first global that means code rather than data."""
        for full in map('.'.join, self.names):
            if re.fullmatch(CODE_MODULES, full, re.DOTALL) and not re.fullmatch(HARMLESS, full):
                return full
        return None
