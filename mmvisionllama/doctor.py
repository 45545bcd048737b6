"""``python -m mmvisionllama.doctor``: what is installed, whether it fits together, and which tasks are ready."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import platform
import shutil
import sys
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

#: import name -> (distribution of the maintained line, OpenMMLab's own distributions)
MM_LIBRARIES = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),  # the last has no operators
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
    'mmcv-lite': ('2.1.0', '2.2'),
    'mmpretrain': ('1.2.0', None),
    'mmsegmentation': ('1.2.2', None),
    'mmdet': ('3.3.0', None),
}
#: task -> what is imported to see whether it is ready
TASKS = {
    'classification': ('mmpretrain.models', 'mmvisionllama.engine'),
    'MAE': ('mmpretrain.models', 'mmvisionllama.pretraining'),
    'segmentation': ('mmseg.models', 'mmvisionllama.backbones'),
    'detection': ('mmcv.ops', 'mmdet.models', 'mmvisionllama.necks'),
    'generation': ('diffusers:AutoencoderKL', 'torchdiffeq', 'torch_fidelity', 'mmvisionllama.generation'),
}
EXTRA = {
    'mmpretrain': 'onedl',
    'mmseg': 'onedl',
    'mmdet': 'onedl',
    'mmcv': 'onedl',
    'torchvision': 'onedl',
    'diffusers': 'generation',
    'torchdiffeq': 'generation',
    'torch_fidelity': 'generation',
}
#: from this release on torch's headers need C++20, and mmcv 2.3.6 compiles with C++17
TORCH_WITH_CPP20 = (2, 14)


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
    """First line of the error that importing ``module`` or ``module:attribute`` raises, None if it imports."""
    module, _, attribute = name.partition(':')
    try:
        # libraries greet and warn while they are imported
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            imported = importlib.import_module(module)
            if attribute:
                getattr(imported, attribute)
    except Exception as error:  # a broken build can raise anything
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def check_library(name: str) -> Check:
    """Which distribution provides an mm library and whether its version fits."""
    found = [(d, _version(d)) for d in MM_LIBRARIES[name]]
    found = [(d, v) for d, v in found if v]
    if not found:
        return Check(name, None, 'not installed')
    if len(found) > 1:
        every = ' and '.join(f'{d} {v}' for d, v in found)
        return Check(name, False, f'{every} overwrite each other: uninstall them, then install one')
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
    if not vision:
        checks.append(
            Check('torchvision', None, "not installed; mmpretrain needs it: pip install 'mmvisionllama[onedl]'")
        )
    else:
        error = import_error('torchvision')
        checks.append(Check('torchvision', not error, vision if not error else f'{vision} does not fit torch: {error}'))
    return checks


def check_operators(libraries: Dict[str, Check]) -> Check:
    """mmcv's compiled operators, which mmdet needs."""
    if not libraries['mmcv'].ok:
        return Check('mmcv operators', None, 'mmcv is not usable')
    if import_error('mmcv.ops') is None:
        return Check('mmcv operators', True, 'compiled')
    distribution, version = libraries['mmcv'].text.split()
    lite = distribution == 'mmcv-lite'
    if _numbers(_version('torch') or '0') >= TORCH_WITH_CPP20:
        advice = 'they do not compile against this torch: install torch < 2.14 and torchvision for it, then look again'
    else:
        advice = (
            f"pip install 'setuptools>=77,<80' wheel ninja, then {'pip uninstall mmcv-lite, then ' if lite else ''}"
            'pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps '
            f'{"mmcv" if lite else distribution}=={version} (10 minutes and more)'
        )
    return Check('mmcv operators', None, f'not compiled, and detection needs them: {advice}')


def check_tasks(libraries: Dict[str, Check], operators: Check) -> List[Check]:
    """Whether each task is ready, which importing its parts shows, and what it lacks."""
    return [check_task(task, needs, libraries, operators) for task, needs in TASKS.items()]


def check_task(task: str, needs: Sequence[str], libraries: Dict[str, Check], operators: Check) -> Check:
    """One task: ready, not ready because something is not installed, or broken."""
    found = [check.text.split()[0] for check in libraries.values() if check.ok]
    line = 'openmmlab' if any(name and not name.startswith('onedl-') for name in found) else 'onedl'
    lacking, broken = [], []
    for need in needs:
        name = need.split('.')[0].split(':')[0]
        if need == 'mmcv.ops':
            if not operators.ok:
                lacking.append(need)
        elif name in libraries and not libraries[name].ok:
            lacking.append(name)
        else:
            error = import_error(need)
            if error and importlib.util.find_spec(name) is None:
                lacking.append(name)
            elif error:
                broken.append((need, error))
    extras = {line if EXTRA[name] == 'onedl' else EXTRA[name] for name in lacking if name in EXTRA}
    if broken and not lacking:
        need, error = broken[0]
        missing = error.removeprefix('No module named ').strip("'")
        if missing == 'mmcv._ext':
            return Check(task, None, f'{need} needs mmcv.ops (the operators: see above)')
        extra = EXTRA.get(missing.split('.')[0])
        advice = f": pip install 'mmvisionllama[{line if extra == 'onedl' else extra}]'" if extra else ''
        return Check(task, False, f'{need} does not import ({error}){advice}')
    if not lacking:
        return Check(task, True, 'ready')
    text = f'needs {", ".join(lacking)}'
    if extras:
        text += f": pip install 'mmvisionllama[{','.join(sorted(extras))}]'"
    return Check(task, None, text + (' (the operators: see above)' if 'mmcv.ops' in lacking else ''))


def check_attention() -> List[Check]:
    """Which attention backends run here, in the precision that the device is used with."""
    import torch

    from .layers import ATTENTION_BACKENDS, AttentionSpec

    gpu = torch.cuda.is_available()
    spec = AttentionSpec('cuda', torch.bfloat16) if gpu else AttentionSpec()
    checks = []
    for name, backend in ATTENTION_BACKENDS.items():
        reason = backend.why_not(spec._replace(packed=backend.run_packed is not None))
        checks.append(Check(name, None if reason else True, reason or 'usable'))
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
    # those that do not fit as well: a mixture is why
    found = (c.text.split()[0] for c in libraries.values())
    lines = {distribution.startswith('onedl-') for distribution in found if distribution in SUPPORTED}
    mm = [*libraries.values(), operators]
    if len(lines) == 2:
        mm.append(Check('mm libraries', False, 'onedl-* and OpenMMLab distributions are mixed: use one line for all'))
    package = import_error('mmvisionllama.backbones')
    mm.append(Check('mmvisionllama', not package, package or _version('mmvisionllama') or 'from the source folder'))
    attention = [] if package else check_attention()
    tasks = check_tasks(libraries, operators)
    return [('Base', base), ('Libraries', mm), ('Attention', attention), ('Tasks', tasks)]


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
