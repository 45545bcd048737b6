"""The README and the guides: their Python runs, their configs load, and what they point at exists.

A Python block that cannot run says so in its first line, ``# not run by the tests: ...``. A block of assignments only
is a config; every other block is a program.
"""

import ast
import inspect
import re
from pathlib import Path

import pytest
from mmengine import registry
from mmengine.config import Config, ConfigDict

import mmvisionllama  # noqa: F401  registers what the configs name

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md'), *(ROOT / 'configs').glob('**/*.md')]
NOT_RUN = '# not run by the tests: '
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
REGISTRIES = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
#: what the configs of the pages change
BASE = """
custom_imports = dict(imports=['mmvisionllama'], allow_failed_imports=False)
model = dict(backbone=dict(type='PyramidVisionLLaMA', arch='small'))
train_dataloader = dict(dataset=dict(type='LatentShards', data_root='data'))
"""


def python_blocks():
    """(page and line, source) of every Python block."""
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            if match[1] == 'python':
                name = page.relative_to(ROOT).as_posix()
                yield pytest.param(match[2], id=f'{name}:{text.count(chr(10), 0, match.start()) + 1}')


def is_config(source):
    """Whether a block consists of assignments of literals and dict(...) only."""
    body = ast.parse(source).body
    calls = [node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return all(isinstance(statement, ast.Assign) for statement in body) and all(
        isinstance(call.func, ast.Name) and call.func.id == 'dict' for call in calls
    )


def parts(node):
    """Every dict inside a config, itself included."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from parts(child)


def named(name):
    """The class that a config's string names, in whichever registry of mmengine."""
    found = [entry for entry in (each.module_dict.get(name) for each in REGISTRIES) if entry]
    assert found, f'{name} is registered nowhere'
    return found[0]


@pytest.mark.parametrize('source', python_blocks())
def test_python_of_the_pages_runs(source, tmp_path, monkeypatch):
    if source.startswith(NOT_RUN):
        assert source.split('\n')[0].removeprefix(NOT_RUN).strip(), 'a block that is not run gives the reason'
        compile(source, 'block', 'exec')
        return
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'docs').symlink_to(ROOT / 'docs')  # the README's pictures
    if is_config(source):
        check_config(source, tmp_path)
    else:
        exec(compile(source, 'block', 'exec'), {'__name__': '__main__'})


def check_config(source, folder):
    """Loads a config on top of a small base; every type in it exists and takes the arguments it is given."""
    (folder / 'my_vit_config.py').write_text(BASE)
    base = '' if '_base_' in source else "_base_ = ['my_vit_config.py']\n"
    (folder / 'block.py').write_text(base + source)
    config = Config.fromfile(folder / 'block.py')
    own = {target.id for statement in ast.parse(source).body for target in statement.targets}
    for part in parts({key: config[key] for key in own if key in config}):
        if 'constructor' in part:
            named(part['constructor'])
        if isinstance(part.get('type'), str):
            kind = named(part['type'])
            if part['type'] in ('OptimWrapper', 'Pretrained'):
                continue  # built by others, with more than their own arguments
            inspect.signature(kind).bind_partial(**{key: value for key, value in part.items() if key != 'type'})
    if 'backbone' in own:
        config.model = ConfigDict(backbone=config.backbone)
    if own & {'model', 'backbone'} and 'backbone' in config.model:
        registry.MODELS.build({**config.model.backbone, 'init_cfg': None})


def test_every_kind_of_block_is_there():
    """The rule that tells configs from programs finds both, and few blocks are not run."""
    sources = [param.values[0] for param in python_blocks()]
    skipped = [source for source in sources if source.startswith(NOT_RUN)]
    configs = [source for source in sources if is_config(source)]
    assert len(configs) >= 5 and len(sources) - len(configs) - len(skipped) >= 7 and len(skipped) <= 5


def headings(page):
    """Anchors of a page, as GitHub and the site make them."""
    text = FENCE.sub('', page.read_text())
    lines = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', line.lower()).strip().replace(' ', '-') for line in lines}


def links():
    """(page, target) of every link and picture that does not leave the repository."""
    for page in PAGES:
        text = FENCE.sub('', page.read_text())
        for target in re.findall(r'\]\(([^)\s]+)\)|<img src="([^"]+)"', text):
            target = target[0] or target[1]
            if not re.match(r'[a-z]+:', target):
                yield pytest.param(page, target, id=f'{page.relative_to(ROOT).as_posix()}-{target}')


@pytest.mark.parametrize(('page', 'target'), links())
def test_links_and_pictures_lead_somewhere(page, target):
    path, _, anchor = target.partition('#')
    file = (page.parent / path).resolve() if path else page
    assert file.exists(), f'{target} is not there'
    assert file.is_relative_to(ROOT)
    if anchor and file.suffix == '.md':
        assert anchor in headings(file)


def test_tests_that_the_pages_name_exist():
    """Files and, where a page says ``file.py::Name``, what is in them."""
    files = {path.name: path.read_text() for path in (ROOT / 'tests').glob('**/test_*.py')}
    named_ones = {name for page in PAGES for name in re.findall(r'(?:\w+/)*test_\w+\.py(?:::\w+)?', page.read_text())}
    missing = []
    for name in named_ones:
        path, _, part = name.partition('::')
        file = files.get(path.rpartition('/')[2])
        if file is None or ('/' in path and not (ROOT / path).exists()) or part and part not in file:
            missing.append(name)
    assert not missing, f'pages name tests that are not there: {sorted(missing)}'


def test_pages_say_how_the_data_of_every_recipe_lie():
    """But for CIFAR, which is downloaded, and latents, which a tool writes."""
    text = ''.join(page.read_text() for page in PAGES if 'configs' not in page.relative_to(ROOT).parts)
    bases = [path.read_text() for path in (ROOT / 'configs' / '_base_' / 'datasets').glob('*.py')]
    roots = {root.rstrip('/') for base in bases for root in re.findall(r"data_root ?= ?'([^']+)'", base)}
    assert len(roots) > 5
    for root in roots - {'data/cifar100', 'data/imagenet_latents_256'}:
        assert re.search(rf'{root}\W[^{{}}\s]*( \(`)?[^{{}}\s]*\{{', text), f'{root}: no page names its folders'


def test_every_guide_is_in_the_navigation_of_the_site():
    nav = (ROOT / 'mkdocs.yml').read_text().partition('\nnav:')[2].partition('\nvalidation:')[0]
    assert set(re.findall(r'- (\S+\.md)', nav)) == {path.name for path in (ROOT / 'docs').glob('*.md')}


def test_the_speed_table_repeats_its_measurements():
    """The two rows against literal code, from the CSV."""
    import csv

    with open(ROOT / 'benchmarks' / 'results' / 'plain_cpu.csv') as file:
        rows = {row['case']: row['ratio'] for row in csv.DictReader(file) if row['contender'] == 'mmvisionllama'}
    text = (ROOT / 'README.md').read_text()
    for size, label in [('224 batch 4', 'plain S, a literal'), ('1024 batch 1', 'plain S at 1024, a literal')]:
        forward, step = (float(rows[f'small {size} {kind} against literal']) for kind in ('forward', 'train step'))
        (line,) = [line for line in text.split('\n') if line.startswith(f'| {label}')]
        assert f'| {forward:.2f} × | {step:.2f} × |' in line
