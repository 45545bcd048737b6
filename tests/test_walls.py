"""The package's walls: which folder may import which, and how long files and functions are."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmvisionllama'
FILES = sorted(PACKAGE.rglob('*.py'))

#: floors of the house, the ground first; a folder imports from its own floor's folders never, from lower ones freely
FLOORS = (
    {'errors', 'model_zoo', 'moved', 'requirements', 'version'},
    {'layers'},
    {'checkpoints'},
    {'backbones', 'datasets', 'losses', 'quantization'},
    {'generation', 'necks', 'pretraining'},
    {'analysis', 'zoo'},
    {'visualization'},
    {'deploy', 'engine'},
    {'hub', 'launch', 'mmpretrain_hub'},
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str:
    """First part of a module's name below the package."""
    return module.split('.')[1]


def module_of(path: Path) -> str:
    parts = ('mmvisionllama', *path.relative_to(PACKAGE).with_suffix('').parts)
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports_of(path: Path):
    """Modules of the package that a file imports, those inside functions included."""
    package = ('mmvisionllama', *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = '.'.join(package[: len(package) - node.level + 1]) if node.level else ''
            base = '.'.join(part for part in (base, node.module) if part)
            for name in node.names:
                target = PACKAGE.joinpath(*f'{base}.{name.name}'.split('.')[1:])
                is_module = target.is_dir() or target.with_suffix('.py').is_file()
                yield f'{base}.{name.name}' if is_module else base
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


ARROWS = sorted(
    {
        (module_of(path), target)
        for path in FILES
        for target in imports_of(path)
        if target.startswith('mmvisionllama.') and target != module_of(path)
    }
)


def test_every_room_has_a_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix('.py') for path in FILES} - {'__init__', 'doctor'}
    assert rooms <= set(FLOOR_OF), 'add the new folder to FLOORS'
    assert len(ARROWS) > 150


def test_no_import_runs_upwards():
    upwards = [
        f'{source} -> {target}'
        for source, target in ARROWS
        if '.' in source
        and room_of(source) in FLOOR_OF
        and room_of(source) != room_of(target)
        and FLOOR_OF[room_of(target)] >= FLOOR_OF[room_of(source)]
    ]
    assert not upwards


def test_no_import_goes_in_circles():
    graph = {}
    for source, target in ARROWS:
        graph.setdefault(source, set()).add(target)
    done, path = set(), []

    def visit(module):
        if module in path:
            pytest.fail(' -> '.join([*path[path.index(module) :], module]))
        if module not in done:
            path.append(module)
            # a package's __init__ gathers what its modules define; only what modules themselves import can circle
            for target in sorted(graph.get(module, ())):
                visit(target)
            done.add(path.pop())

    for module in sorted(graph):
        visit(module)


def test_layers_are_plain_pytorch():
    for path in (PACKAGE / 'layers').glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            # Triton kernels are imported on GPUs only
            allowed = ('torch', 'triton') if path.name.startswith('triton_') else ('torch',)
            for name in names:
                assert name.split('.')[0] in (*allowed, *sys.stdlib_module_names), f'{path.name}: {name}'


def body_lines(function) -> int:
    """Lines after the signature and the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_files_and_functions_stay_short():
    long = [f'{path.name}: {n} lines' for path in FILES if (n := len(path.read_text().splitlines())) > 350]
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and body_lines(node) > 60:
                long.append(f'{path.name}: {node.name} has {body_lines(node)} lines')
    assert not long
