"""``python -m mmvisionllama.doctor``: what is installed, whether it fits together, and which tasks are ready."""

import importlib
import importlib.metadata
import platform
import shutil
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple

#: import name -> (distribution of the maintained line, OpenMMLab's own distribution)
MM_LIBRARIES = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
}
#: lowest and first too high version of each distribution that this package was tested with
SUPPORTED = {
    'onedl-mmengine': ('0.10.12', None),
    'onedl-mmcv': ('2.3.6', None),
    'onedl-mmpretrain': ('1.3.6', None),
    'onedl-mmsegmentation': ('1.4.2', None),
    'onedl-mmdetection': ('3.5.1', None),
    'mmengine': ('0.10.7', None),
    'mmcv': ('2.1.0', '2.2'),
    'mmpretrain': ('1.2.0', None),
    'mmsegmentation': ('1.2.2', None),
    'mmdet': ('3.3.0', None),
}
#: task -> what it needs
TASKS = {
    'classification': ('mmpretrain',),
    'MAE': ('mmpretrain',),
    'segmentation': ('mmseg',),
    'detection': ('mmdet', 'mmcv.ops'),
    'generation': ('diffusers', 'torchdiffeq'),
}
EXTRA = {
    'mmpretrain': 'onedl',
    'mmseg': 'onedl',
    'mmdet': 'onedl',
    'mmcv': 'onedl',
    'diffusers': 'generation',
    'torchdiffeq': 'generation',
}


class Check(NamedTuple):
    """One line of the screen. ``ok`` is None where nothing is wrong but nothing is there either."""

    name: str
    ok: Optional[bool]
    text: str


def _version(distribution: str) -> Optional[str]:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> Tuple[int, ...]:
    parts = []
    for part in version.split('+')[0].split('.'):
        digits = ''.join(c for c in part if c.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def import_error(name: str) -> Optional[str]:
    """First line of the error that importing ``name`` raises, None if it imports."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken build can raise anything
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def check_library(name: str) -> Check:
    """Which distribution provides an mm library and whether its version fits."""
    found = [(d, _version(d)) for d in MM_LIBRARIES[name]]
    found = [(d, v) for d, v in found if v]
    if not found:
        return Check(name, None, 'not installed')
    if len(found) == 2:
        both = ' and '.join(f'{d} {v}' for d, v in found)
        return Check(name, False, f'{both} overwrite each other: uninstall both, then install one')
    distribution, version = found[0]
    low, high = SUPPORTED[distribution]
    text = f'{distribution} {version}'
    if _numbers(version) < _numbers(low) or (high and _numbers(version) >= _numbers(high)):
        wanted = f'>={low}' + (f',<{high}' if high else '')
        return Check(name, False, f"{text} does not fit: pip install '{distribution}{wanted}'")
    error = import_error(name)
    if error:
        return Check(name, False, f'{text} does not import: {error}')
    return Check(name, True, text)


def check_torch() -> List[Check]:
    """torch, CUDA and torchvision."""
    version = _version('torch')
    if version is None:
        return [Check('torch', False, 'not installed: pytorch.org says how for your CUDA version')]
    error = import_error('torch')
    if error:
        return [Check('torch', False, f'{version} does not import: {error}')]
    import torch

    fits = _numbers(version) >= (2, 4)
    checks = [Check('torch', fits, version if fits else f'{version} is too old: torch >= 2.4 is needed')]
    if torch.cuda.is_available():
        cards = ', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        checks.append(Check('CUDA', True, f'{torch.version.cuda}: {cards}'))
    else:
        checks.append(Check('CUDA', None, 'no GPU found: everything runs on the CPU'))
    vision = _version('torchvision')
    if vision:
        error = import_error('torchvision')
        checks.append(Check('torchvision', not error, vision if not error else f'{vision} does not fit torch: {error}'))
    return checks


def check_operators(libraries: Dict[str, Check]) -> Check:
    """mmcv's compiled operators, which mmdet needs."""
    if not libraries['mmcv'].ok:
        return Check('mmcv operators', None, 'mmcv is not usable')
    error = import_error('mmcv.ops')
    if error:
        distribution = libraries['mmcv'].text.split()[0]
        return Check(
            'mmcv operators',
            None,
            f'not compiled; detection needs them: pip install --no-build-isolation --no-cache-dir --force-reinstall '
            f'--no-deps {distribution} (after torch, about 10 minutes)',
        )
    return Check('mmcv operators', True, 'compiled')


def check_tasks(libraries: Dict[str, Check], operators: Check) -> List[Check]:
    """Whether each task is ready, and what it lacks."""
    checks = []
    for task, needs in TASKS.items():
        lacking = []
        for need in needs:
            if need == 'mmcv.ops':
                ready = bool(operators.ok)
            elif need in libraries:
                ready = bool(libraries[need].ok and libraries['mmcv'].ok)
            else:
                ready = import_error(need) is None
            if not ready:
                lacking.append(need)
        if not lacking:
            checks.append(Check(task, True, 'ready'))
            continue
        extras = sorted({EXTRA[need] for need in lacking if need in EXTRA})
        text = f'needs {", ".join(lacking)}'
        if extras:
            text += f": pip install 'mmvisionllama[{','.join(extras)}]'"
        checks.append(Check(task, None, text + (' (and the operators above)' if 'mmcv.ops' in lacking else '')))
    return checks


def examine() -> List[Tuple[str, List[Check]]]:
    """All checks, in titled groups."""
    python_ok = sys.version_info >= (3, 10)
    text = platform.python_version() + ('' if python_ok else ' is too old: Python >= 3.10 is needed')
    base = [Check('Python', python_ok, text)]
    base += check_torch()
    libraries = {name: check_library(name) for name in MM_LIBRARIES}
    if libraries['mmengine'].ok is None:
        libraries['mmengine'] = Check('mmengine', False, "not installed: pip install 'mmvisionllama[onedl]'")
    operators = check_operators(libraries)
    flash = _version('flash-attn')
    error = import_error('flash_attn') if flash else None
    if flash is None:
        flash_check = Check('flash-attn', None, "not installed (optional; torch's own attention is used)")
    else:
        flash_check = Check('flash-attn', not error, flash if not error else f'{flash} does not import: {error}')
    lines = {d.split('-')[0] == 'onedl' for d in (c.text.split()[0] for c in libraries.values() if c.ok)}
    mm = [*libraries.values(), operators, flash_check]
    if len(lines) == 2:
        mm.append(Check('mm libraries', False, 'onedl-* and OpenMMLab distributions are mixed: use one line for all'))
    package = import_error('mmvisionllama.backbones')
    mm.append(Check('mmvisionllama', not package, package or _version('mmvisionllama') or 'from the source folder'))
    return [('Base', base), ('Libraries', mm), ('Tasks', check_tasks(libraries, operators))]


def main() -> int:
    """Prints the screen; 0 if nothing is wrong, 1 otherwise."""
    groups = examine()
    width = min(shutil.get_terminal_size((100, 20)).columns, 160)
    for title, checks in groups:
        print(title)
        for check in checks:
            mark = {True: 'ok ', False: 'BAD', None: '-  '}[check.ok]
            print(f'  {mark} {check.name:<15} {check.text}')
    wrong = [check.name for _, checks in groups for check in checks if check.ok is False]
    ready = [check.name for check in groups[-1][1] if check.ok]
    print('-' * min(width, 60))
    print(f'wrong: {", ".join(wrong)}' if wrong else f'ready for: {", ".join(ready) or "nothing yet"}')
    return 1 if wrong or not ready else 0


if __name__ == '__main__':
    sys.exit(main())
