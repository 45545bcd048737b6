"""Configs that cannot be read, options without a place, and targets that cannot be written."""

import pytest
from mmengine.config import Config

from mmvisionllama import launch
from mmvisionllama.errors import LaunchError


@pytest.mark.parametrize(
    'name, content, reason',
    [
        ('a.py', b'a = = 1', 'SyntaxError'),
        ('a.py', b'\xff\xfe\x00\x92', 'UnicodeDecodeError'),
        ('a.py', b"_base_ = 'nowhere.py'", 'FileNotFoundError.*nowhere.py'),
        ('a.py', b'a = b', "NameError: name 'b' is not defined"),
        ('a.yaml', b'a: [1,\n b: {', 'ParserError'),
        ('a.json', b'{', 'JSONDecodeError'),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LaunchError, match=f'{name}. cannot be read .{reason}') as error:
        launch.load_config(str(tmp_path / name))
    assert '\n' not in str(error.value)


@pytest.fixture
def path(tmp_path):
    (tmp_path / 'c.py').write_text("epochs = 3\nmodel = dict(type='A')\ntrain_cfg = dict(max_epochs=3)\n")
    return str(tmp_path / 'c.py')


@pytest.mark.parametrize(
    'options, message',
    [
        ({'train_cgf.max_epochs': 1}, 'the config has no train_cgf: did you mean train_cfg?'),
        ({'models': 1}, 'the config has no models: did you mean model?'),
        ({'epochs.x': 1}, 'do not fit the config'),
    ],
)
def test_options_that_the_config_has_no_place_for(path, options, message):
    with pytest.raises(LaunchError) as error:
        launch.load_config(path, options)
    assert message in str(error.value)


def test_options_that_mmengine_reads_need_not_be_in_the_config(path):
    cfg = launch.load_config(path, {'load_from': 'a.pth', 'model.type': 'B', 'epochs': 4, 'tta_model.type': 'C'})
    assert (cfg.load_from, cfg.model.type, cfg.epochs, cfg.tta_model.type) == ('a.pth', 'B', 4, 'C')


@pytest.mark.parametrize(
    'name',
    [
        'activation_checkpointing',
        'broken_pictures',
        'compile',
        'efficient_conv_bn_eval',
        'load_from_partial',
        'stop_after',
        'strategy',
        'sync_bn',
    ],
)
def test_options_that_are_no_arguments_of_the_runner(path, name):
    assert launch.load_config(path, {name: 'x'})[name] == 'x'


def test_settings_that_nothing_reads(tmp_path):
    (tmp_path / 'c.py').write_text('train_cgf = dict(max_epochs=3)\n')
    with pytest.raises(LaunchError, match='nothing reads train_cgf of the config: did you mean train_cfg?'):
        launch.load_config(str(tmp_path / 'c.py'))


@pytest.mark.parametrize('model', [None, 3, dict(backbone=dict(type='A'))])
def test_a_config_without_a_model(model, tmp_path):
    cfg = Config(dict(model=model, work_dir=str(tmp_path)))
    with pytest.raises(LaunchError, match='the config has no model'):
        launch.build_runner(cfg)


@pytest.mark.parametrize('backbone', ['VisionLLaMA', 'PyramidVisionLLaMA', 'iLLaMA'])
def test_mae_around_a_backbone_that_hides_nothing(backbone, tmp_path):
    cfg = Config(dict(model=dict(type='MAE', backbone=dict(type=backbone)), work_dir=str(tmp_path), launcher='none'))
    with pytest.raises(LaunchError, match="type='MAEVisionLLaMA'"):
        launch.build_runner(cfg)


def test_targets(tmp_path):
    file = tmp_path / 'file'
    file.touch()
    launch.check_target(tmp_path / 'new' / 'deep' / 'x.csv')
    assert list((tmp_path / 'new' / 'deep').iterdir()) == []
    for target, message in (
        (tmp_path, 'is a folder'),
        (file / 'x.csv', 'cannot be written'),
        (file / 'deep' / 'x.csv', 'cannot be written'),
        ('/proc/x.csv', 'cannot be written'),
    ):
        with pytest.raises(LaunchError, match=message):
            launch.check_target(target)
    with pytest.raises(LaunchError, match=r"--grid 'a.xyz': expected a name that ends with .png"):
        launch.check_target('a.xyz', '--grid', ('.png',))


def test_devices():
    assert launch.check_device('cpu') == 'cpu' and launch.check_device(None) in ('cpu', 'cuda')
    for name in ('foo', 'cuda:999'):
        with pytest.raises(LaunchError, match=f"--device '{name}' cannot be used") as error:
            launch.check_device(name)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_a_launcher_that_did_not_start_this_process(launcher, tmp_path, monkeypatch):
    for name in ('RANK', 'SLURM_PROCID', 'MASTER_ADDR'):
        monkeypatch.delenv(name, raising=False)
    for name in ('RANK', 'SIZE', 'LOCAL_RANK'):  # mpirun does not say where the first process is
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', '0')
    cfg = Config(dict(model=dict(type='A'), work_dir=str(tmp_path), launcher=launcher))
    with pytest.raises(LaunchError, match=f'--launcher {launcher} needs .* in the environment: start with'):
        launch.build_runner(cfg)


def test_a_work_directory_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    cfg = Config(dict(model=dict(type='A'), work_dir=str(tmp_path / 'file')))
    with pytest.raises(LaunchError, match='the work directory .* cannot be written'):
        launch.build_runner(cfg)
