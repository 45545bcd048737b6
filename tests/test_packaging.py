"""The wheel, built without network from a copy of the sources, and what the requirement files and extras promise."""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# config by name from a wheel that is installed nowhere else; says the file and the architecture
BY_NAME = """
import mmvisionllama.model_zoo
from mmengine.hub import get_config
name = 'mmpretrain/quickstart/vision_llama_digits.py'
assert name in mmvisionllama.model_zoo.list_configs('mmpretrain/*')
config = get_config('mmvisionllama::' + name)
print(config.filename)
print(config.model.backbone.type)
"""
# every model of the zoo without its numbers, and one with its weights
EVERY_NAME = """
import torch
import mmvisionllama
names = mmvisionllama.list_models()
for name in names:
    # the libraries' Swin and Twins read values while they are built, and are small here
    with torch.device('cpu' if 'swin' in name or 'twins' in name else 'meta'):
        assert sum(1 for _ in mmvisionllama.get_model(name).parameters())
mmvisionllama.get_model('vision_llama_digits', pretrained=True)
print(mmvisionllama.__file__, len(names), len(mmvisionllama.list_models('*visionllama*')))
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, opened."""
    source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('mmvisionllama', 'configs', 'weights'):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    if (ROOT / 'model-index.yml').exists():
        shutil.copy(ROOT / 'model-index.yml', source)
    else:
        (source / 'model-index.yml').write_text('Import: []\n')
    pip = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-build-isolation', '--no-deps', '--no-index']
    subprocess.run([*pip, '--wheel-dir', target, source], check=True, capture_output=True)
    (file,) = target.glob('mmvisionllama-*.whl')
    with zipfile.ZipFile(file) as opened:
        yield opened


@pytest.fixture(scope='module')
def metadata(wheel):
    """The wheel's METADATA."""
    (name,) = [name for name in wheel.namelist() if name.endswith('.dist-info/METADATA')]
    return email.message_from_bytes(wheel.read(name))


class TestWheel:
    def test_it_carries_every_config_metafile_and_readme(self, wheel):
        kept = [path for path in (ROOT / 'configs').rglob('*') if path.suffix in ('.py', '.yml', '.md')]
        assert len(kept) > 100
        for path in kept:
            assert wheel.read(f'mmvisionllama/.mim/{path.relative_to(ROOT).as_posix()}') == path.read_bytes()

    def test_it_carries_the_model_index_and_the_mark_of_a_typed_package(self, wheel):
        assert wheel.read('mmvisionllama/.mim/model-index.yml').startswith(b'Import')
        assert 'mmvisionllama/py.typed' in wheel.namelist()

    def test_it_carries_every_module(self, wheel):
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'mmvisionllama').glob('**/*.py')}
        assert {name for name in modules if '/.mim/' not in name} <= set(wheel.namelist())

    def test_a_config_loads_by_name_from_it(self, wheel, tmp_path):
        wheel.extractall(tmp_path / 'site')
        command = [sys.executable, '-c', BY_NAME]
        out = subprocess.run(
            command,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, 'PYTHONPATH': str(tmp_path / 'site')},
        )
        file, kind = out.stdout.split()[-2:]
        assert Path(file).is_relative_to(tmp_path / 'site') and kind == 'VisionLLaMA'

    @pytest.mark.nightly  # a minute
    def test_every_name_builds_from_it(self, wheel, tmp_path):
        """Without the repository; the weights of one of them load, too."""
        for library in ('mmpretrain', 'mmseg', 'mmdet', 'torchao'):
            pytest.importorskip(library)
        wheel.extractall(tmp_path / 'site')
        environment = {**os.environ, 'PYTHONPATH': str(tmp_path / 'site')}
        command = [sys.executable, '-c', EVERY_NAME]
        out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert out.returncode == 0, out.stderr[-2000:]
        folder, all_names, named = out.stdout.split()[-3:]
        assert Path(folder).is_relative_to(tmp_path) and int(all_names) > 100 and int(named) >= 60

    def test_its_version_is_the_package_s(self, metadata):
        from mmvisionllama import __version__

        assert metadata['Version'] == __version__

    def test_its_licence_has_no_placeholders(self, metadata):
        assert metadata['License-Expression'] == 'Apache-2.0'
        assert not re.search(r'\[(yyyy|name of copyright owner)\]', (ROOT / 'LICENSE').read_text())


class TestNames:
    def test_a_wrong_name_is_answered_with_the_nearest(self):
        from mmvisionllama.model_zoo import config_path

        with pytest.raises(FileNotFoundError, match='mmpretrain/quickstart/vision_llama_digits.py'):
            config_path('mmpretrain/quickstart/visionllama_digits.py')

    def test_names_are_files_and_bases_are_left_out(self):
        from mmvisionllama.model_zoo import config_path, list_configs

        names = list_configs()
        assert len(names) > 100 and all(Path(config_path(name)).is_file() for name in names)
        assert not [name for name in names if name.startswith('_base_')]


class TestExtras:
    def test_every_extra_that_a_message_or_a_page_names_exists(self, metadata):
        texts = [*(ROOT / 'mmvisionllama').glob('**/*.py'), *(ROOT / 'docs').glob('*.md'), ROOT / 'README.md']
        named = {
            name for path in texts for name in re.findall(r'(?:mmvisionllama|PACKAGE})\[([a-z]+)\]', path.read_text())
        }
        assert {'onedl', 'openmmlab', 'generation'} <= named
        assert named <= set(metadata.get_all('Provides-Extra'))

    @pytest.mark.parametrize('line', ['onedl', 'openmmlab'])
    def test_the_tested_versions_lie_within_the_bounds_of_the_line(self, metadata, line):
        pins = _pins(line)
        required = [Requirement(text) for text in metadata.get_all('Requires-Dist')]
        required = [
            requirement for requirement in required if requirement.marker and f'"{line}"' in str(requirement.marker)
        ]
        assert {'torch', 'torchvision'} <= {requirement.name for requirement in required}
        for requirement in required:
            assert requirement.specifier.contains(pins[requirement.name]), (
                f'{requirement} against {pins[requirement.name]}'
            )

    @pytest.mark.parametrize('line', ['onedl', 'openmmlab'])
    @pytest.mark.parametrize('python', ['3.10', '3.11', '3.12'])
    def test_every_requirement_has_one_pin_on_every_python(self, line, python):
        names = [requirement.name for requirement in _requirements(line, python)]
        assert len(names) == len(set(names))
        assert set(names) == {requirement.name for requirement in _requirements(line)}


def _requirements(line, python=None):
    """Requirements of a line; of one Python version, markers applied."""
    files = {path.name: path for path in (ROOT / 'requirements').glob('*.txt') if path.name != 'docs.txt'}
    files.update({path.name: path for path in (ROOT / 'requirements' / line).glob('*.txt')})
    rows = [row for path in files.values() for row in path.read_text().splitlines() if row and not row.startswith('#')]
    required = [Requirement(row) for row in rows]
    return [
        requirement
        for requirement in required
        if python is None or requirement.marker is None or requirement.marker.evaluate({'python_version': python})
    ]


def _pins(line):
    """Version of each requirement of a line on this Python."""
    here = '{}.{}'.format(*sys.version_info)
    return {requirement.name: next(iter(requirement.specifier)).version for requirement in _requirements(line, here)}
