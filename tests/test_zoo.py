"""Models by name."""

import argparse
import importlib
import json
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import released_names
import torch
import yaml
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import mmvisionllama
from mmvisionllama import zoo
from mmvisionllama.checkpoints import read_checkpoint
from mmvisionllama.datasets import digit_scenes, digits
from mmvisionllama.errors import CheckpointError, MissingExtraError, OptionError
from mmvisionllama.generation import ImageGenerator
from mmvisionllama.model_zoo import config_path, list_configs
from mmvisionllama.zoo import _configs

DIGITS = 'vision_llama_digits'


def test_names_are_many_and_unique():
    assert len(mmvisionllama.list_models('*visionllama*')) >= 60
    assert mmvisionllama.list_models() == sorted(set(mmvisionllama.list_models()))
    assert len(mmvisionllama.list_models()) == len(list_configs())


def test_a_pattern_selects_and_shared_names_say_their_task():
    assert mmvisionllama.list_models('illama-tiny*') and not mmvisionllama.list_models('tiny')
    assert len(mmvisionllama.list_models('pyramid_vision_llama_digit_scenes_mm*')) == 2


def first_of_each_folder():
    return sorted({config.rpartition('/')[0]: config for config in reversed(list_configs())}.values())


@pytest.mark.parametrize(
    'config',
    [*first_of_each_folder(), *(pytest.param(config, marks=pytest.mark.nightly) for config in list_configs())],
)
def test_every_name_builds(config):
    (name,) = (name for name, own in _configs().items() if own == config)
    scope = Config.fromfile(config_path(config)).default_scope
    if scope != 'mmengine':
        pytest.importorskip(scope)
    # the libraries' Swin and Twins read values while they are built, and are small here
    with torch.device('cpu' if 'swin' in name or 'twins' in name else 'meta'):
        model = mmvisionllama.get_model(name)
    assert not model.training and any(True for _ in model.parameters())


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match=DIGITS):
        mmvisionllama.get_model('visionllama_digits')


def test_weights_come_back_and_foreign_ones_are_refused(tmp_path):
    pytest.importorskip('mmpretrain')
    model, other = mmvisionllama.get_model(DIGITS), mmvisionllama.get_model(DIGITS)
    torch.save(model.state_dict(), tmp_path / 'digits.pth')
    images = torch.randn(2, 3, 32, 32)
    loaded = mmvisionllama.get_model(DIGITS, pretrained=str(tmp_path / 'digits.pth'))
    torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)
    assert not torch.equal(other(images)[-1], model(images)[-1])
    with pytest.raises(CheckpointError):
        mmvisionllama.get_model('illama_digits', pretrained=str(tmp_path / 'digits.pth'))


def test_the_backbone_needs_no_other_library():
    code = (
        "import sys, mmvisionllama; assert 'mmvisionllama.zoo' not in sys.modules\n"
        "sys.modules['mmpretrain'] = None\n"
        f"print(type(mmvisionllama.get_model('{DIGITS}', backbone_only=True)).__name__)\n"
        f"try: mmvisionllama.get_model('{DIGITS}')\n"
        'except mmvisionllama.errors.MissingExtraError as error: print(error)\n'
    )
    said = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout
    assert said.startswith('VisionLLaMA') and 'mmvisionllama[onedl]' in said
    assert issubclass(MissingExtraError, ImportError)


def test_a_library_s_own_backbone_is_built_by_the_library(monkeypatch):
    pytest.importorskip('mmpretrain')
    backbone = mmvisionllama.get_model('twins-micro_grocery', backbone_only=True)
    assert type(backbone).__module__.startswith('mmpretrain.') and not backbone.training
    monkeypatch.setitem(sys.modules, 'mmpretrain.models', None)
    with pytest.raises(MissingExtraError, match='the SVT of twins-micro_grocery needs mmpretrain') as refused:
        mmvisionllama.get_model('twins-micro_grocery', backbone_only=True)
    assert 'backbone_only' not in str(refused.value)


def test_mmdet_without_operators_is_one_sentence():
    code = (
        'import sys, types, mmvisionllama\n'
        "mmdet = sys.modules['mmdet'] = types.ModuleType('mmdet')\n"
        'mmdet.__path__ = []\n'
        "try: mmvisionllama.get_model('pyramid_vision_llama_digit_scenes_mmdet')\n"
        'except mmvisionllama.errors.MissingExtraError as error: print(error)\n'
    )
    said = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout
    assert "mmdet (No module named 'mmdet.models'): 'python -m mmvisionllama.doctor' says how" in said


def test_values_of_the_config_are_overridden():
    pytest.importorskip('mmpretrain')
    with torch.device('meta'):
        model = mmvisionllama.get_model(DIGITS, head=dict(num_classes=3), backbone=dict(frozen_stages=2))
    assert model.head.num_classes == 3 and model.backbone.frozen_stages == 2


def test_a_preprocessor_is_merged_into_the_config_s(tmp_path):
    """Its mean and deviation stay."""
    pytest.importorskip('mmpretrain')
    plain = mmvisionllama.get_model(DIGITS).data_preprocessor
    other = mmvisionllama.get_model(DIGITS, data_preprocessor=dict(to_rgb=not plain.to_rgb))
    assert torch.equal(other.data_preprocessor.mean, plain.mean) and torch.equal(other.data_preprocessor.std, plain.std)
    assert other.data_preprocessor.to_rgb != plain.to_rgb


def test_classes_come_with_the_weights():
    pytest.importorskip('mmpretrain')
    name = 'visionllama-micro-24e_cifar10'
    assert zoo.get_model(name, pretrained=True).dataset_meta['classes'][:2] == ['airplane', 'automobile']
    assert not hasattr(zoo.get_model(name), 'dataset_meta')


def test_weights_of_the_authors_under_their_names(tmp_path):
    """Says that they have to be converted."""
    pytest.importorskip('mmpretrain')
    torch.save(released_names.renamed(mmvisionllama.get_model(DIGITS).backbone), tmp_path / 'published.pth')
    with pytest.raises(CheckpointError, match="released checkpoint of family 'plain': convert it first"):
        mmvisionllama.get_model(DIGITS, str(tmp_path / 'published.pth'))


def test_positions_that_are_no_square(tmp_path):
    pytest.importorskip('mmpretrain')
    trained = mmvisionllama.get_model('illama_digits', backbone=dict(img_size=(32, 48)))
    torch.save(trained.state_dict(), tmp_path / 'wide.pth')
    with pytest.raises(CheckpointError, match='wide.pth.*no square grid: build the model with the img_size'):
        mmvisionllama.get_model('illama_digits', str(tmp_path / 'wide.pth'))


def test_published_weights_are_converted_on_loading(tmp_path, monkeypatch):
    """As the authors' files are: the released keys under 'model', beside an argparse Namespace."""
    pytest.importorskip('mmpretrain')
    name = 'pyramid-visionllama-small_8xb128-300e_in1k_released'
    assert name in mmvisionllama.list_models(pretrained=True)
    entry = zoo._sources()[zoo._configs()[name]]
    assert entry['Converted From']['Weights'].startswith('https://huggingface.co/mtgv/')

    trained = mmvisionllama.get_model(DIGITS)
    state = released_names.renamed(trained.backbone)
    state.update({'head.weight': trained.head.fc.weight, 'head.bias': trained.head.fc.bias})
    torch.save(dict(model=state, args=argparse.Namespace(lr=3e-3)), tmp_path / 'published.pth')
    source = {'Converted From': {'Weights': str(tmp_path / 'published.pth')}}
    monkeypatch.setattr(zoo, '_sources', lambda: {zoo._configs()[DIGITS]: source})
    assert mmvisionllama.list_models(pretrained=True) == [DIGITS]
    images = torch.randn(2, 3, 32, 32)
    loaded = mmvisionllama.get_model(DIGITS, pretrained=True)
    torch.testing.assert_close(loaded(images), trained(images), rtol=0, atol=0)
    backbone = mmvisionllama.get_model(DIGITS, pretrained=True, backbone_only=True)
    torch.testing.assert_close(backbone(images), trained.backbone(images), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=f'illama_digits has no weights here.*: {DIGITS}'):
        mmvisionllama.get_model('illama_digits', pretrained=True)


def test_the_backbone_alone(tmp_path):
    """Overrides that nothing is built of are refused; a file of the backbone itself is read."""
    backbone = mmvisionllama.get_model(DIGITS, backbone_only=True, backbone=dict(frozen_stages=1))
    assert backbone.frozen_stages == 1
    with pytest.raises(OptionError, match=r"builds nothing of 'frozen_stages'.*backbone=dict\(\.\.\.\)"):
        mmvisionllama.get_model(DIGITS, backbone_only=True, frozen_stages=1)
    torch.save(backbone.state_dict(), tmp_path / 'backbone.pth')
    loaded = mmvisionllama.get_model(DIGITS, str(tmp_path / 'backbone.pth'), backbone_only=True).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in backbone.state_dict().items())


def test_threads_build_at_once():
    pytest.importorskip('mmpretrain')
    names = [DIGITS, 'dit_llama_digits'] * 6
    with ThreadPoolExecutor(4) as threads:
        models = list(threads.map(mmvisionllama.get_model, names))
    assert [type(model).__name__ for model in models] == ['ImageClassifier', 'ImageGenerator'] * 6


class TestWeights:
    """Those that come with the package."""

    SHIPPED = {
        name: zoo._sources()[config]
        for name, config in zoo._configs().items()
        if 'Weights' in zoo._sources().get(config, {})
    }
    QUICK = (DIGITS, 'pyramid_vision_llama_digits', 'illama_digits')
    SCENES = ('pyramid_vision_llama_digit_scenes_mmseg', 'pyramid_vision_llama_digit_scenes_mmdet')
    WRITERS = {'digits': digits.write_digits, 'digit_scenes': digit_scenes.write_scenes}

    def test_they_are_some(self):
        assert len(self.SHIPPED) >= 6

    @pytest.mark.parametrize('name', SHIPPED)
    def test_they_load(self, name):
        pytest.importorskip(Config.fromfile(config_path(zoo._configs()[name])).default_scope)
        model = mmvisionllama.get_model(name, pretrained=True)
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())
        assert (zoo.FOLDER / self.SHIPPED[name]['Weights']).with_name('README.md').is_file()

    def test_another_file_in_their_place_is_refused(self, monkeypatch):
        config = zoo._configs()[DIGITS]
        monkeypatch.setattr(zoo, '_sources', lambda: {config: dict(self.SHIPPED[DIGITS], SHA256='0' * 64)})
        with pytest.raises(CheckpointError, match='not the file that was published'):
            mmvisionllama.get_model(DIGITS, pretrained=True, backbone_only=True)

    @pytest.mark.parametrize('name', [*QUICK, *(pytest.param(name, marks=pytest.mark.nightly) for name in SCENES)])
    def test_the_score_of_the_card_comes_back(self, name, tmp_path, monkeypatch):
        """On the held-out digits or scenes, which are made here."""
        pytest.importorskip('sklearn')
        config = Config.fromfile(config_path(zoo._configs()[name]))
        pytest.importorskip(config.default_scope)
        monkeypatch.chdir(tmp_path)
        folder = config.test_dataloader.dataset.data_root
        self.WRITERS[Path(folder).name](folder)
        config.test_dataloader.update(num_workers=0, persistent_workers=False)
        runner = Runner(
            mmvisionllama.get_model(name, pretrained=True),
            str(tmp_path / 'work'),
            test_dataloader=config.test_dataloader,
            test_evaluator=config.test_evaluator,
            test_cfg=dict(),
            default_scope=config.default_scope,
            experiment_name=name,
            log_level='WARNING',
        )
        entry, metrics = self.SHIPPED[name], runner.test()
        (stated,) = entry['Results'][0]['Metrics'].values()
        assert entry['Metric']['Factor'] * metrics[entry['Metric']['Name']] == pytest.approx(stated, abs=0.3)

    def cut(self, name, folder):
        """Writes the pictures of a sheet to a folder for each class, and says how many each has."""
        sheet = np.asarray(Image.open(zoo.FOLDER / self.SHIPPED[name]['Thumbnails']['File']))
        classes = Config.fromfile(config_path(zoo._configs()[name])).test_dataloader.dataset.metainfo['classes']
        side = sheet.shape[1] // len(classes)
        rows = sheet.shape[0] // side
        for column, label in enumerate(classes):
            (folder / label).mkdir(parents=True)
            for row in range(rows):
                tile = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
                Image.fromarray(tile).save(folder / label / f'{row}.png')
        return rows, rows * len(classes)

    def measured(self, tool, name, args, key, folder, monkeypatch):
        """What a tool writes to a copy of the index."""
        (folder / 'weights' / name).mkdir(parents=True)
        shutil.copy(zoo.FOLDER / 'weights' / 'metafile.yml', folder / 'weights')
        tools = Path(__file__).parents[1] / 'tools' / 'model_zoo'
        monkeypatch.syspath_prepend(str(tools))
        runpy.run_path(str(tools / tool))['main']([name, '--root', str(folder), *map(str, args)])
        index = yaml.safe_load((folder / 'weights' / 'metafile.yml').read_text())['Models']
        (found,) = (entry[key] for entry in index if entry['Name'] == name)
        return found

    @pytest.mark.parametrize('name', [name for name, entry in SHIPPED.items() if 'Thumbnails' in entry])
    def test_the_thumbnails_are_recognised(self, name, tmp_path, monkeypatch):
        """Test pictures that lie beside the weights, cut out of their sheet, give the number of the index."""
        pytest.importorskip('mmpretrain')
        stated = self.SHIPPED[name]['Thumbnails']
        rows, number = self.cut(name, tmp_path / 'data' / 'test')
        assert number == stated['Pictures']
        args = ['--data-root', tmp_path / 'data', '--per-class', rows]
        found = self.measured('thumbnails.py', name, args, 'Thumbnails', tmp_path, monkeypatch)
        sheet, again = (np.asarray(Image.open(root / stated['File'])) for root in (zoo.FOLDER, tmp_path))
        assert np.array_equal(sheet, again)
        assert found['Correct'] == pytest.approx(stated['Correct'], abs=1)

    @pytest.mark.parametrize('name', [name for name, entry in SHIPPED.items() if 'Held-out' in entry])
    def test_the_held_out_loss_comes_back(self, name, tmp_path, monkeypatch):
        """Of the weights that have no other score: on held-out digits, or on the pictures of a classifier's sheet."""
        stated, data = self.SHIPPED[name]['Held-out'], tmp_path / 'data'
        if 'digits' in name:
            pytest.importorskip('sklearn')
            digits.write_digits(data)
            args = ['--data-root', data / 'test']
        else:
            self.cut('visionllama-micro-20e_cifar10', data)
            args = ['--data-root', data]
        if name.startswith('mae'):
            pytest.importorskip('mmpretrain')
        # pictures take longer than the loss, and are not compared
        monkeypatch.setattr(
            ImageGenerator, 'sample', lambda self, labels, seed: torch.zeros(len(labels), 3, 8, 8).byte()
        )
        found = self.measured('held_out.py', name, args, 'Held-out', tmp_path, monkeypatch)
        assert found['Pictures'] == stated['Pictures']
        assert found['Loss'] == pytest.approx(stated['Loss'], rel=1e-3)
        assert f'Held-out loss **{stated["Loss"]}**' in (zoo.FOLDER / 'weights' / name / 'README.md').read_text()

    def test_the_distance_of_a_card_is_that_of_its_evaluation(self):
        files = list((zoo.FOLDER / 'weights').glob('*/evaluation.json'))
        assert files
        for file in files:
            found, card = json.loads(file.read_text()), file.with_name('README.md').read_text()
            assert f'Fréchet distance **{found["FID"]:.2f}**' in card and f'{found["count"]:,} samples' in card
            assert found['features'] in self.SHIPPED

    def test_every_file_is_evaluated_again(self):
        """By the score of its card, a sheet of pictures, or the loss of pictures it was not trained on."""
        for name, entry in self.SHIPPED.items():
            assert 'Thumbnails' in entry or 'Held-out' in entry or name in self.QUICK + self.SCENES, name


class TestHub:
    @pytest.fixture
    def hub(self):
        pytest.importorskip('huggingface_hub')
        pytest.importorskip('safetensors')
        pytest.importorskip('mmpretrain')
        import mmvisionllama.hub

        return mmvisionllama.hub

    def test_a_folder_comes_back_equal(self, hub, tmp_path):
        model = hub.HubModel(DIGITS, overrides=dict(head=dict(num_classes=3)))
        model.save_pretrained(tmp_path)
        assert {'config.json', 'model.safetensors'} <= {path.name for path in tmp_path.iterdir()}
        assert set(read_checkpoint(tmp_path / 'model.safetensors')) == set(model.model.state_dict())
        loaded, images = hub.HubModel.from_pretrained(tmp_path), torch.randn(2, 3, 40, 24)
        assert not loaded.training
        torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)
        model.load(str(tmp_path / 'model.safetensors'))
        torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)

    def test_weights_of_the_package_in_a_folder(self, hub, tmp_path):
        """They hold the names of their classes, too."""
        hub.HubModel(DIGITS).save_pretrained(tmp_path)
        shutil.copy(zoo.FOLDER / 'weights' / DIGITS / 'model.safetensors', tmp_path)
        loaded = hub.HubModel.from_pretrained(tmp_path).model.state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in zoo.get_model(DIGITS, pretrained=True).state_dict().items())

    def test_overrides_have_to_fit_into_the_folder(self, hub):
        with pytest.raises(OptionError, match='what JSON can hold.*int64'):
            hub.HubModel(DIGITS, overrides=dict(backbone=dict(anchor=np.int64(64))))

    def test_classes_are_in_the_folder(self, hub, tmp_path):
        classes = dict(classes=['no', 'yes'], palette=[(0, 0, 0), (255, 0, 0)])
        trained = dict(state_dict=zoo.get_model(DIGITS).state_dict(), meta=dict(dataset_meta=classes))
        torch.save(trained, tmp_path / 'trained.pth')
        hub.HubModel(DIGITS).load(str(tmp_path / 'trained.pth')).save_pretrained(tmp_path / 'folder')
        assert hub.HubModel.from_pretrained(tmp_path / 'folder').model.dataset_meta == classes

    def test_missing_weights_and_types_in_a_config_are_refused(self, hub, tmp_path):
        hub.HubModel(DIGITS, backbone_only=True).save_pretrained(tmp_path)
        config = json.loads((tmp_path / 'config.json').read_text())
        for wrong in (
            dict(backbone=dict(type='os.system')),
            dict(neck=[dict(_scope_='x')]),
            {'backbone.type': 'x'},
            dict(pretrained='http://127.0.0.1:1/x.pth'),
        ):
            (tmp_path / 'config.json').write_text(json.dumps(dict(config, overrides=wrong)))
            with pytest.raises(OptionError, match='overrides may not set'):
                hub.HubModel.from_pretrained(tmp_path)
        (tmp_path / 'config.json').write_text(json.dumps(dict(config, backbone_only=False)))
        with pytest.raises(CheckpointError, match='are missing'):
            hub.HubModel.from_pretrained(tmp_path)

    def test_without_its_library_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
        monkeypatch.delitem(sys.modules, 'mmvisionllama.hub', raising=False)
        with pytest.raises(MissingExtraError, match=r'mmvisionllama\[hub\]'):
            importlib.import_module('mmvisionllama.hub')


def test_models_without_a_backbone_say_so():
    with pytest.raises(ValueError, match='no backbone'):
        mmvisionllama.get_model('sit-s-2_8xb32-400k_imagenet-256', backbone_only=True)


@pytest.mark.parametrize(
    'imports', ['mmpretrain, mmvisionllama', pytest.param('mmvisionllama, mmpretrain', marks=pytest.mark.nightly)]
)
def test_mmpretrain_knows_the_names_by_itself(imports):
    """Whichever is imported first; the zoo is read when the hub is asked, not before."""
    pytest.importorskip('mmpretrain')
    code = (
        f'import {imports}, sys\n'
        "assert 'mmvisionllama.zoo' not in sys.modules\n"
        "names = mmpretrain.list_models('*vision*llama*')\n"
        "assert mmpretrain.list_models('resnet18*')\n"
        "model = mmpretrain.get_model('vision_llama_digits', pretrained=True)\n"
        'import numpy\n'
        'found = mmpretrain.inference_model(model, numpy.zeros((32, 32, 3), numpy.uint8))\n'
        "assert found['pred_class'] == str(found['pred_label']), found\n"  # classes are in the file
        'print()\n'  # behind the bar
        'print(len(names), type(model.backbone).__name__)\n'
    )
    out = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout
    number, kind = out.split()[-2:]
    assert int(number) >= 56 and kind == 'VisionLLaMA'


def test_mmpretrain_is_not_imported_for_its_hub():
    code = "import sys, mmvisionllama; print([name for name in sys.modules if name.startswith('mmpretrain')])"
    out = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout
    assert out.split('\n')[-2] == '[]'


def test_mmpretrain_knows_the_names(monkeypatch):
    mmpretrain = pytest.importorskip('mmpretrain')
    hub = mmpretrain.apis.ModelHub
    monkeypatch.setattr(hub, '_models_dict', dict(hub._models_dict))
    from mmvisionllama.zoo import register_in_mmpretrain

    register_in_mmpretrain()
    register_in_mmpretrain()
    assert len(mmpretrain.list_models('*visionllama*')) >= 56
    model = mmpretrain.get_model('visionllama-small-p16_8xb256-800e_in1k')
    assert type(model.backbone).__name__ == 'VisionLLaMA'
