"""README.md and metafile.yml of the folders of configs, and model-index.yml: fresh, true, and read by the libraries."""

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from mmengine.config import Config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('make_index', ROOT / 'tools' / 'model_zoo' / 'make_index.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported():
    return yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']


@pytest.fixture(scope='module')
def models():
    """Name to entry of every metafile of the recipes that the index imports."""
    entries = {}
    for file in imported():
        if file.startswith('weights/'):
            continue
        for entry in yaml.safe_load((ROOT / file).read_text())['Models']:
            assert entry['Name'] not in entries, 'mmpretrain wants names to be unique'
            entries[entry['Name']] = entry
    return entries


def test_files_are_fresh(tool):
    assert [str(path.relative_to(ROOT)) for path in tool.stale()] == [], 'run python tools/model_zoo/make_index.py'


def test_a_changed_head_is_noticed(tool, tmp_path):
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    shutil.copytree(ROOT / 'weights', tmp_path / 'weights', ignore=shutil.ignore_patterns('*.safetensors', '*.jsonl'))
    shutil.copy(ROOT / 'model-index.yml', tmp_path)
    assert tool.stale(tmp_path) == []
    folder = tmp_path / 'configs/mmpretrain/vision_llama'
    config = folder / 'visionllama-small-p16_8xb256-800e_in1k.py'
    config.write_text(config.read_text().replace('top-1 81.6 %', 'top-1 81.7 %'))
    assert tool.stale(tmp_path) == [folder / 'README.md', folder / 'metafile.yml']
    config.write_text(config.read_text().replace('GMACs', 'MACs'))
    with pytest.raises(ValueError, match="visionllama-small.*gives no model's size"):
        tool.stale(tmp_path)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / 'README.md').touch()
    assert tool.stale(tmp_path) == [tmp_path / 'model-index.yml', folder / 'README.md']


def test_every_recipe_is_listed_with_what_its_config_says(models):
    paths = {path for path in (ROOT / 'configs').glob('*/*/*.py') if path.parts[-3] != '_base_'}
    paths = {path for path in paths if path.parent.name not in ('quickstart', 'study')}
    assert {ROOT / entry['Config'] for entry in models.values()} == paths
    for name, entry in models.items():
        cfg = Config.fromfile(ROOT / entry['Config'])
        metadata = entry['Metadata']
        assert Path(entry['Config']).stem == name and 'Weights' not in entry
        accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
        if 'max_epochs' in cfg.train_cfg:
            assert metadata['Epochs'] == cfg.train_cfg.max_epochs
        else:
            assert metadata['Iterations'] == cfg.train_cfg.max_iters // accumulated
        gpus = int(re.search(r'_(\d+)xb', name).group(1))
        assert metadata['Batch Size'] == gpus * cfg.train_dataloader.batch_size * accumulated
        assert entry['Config'] in entry['Command']


@pytest.mark.parametrize(
    'name, numbers',
    [
        ('visionllama-small-p16_8xb256-800e_in1k', [81.6]),
        ('visionllama-large-p16_8xb64-20e_in1k', [84.6]),
        ('visionllama-large-p16_8xb256-800e_in1k-160px', []),  # the first of two stages
        ('mae_visionllama-base-p16_8xb512-amp-800e_in1k', []),  # its numbers are those of what trains on from it
        ('visionllama-base-p16_mae-800e-pre_8xb2048-lp-90e_in1k', [69.7]),
        ('illama-base-p16_8xb128-accum4-90e_in21k', []),  # the log's, not the paper's
        ('illama-tiny-p16_8xb128-accum4-300e-qat-int8_in1k', [72.4]),
        ('pyramid-visionllama-large_upernet_8xb2-160k_ade20k-512x512', [50.0]),
        ('visionllama-large-p16_mae-800e-pre_upernet_8xb2-160k_ade20k-512x512', []),  # no such row
        ('pyramid-visionllama-base_mask-rcnn_8xb2-ms-3x_coco', [49.1, 43.8]),
        ('pyramid-visionllama-small_mask-rcnn_8xb2-ms-3x_coco', []),
        ('dit-llama-xl-2_8xb32-2352k_imagenet-256', [9.84, 2.42]),
        ('sit-llama-b-2_8xb32-400k_imagenet-256', [29.53, 30.23]),
    ],
)
def test_numbers_are_the_papers_for_this_config_and_say_so(name, numbers, models):
    metrics = [item for result in models[name].get('Results', []) for item in result['Metrics'].items()]
    assert [value for _, value in metrics] == numbers
    assert all(key.endswith("(the paper's, not reproduced)") for key, _ in metrics)


def test_links_of_the_readmes_exist():
    readmes = list((ROOT / 'configs').glob('*/*/README.md'))
    assert len(readmes) == 20
    for file in readmes:
        for link in re.findall(r'\]\((?!https)([^)]+)\)', file.read_text()):
            assert (file.parent / link).is_file(), f'{file}: {link}'
        for document in re.findall(r'`(docs/\w+\.md)`', file.read_text()):
            assert (ROOT / document).is_file(), f'{file}: {document}'


def test_quickstarts_say_how_their_data_are_made():
    """Commands that write every data folder come first, and trainings before those that start from them."""
    for file in (ROOT / 'configs').glob('*/quickstart/README.md'):
        data, first, trainings = file.read_text().partition('```bash\n')[2].partition('python tools/train.py')
        made = set(re.findall(r'^python -m mmvisionllama\.datasets\.\w+ (\S+)', data, re.MULTILINE))
        trained = re.findall(r'tools/train.py (\S+\.py)', first + trainings)
        assert {ROOT / path for path in trained} >= set(file.parent.glob('*.py'))
        configs = ''.join((ROOT / path).read_text() for path in trained)
        assert made == set(re.findall(r"data_root ?= ?'(data/\w+)", configs))
        assert 'python -m' not in trainings
        for name in re.findall(r'checkpoint=work_dirs/(\w+)/', trainings):
            assert trainings.index(f'/{name}.py') < trainings.index(f'work_dirs/{name}/')


@pytest.fixture
def hub(monkeypatch):
    """mmpretrain's hub, as it was afterwards."""
    hub = pytest.importorskip('mmpretrain.apis').ModelHub
    monkeypatch.setattr(hub, '_models_dict', dict(hub._models_dict))
    return hub


def test_mmpretrain_lists_builds_and_runs_a_model_by_name(hub, models):
    from mmpretrain import get_model, inference_model, list_models

    hub.register_model_index(ROOT / 'model-index.yml', config_prefix=ROOT)
    assert set(models) <= set(list_models())
    assert 'visionllama-small-p16_8xb256-800e_in1k' in list_models('visionllama-*', task='Image Classification')
    model = get_model('illama-tiny-p16_8xb128-accum4-300e_in1k').eval()
    assert sum(param.numel() for param in model.parameters()) == 5_701_096
    result = inference_model(model, np.zeros((64, 48, 3), np.uint8))
    assert len(result['pred_scores']) == 1000


def test_the_index_works_where_a_wheel_puts_it(hub, models, tmp_path):
    """``.mim`` inside the package: configs and index side by side."""
    for name in ('configs', 'weights'):
        shutil.copytree(ROOT / name, tmp_path / '.mim' / name)
    shutil.copy(ROOT / 'model-index.yml', tmp_path / '.mim')
    hub.register_model_index(tmp_path / '.mim' / 'model-index.yml', config_prefix=tmp_path / '.mim')
    cfg = hub.get('pyramid-visionllama-small_8xb128-300e_in1k').config
    assert cfg.filename.startswith(str(tmp_path)) and cfg.model.backbone.arch == 'small'


def test_the_formats_own_reader_takes_it(models):
    reader = pytest.importorskip('modelindex.load_model_index')
    index = reader.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    weights = yaml.safe_load((ROOT / 'weights/metafile.yml').read_text())['Models']
    assert len(index.models) == len(models) + len(weights)
    for model in index.models:
        assert model.full_model.paper['URL'].startswith('https://arxiv.org/abs/')
        assert model.full_model.weights or model.metadata.data['FLOPs'] > 1e9
