"""``docs/tables.md``: every config and option that it names exists and does something; no recipe is left out."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / 'docs' / 'tables.md').read_text()
#: (row, config below ``configs/``, options)
ROWS = [
    (row.strip(), config, options.strip('` '))
    for row, config, options in re.findall(r'^\| ([^|]+) \|(?:[^|`\n]*\|)+ `([^`]+\.py)` \|([^|]*)\|$', TEXT, re.M)
]
WITH_OPTIONS = sorted({row[1:] for row in ROWS if row[2]})


def parse(options):
    """``KEY=VALUE`` pairs as ``--cfg-options`` reads them."""
    pairs = (pair.split('=', 1) for pair in options.split())
    return {key: DictAction._parse_iterable(value) for key, value in pairs}


def load(config, options=''):
    cfg = Config.fromfile(ROOT / 'configs' / config)
    cfg.merge_from_dict(parse(options))
    return cfg


def build(cfg):
    """The whole model, without memory."""
    pytest.importorskip('mmpretrain.models')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def facts(model):
    """What a model's printed form and the numbers and names in its modules say."""
    plain = (int, float, str, bool, tuple, type(None))
    settings = [
        (name, sorted((k, v) for k, v in vars(module).items() if isinstance(v, plain) and k != 'training'))
        for name, module in model.named_modules()
    ]
    tables = [f'{key} {value.tolist()}' for key, value in model.named_buffers() if not value.is_meta]
    return repr(model) + str(settings) + str(tables)


def changes(config, options):
    """Whether the options change the built model."""
    return facts(build(load(config, options))) != facts(build(load(config)))


def test_rows_are_found():
    assert len(ROWS) == sum(line.count('.py` |') for line in TEXT.splitlines() if line.startswith('| '))
    assert len({row for row, *_ in ROWS}) == len(ROWS), 'two rows of one name'


@pytest.mark.parametrize('table', ['1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11', '12'])
def test_every_table_of_results_has_a_section(table):
    headings = re.findall(r'^## Tables? ([\d, and]+)', TEXT, re.M)
    assert table in {number for heading in headings for number in re.findall(r'\d+', heading)}


@pytest.mark.parametrize('config', sorted({config for _, config, _ in ROWS}))
def test_every_config_exists(config):
    assert (ROOT / 'configs' / config).is_file()


@pytest.mark.parametrize('config, options', [row for row in WITH_OPTIONS if row[1].startswith('model.backbone')])
def test_options_build_another_model(config, options):
    assert changes(config, options)
    if 'avg_featmap' in options:  # the three go together
        model = build(load(config, options)).backbone
        assert (model.out_type, model.with_cls_token, model.final_norm) == ('avg_featmap', False, False)


@pytest.mark.parametrize('config, options', [row for row in WITH_OPTIONS if not row[1].startswith('model.')])
def test_options_change_hooks_and_schedules(config, options):
    """Each of them; the cosine begins where the warm-up ends."""
    before, after = load(config), load(config, options)
    for pair in options.split():
        changed, key = load(config, pair), pair.split('.')[0]
        assert changed[key] != before[key], pair
    warmup, cosine = after.param_scheduler
    assert warmup.end == cosine.begin == 50, 'all rows of that table warm up over 50 epochs'


def test_the_ode_of_tables_9_and_10():
    (options,) = {options for config, options in WITH_OPTIONS if config.startswith('generation/')}
    configs = {config for config, _ in WITH_OPTIONS if config.startswith('generation/')}
    assert len(configs) == 8
    for config in configs:
        cfg = load(config, options)
        assert cfg.model.sampler == dict(type='ODESampler') and type(build(cfg).sampler).__name__ == 'ODESampler'
        assert options in re.sub(r'\s+', ' ', TEXT.split('```bash')[4]), 'the command above the table'
        milestones = cfg.default_hooks.checkpoint.interval
        for iteration in (100000, 200000, 300000, 400000):
            assert iteration % milestones == 0 and iteration <= cfg.train_cfg.max_iters


def test_every_recipe_of_the_papers_has_a_row():
    """All configs but the released twins and those whose heads say that the paper has no such row."""
    named = {config for _, config, _ in ROWS}
    missing = []
    for path in sorted((ROOT / 'configs').glob('*/*/*.py')):
        config = str(path.relative_to(ROOT / 'configs'))
        head = path.read_text().split('_base_')[0]
        if path.parts[-3] == '_base_' or path.parent.name in ('quickstart', 'study') or path.stem.endswith('_released'):
            continue
        if config not in named and not re.search(r'Paper[^:]*: (no 1x result|no row|this size is not)', head):
            missing.append(config)
    assert not missing


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').rglob('*.py')), ids=lambda path: path.stem)
def test_documents_that_configs_name_exist(path):
    for document in re.findall(r'docs/[\w/]+\.md', path.read_text()):
        assert (ROOT / document).is_file(), document


def test_rows_whose_options_hold_in_two_stages_say_so():
    """A second stage begins from the weights of a model of its own kind."""
    section = TEXT.split('## Table 7')[1].split('\n## ')[0]
    told = re.search(r'The rows of the plain ([\w ]+) take both stages', section).group(1).split(' and ')
    ablated = {config for _, config, options in ROWS if options and f'`{config}`' in section}
    archs = {re.search(r'-(\w)\w+-p16', config).group(1).upper() for config in ablated if load(config).get('load_from')}
    assert sorted(archs) == told
