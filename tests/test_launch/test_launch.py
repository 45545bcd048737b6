"""The options of the scripts on the configs of every library, and one clear line for each thing that can be wrong."""

import os
import runpy
import socket
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import PretrainedInit
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from mmvisionllama import launch
from mmvisionllama.checkpoints import CheckpointError, sharded
from mmvisionllama.errors import MissingExtraError
from mmvisionllama.launch import LaunchError, testing
from mmvisionllama.launch import runner as launch_runner
from mmvisionllama.model_zoo import config_path, list_configs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    """A data folder with the splits of ImageNet."""
    for split in ('train', 'val'):
        (tmp_path / 'data' / split / 'n0').mkdir(parents=True)
        (tmp_path / 'data' / split / 'n0' / '0.jpg').touch()
    return tmp_path / 'data'


def config(root, scope='mmpretrain', **kwargs):
    """The parts of a config that the options touch."""
    loader = dict(batch_size=1, dataset=dict(type='CustomDataset', data_root=str(root), pipeline=[dict(type='Pack')]))
    train = dict(loader, dataset=dict(type='Wrapper', dataset=dict(loader['dataset'], data_prefix='train')))
    hooks = dict(visualization=dict(type='VisualizationHook'))
    return Config(
        dict(
            default_scope=scope,
            work_dir=str(Path(root).parent / 'work'),
            model=dict(type='Model'),
            train_dataloader=train,
            val_dataloader=loader,
            test_dataloader=loader,
            test_evaluator=dict(type='Metric'),
            test_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=hooks,
            visualizer=dict(type='Visualizer'),
            **kwargs,
        )
    )


def run(monkeypatch, capsys, script, *args):
    """Standard error of a script that ends with a message."""
    monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize('script', ['train.py', 'test.py', 'analysis_tools/get_flops.py'])
def test_missing_config(monkeypatch, capsys, script):
    """One line, no traceback."""
    args = ('nowhere.py', 'model.pth') if script == 'test.py' else ('nowhere.py',)
    error = run(monkeypatch, capsys, script, *args)
    assert error.startswith("error: config 'nowhere.py' does not exist") and error.count('\n') == 1


def test_other_ranks_are_silent(monkeypatch, capsys):
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert run(monkeypatch, capsys, 'train.py', 'nowhere.py') == ''


def test_missing_data_folder(monkeypatch, capsys, tmp_path):
    path = tmp_path / 'c.py'
    path.write_text("train_dataloader = dict(dataset=dict(type='A', data_root='no/such/folder'))\n")
    error = run(monkeypatch, capsys, 'train.py', path, '--work-dir', tmp_path)
    assert "data folder 'no/such/folder' does not exist" in error and error.count('\n') == 1
    assert 'train_dataloader.dataset.data_root' in error


@pytest.mark.parametrize(
    'part, where',
    [(dict(data_prefix='trian'), 'trian'), (dict(ann_file='a.json'), 'a.json'), (dict(data_prefix=dict(img='x')), 'x')],
)
def test_missing_part_of_the_data(data, part, where):
    """Folders and lists inside the data folder; wrapped data sets are looked into."""
    cfg = config(data)
    cfg.train_dataloader.dataset.dataset.update(part)
    with pytest.raises(LaunchError, match=f'{where}.*train_dataloader.dataset.dataset'):
        launch.check_data(cfg)


def test_imagenet_layouts(data):
    """A folder per split, or a list in meta/ over images side by side."""
    cfg = config(data)
    cfg.val_dataloader.dataset.update(type='ImageNet', split='test')
    with pytest.raises(LaunchError, match='test'):
        launch.check_data(cfg)
    (data / 'meta').mkdir()
    (data / 'meta' / 'test.txt').touch()
    launch.check_data(cfg)


def test_a_split_that_is_no_folder(tmp_path, monkeypatch):
    """CIFAR's training and test images lie in the same folder; it is fetched into an empty one, or makes one."""
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / 'configs/mmpretrain/illama/illama-tiny-p16_in1k-pre_8xb128-300e_cifar10.py')
    launch.check_data(cfg)
    cfg.train_dataloader.dataset.download = False
    with pytest.raises(LaunchError, match='data/cifar10.* does not exist'):
        launch.check_data(cfg)
    (tmp_path / 'data/cifar10').mkdir(parents=True)
    launch.check_data(cfg)


def test_library_not_installed(monkeypatch, tmp_path):
    path = tmp_path / 'c.py'
    path.write_text("default_scope = 'mmseg'\n")
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    with pytest.raises(LaunchError, match=r"needs mmseg.*pip install 'mmvisionllama\[onedl\]'"):
        launch.load_config(str(path))


def test_library_missing_later(capsys):
    """The same for a library that a part of a model needs."""

    def main():
        import no_such_library  # noqa: F401

    with pytest.raises(SystemExit):
        launch.run_cli(main)
    assert 'no_such_library is not installed' in capsys.readouterr().err


def test_missing_extra(capsys):
    """Parts that say which extra to install; a library that is there but broken keeps its traceback."""

    def main():
        raise error

    error = MissingExtraError("the VAE needs diffusers: pip install 'mmvisionllama[generation]'")
    with pytest.raises(SystemExit):
        launch.run_cli(main)
    assert capsys.readouterr().err == f'error: {error}\n'
    error = ImportError('cannot import name')
    with pytest.raises(ImportError, match='cannot import name'):
        launch.run_cli(main)


def test_checkpoints(data, tmp_path):
    """Missing, truncated, more than weights, good."""
    cfg = config(data)
    with pytest.raises(CheckpointError, match='does not exist'):
        launch.prepare_test(cfg, 'nowhere.pth')
    good, bad, pickled = (str(tmp_path / f'{name}.pth') for name in ('good', 'bad', 'pickled'))
    torch.save(dict(state_dict=dict(weight=torch.zeros(1000))), good)
    Path(bad).write_bytes(Path(good).read_bytes()[:2000])
    torch.save(dict(state_dict={}, args=Path('x')), pickled)
    with pytest.raises(CheckpointError, match='damaged'):
        launch.prepare_test(cfg, bad)
    with pytest.raises(CheckpointError, match='more than weights'):
        launch.prepare_test(cfg, pickled)
    assert launch.prepare_test(cfg, good).load_from == good
    with pytest.raises(CheckpointError, match='damaged'):
        launch.prepare_train(cfg, resume=bad)


def test_resume(data):
    """From a path, or from the newest checkpoint of the work directory, which may be none yet."""
    cfg = launch.prepare_train(config(data), resume='auto')
    assert not cfg.resume and cfg.load_from is None
    work = Path(cfg.work_dir)
    work.mkdir()
    torch.save(dict(meta=dict(epoch=3, iter=9), message_hub={}, optimizer={}, state_dict={}), work / 'epoch_3.pth')
    for resume in ('auto', str(work / 'epoch_3.pth')):
        cfg = launch.prepare_train(config(data), resume=resume)
        assert cfg.resume and cfg.load_from == str(work / 'epoch_3.pth')


def test_auto_scale_lr(data):
    assert launch.prepare_train(
        config(data, auto_scale_lr=dict(base_batch_size=8)), auto_scale_lr=True
    ).auto_scale_lr.enable
    with pytest.raises(LaunchError, match='base_batch_size'):
        launch.prepare_train(config(data), auto_scale_lr=True)


@pytest.mark.parametrize(
    'major, wrapper, kind, loss_scale',
    [
        (8, dict(), 'AutocastOptimWrapper', None),
        (7, dict(), 'AmpOptimWrapper', 'dynamic'),
        (8, dict(dtype='float16'), 'AmpOptimWrapper', 'dynamic'),
        (8, dict(type='AmpOptimWrapper', loss_scale=512.0), 'AmpOptimWrapper', 512.0),
        (8, dict(type='AutocastOptimWrapper', dtype='float32'), 'AutocastOptimWrapper', None),
    ],
)
def test_amp_on_a_gpu(data, monkeypatch, major, wrapper, kind, loss_scale):
    """bfloat16 where the GPU has it, float16 with loss scaling elsewhere and where the config asks for it."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (major, 0))
    cfg = config(data)
    cfg.optim_wrapper.update(wrapper)
    launch.prepare_train(cfg, amp=True)
    assert cfg.optim_wrapper.type == kind and cfg.optim_wrapper.get('loss_scale') == loss_scale
    assert cfg.optim_wrapper.get('dtype') == wrapper.get('dtype')


def test_amp(data, monkeypatch):
    """bfloat16 without a GPU; a wrapper that it cannot replace is an error."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = config(data)
    cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16')
    launch.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AutocastOptimWrapper' and 'loss_scale' not in cfg.optim_wrapper
    before = cfg.optim_wrapper.copy()
    launch.use_amp(cfg)
    assert cfg.optim_wrapper == before, 'mixed precision already'
    # in configs of pure Python, and as they are written down
    for kind in (OptimWrapper, AmpOptimWrapper, 'mmengine.optim.OptimWrapper'):
        cfg.optim_wrapper.type = kind
        launch.use_amp(cfg)
        assert cfg.optim_wrapper.type == 'AutocastOptimWrapper'
    cfg.optim_wrapper.type = 'SomeOtherWrapper'
    with pytest.raises(LaunchError, match='SomeOtherWrapper'):
        launch.use_amp(cfg)


@pytest.fixture
def matmul_precision():
    """torch's setting, put back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    yield torch.get_float32_matmul_precision
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = True


def test_tf32(monkeypatch, matmul_precision):
    """On GPUs unless the config says otherwise; elsewhere nothing changes."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    launch.set_matmul_precision(Config({}))
    assert matmul_precision() == 'highest'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    launch.set_matmul_precision(Config({}))
    assert matmul_precision() == 'high' and torch.backends.cudnn.allow_tf32
    launch.set_matmul_precision(Config(dict(env_cfg=dict(matmul_precision='highest'))))
    assert matmul_precision() == 'highest' and not torch.backends.cudnn.allow_tf32
    with pytest.raises(LaunchError, match="matmul_precision is 'tf32': choose 'highest', 'high', 'medium'"):
        launch.set_matmul_precision(Config(dict(env_cfg=dict(matmul_precision='tf32'))))


def test_a_runner_allows_tf32(monkeypatch, tmp_path, matmul_precision):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr('mmvisionllama.launch.runner.CheckedRunner.from_cfg', lambda cfg: matmul_precision())
    monkeypatch.chdir(tmp_path)
    assert launch.build_runner(Config(dict(launcher='none', model=dict(type='any'), work_dir='work'))) == 'high'


def test_no_validate(data):
    assert launch.prepare_train(config(data), validate=False).val_dataloader is None


def test_default_work_dir():
    """Option, config, name of the config."""
    assert launch.default_work_dir(Config(dict(work_dir='own')), 'a/b.py', 'given') == 'given'
    assert launch.default_work_dir(Config(dict(work_dir='own')), 'a/b.py', None) == 'own'
    assert launch.default_work_dir(Config({}), 'a/b.py', None) == 'work_dirs/b'


def test_no_two_configs_have_one_work_dir():
    folders = {launch.default_work_dir(Config({}), config_path(name), None) for name in list_configs()}
    assert len(folders) == len(list_configs())
    assert 'work_dirs/pyramid_vision_llama_digit_scenes_mmdet' in folders


@pytest.mark.parametrize(
    'scope, where',
    [('mmpretrain', 'hook.out_dir'), ('mmdet', 'hook.test_out_dir'), ('mmseg', 'visualizer.save_dir')],
)
def test_show_dir(data, scope, where):
    """Each library's own way of painting predictions."""
    cfg = config(data, scope)
    launch.show_predictions(cfg, 'pictures', False, 3)
    hook = cfg.default_hooks.visualization
    assert hook.get('enable') or hook.get('draw')
    owner, key = where.split('.')
    assert (hook if owner == 'hook' else cfg.visualizer)[key] == str(Path('pictures').absolute())
    assert hook.interval == 3
    cfg.default_hooks = {}
    with pytest.raises(LaunchError, match='visualization hook'):
        launch.show_predictions(cfg, 'pictures', False, 1)


def test_every_nth_picture_of_a_test_is_painted(monkeypatch):
    """mmdetection's and mmsegmentation's hooks look at the interval in validations alone."""
    painted, hook = [], Hook()
    hook.after_test_iter = lambda runner, index, batch, outputs: painted.append(outputs)
    testing.paint_every_nth(hook, 3)
    for batch in ('ab', 'cd', 'ef', 'g'):
        hook.after_test_iter(None, 0, None, list(batch))
    assert painted == [['a'], ['d'], ['g']]
    with pytest.raises(LaunchError, match='--interval must be at least 1'):
        launch.show_predictions(Config({}), 'pictures', False, 0)


def test_predictions_of_a_segmentation_are_written_without_logits(tmp_path):
    dumped = testing.DumpLabels(str(tmp_path / 'p.pkl'))
    dumped.process({}, [dict(seg_logits=torch.zeros(2), pred_sem_seg=torch.ones(2))])
    assert [list(sample) for sample in dumped.results] == [['pred_sem_seg']]


def test_tta_keeps_the_preprocessor_of_the_model(data):
    """mmengine gives one at the top of the config to the outer model, which gives it to the inner one."""
    cfg = config(data, data_preprocessor=dict(mean=[1]))
    cfg.model.data_preprocessor = dict(mean=[2])
    launch.use_tta(cfg)
    assert 'data_preprocessor' not in cfg and cfg.model.module.data_preprocessor.mean == [2]
    cfg = config(data, data_preprocessor=dict(mean=[1]))
    launch.use_tta(cfg)
    assert cfg.data_preprocessor.mean == [1]


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet'])
def test_tta(data, scope):
    """Flips unless the config says otherwise, the picture as it is first: its labels stand for all."""
    cfg = config(data, scope)
    launch.use_tta(cfg)
    assert cfg.model.type == testing.DEFAULT_TTA[scope]['type'] and cfg.model.module.type == 'Model'
    flips, pack = cfg.test_dataloader.dataset.pipeline[-1].transforms
    assert [flip.prob for flip in flips] == [0.0, 1.0] and pack[0].type == 'Pack'
    own = config(data, scope, tta_model=dict(type='Mine'), tta_pipeline=[dict(type='Own')])
    launch.use_tta(own)
    assert own.model.type == 'Mine' and own.test_dataloader.dataset.pipeline[0].type == 'Own'


@pytest.mark.parametrize(
    'masks',
    [
        dict(roi_head=dict(type='Head', mask_head=dict(type='Masks'))),
        dict(panoptic_head=dict(type='Mask2FormerHead')),
        dict(bbox_head=dict(type='mmdet.RTMDetInsSepBNHead')),
    ],
)
@pytest.mark.parametrize('pure', [False, True])
def test_tta_of_masks(data, masks, pure):
    """mmdetection's model stops at them with an assertion, at the first picture; another model may merge them."""
    merging = {name: type(name, (), {}) if pure else name for name in ('DetTTAModel', 'MaskDetTTAModel')}
    cfg = config(data, 'mmdet', tta_model=dict(type=merging['DetTTAModel']))
    cfg.model.update(masks)
    with pytest.raises(LaunchError, match='merges boxes, not masks'):
        launch.use_tta(cfg)
    cfg.tta_model.type = merging['MaskDetTTAModel']
    launch.use_tta(cfg)
    assert cfg.model.type == merging['MaskDetTTAModel']


def test_tta_of_boxes_beside_no_masks(data):
    cfg = config(data, 'mmdet')
    cfg.model.update(roi_head=dict(type='Head', mask_head=None), bbox_head=dict(type='RTMDetHead'))
    launch.use_tta(cfg)
    assert cfg.model.type == 'DetTTAModel'


def test_classes_of_weights_alone():
    """Those of the config's test data, with colours for names that have none; no file of the data is looked for."""
    pytest.importorskip('mmseg.datasets', exc_type=ImportError)

    def found(kind, checkpoint=(), **dataset):
        dataset = dict(type=kind, data_root='nowhere', data_prefix=dict(img_path='x'), pipeline=[], **dataset)
        return launch.missing_classes(
            Config(dict(default_scope='mmseg', test_dataloader=dict(dataset=dataset))), dict(checkpoint)
        )

    assert found('DRIVEDataset')['classes'] == ('background', 'vessel')
    own = found('BaseSegDataset', metainfo=dict(classes=('a', 'b', 'c')))
    assert own['classes'] == ('a', 'b', 'c') and len(set(own['palette'])) == 3
    assert found('BaseSegDataset') == {} == found('DRIVEDataset', dict(meta=dict(dataset_meta=dict(classes=('x',)))))


def test_tta_that_the_config_must_define(data):
    for scope in ('mmseg', 'mmengine'):
        with pytest.raises(LaunchError, match='tta'):
            launch.use_tta(config(data, scope))


@pytest.mark.parametrize('kind', [CheckpointHook, 'mmengine.hooks.CheckpointHook'])
def test_checkpoints_are_safe_in_configs_of_pure_python(kind):
    """And in those that the Runner writes down of them."""
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(type=kind, interval=2))))
    launch_runner.use_safe_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='SafeCheckpointHook', interval=2)


def test_out(data):
    """Segmentation writes label maps into a folder; other endings are refused."""
    with pytest.raises(LaunchError, match=r'\.pkl.*\.json'):
        launch.test(config(data), out='result.txt')
    with pytest.raises(LaunchError, match=r'\.pkl.*\.json'):
        launch.test(config(data), out='folder')


def test_label_maps_with_several_evaluators(data, tmp_path, monkeypatch):
    cfg = config(data, 'mmseg')
    cfg.test_evaluator = [dict(type='A'), dict(type='B')]

    def stop(built):
        raise RuntimeError('built')

    monkeypatch.setattr(testing, 'build_runner', stop)
    with pytest.raises(RuntimeError, match='built'):
        launch.test(cfg, out=str(tmp_path / 'maps'))
    assert [(one.output_dir, one.keep_results) for one in cfg.test_evaluator] == [(str(tmp_path / 'maps'), True)] * 2


def test_mmpretrain_batches_are_stacked(data):
    """As mmpretrain's own scripts do; other libraries keep their own."""
    cfg = config(data)
    launch.prepare_dataloaders(cfg)
    assert cfg.train_dataloader.collate_fn.type == 'default_collate'
    cfg = config(data, 'mmdet')
    launch.prepare_dataloaders(cfg)
    assert 'collate_fn' not in cfg.train_dataloader


def test_gloo_under_slurm(monkeypatch, tmp_path):
    """Without a GPU the launcher starts gloo itself, from Slurm's variables."""
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\necho localhost\necho other\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('MASTER_PORT', str(free.getsockname()[1]))
    for key in ('MASTER_ADDR', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(key, 'none')  # so that what the launcher sets is undone
        if key == 'MASTER_ADDR':
            monkeypatch.delenv(key)
    for key, value in dict(NODELIST='a[0-1]', PROCID=0, NTASKS=1, LOCALID=0).items():
        monkeypatch.setenv(f'SLURM_{key}', str(value))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert not launch.init_cpu_group('none')
    assert launch.init_cpu_group('slurm', timeout=77)
    try:
        backend = torch.distributed.group.WORLD._get_backend(torch.device('cpu'))
        assert backend.options._timeout == timedelta(seconds=77)
        assert torch.distributed.get_backend() == 'gloo' and torch.distributed.get_world_size() == 1
        assert not launch.init_cpu_group('slurm'), 'started once'
    finally:
        torch.distributed.destroy_process_group()


def test_gloo_under_mpi(monkeypatch):
    """mmengine's own start would ask for a GPU."""
    for key in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(key, 'none')  # so that what the launcher sets is undone
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('MASTER_PORT', str(free.getsockname()[1]))
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    for key, value in dict(RANK=0, SIZE=1, LOCAL_RANK=0).items():
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{key}', str(value))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert launch.init_cpu_group('mpi')
    try:
        assert torch.distributed.get_backend() == 'gloo' and os.environ['LOCAL_RANK'] == '0'
    finally:
        torch.distributed.destroy_process_group()


def test_each_process_of_mpi_has_its_gpu(monkeypatch, tmp_path):
    """mmengine's wrapper takes the GPU of LOCAL_RANK, which the tools set to 0 where it is missing."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    for key, value in dict(RANK=3, SIZE=4, LOCAL_RANK=1).items():
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{key}', str(value))
    monkeypatch.setattr(launch_runner, 'init_cpu_group', lambda *args: False)  # as with a GPU
    monkeypatch.setattr(launch_runner.CheckedRunner, 'from_cfg', lambda cfg: os.environ['LOCAL_RANK'])
    cfg = Config(dict(model=dict(type='A'), work_dir=str(tmp_path), launcher='mpi'))
    assert launch.build_runner(cfg) == '1'


def test_no_gloo_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert not launch.init_cpu_group('pytorch')


def test_missing_pretrained_weights():
    """Names the option, also inside a list and a part of the model; weights on the web are left to the loader."""
    missing = dict(type='Pretrained', checkpoint='no/such.pth')
    with pytest.raises(launch.LaunchError, match=r"'no/such.pth' do not .* model.backbone.init_cfg.checkpoint=FILE"):
        launch.check_pretrained(dict(backbone=dict(init_cfg=missing)))
    with pytest.raises(launch.LaunchError, match=r'model.init_cfg.checkpoint'):
        launch.check_pretrained(dict(init_cfg=[dict(type='TruncNormal', layer='Linear'), missing]))
    with pytest.raises(launch.LaunchError, match=r'model.heads.1.init_cfg.checkpoint'):
        launch.check_pretrained(dict(heads=[{}, dict(init_cfg=dict(missing, type='StrictPretrained'))]))
    for kind in (PretrainedInit, 'mmengine.model.weight_init.PretrainedInit'):  # pure Python configs, and those dumped
        with pytest.raises(launch.LaunchError, match=r'model.init_cfg.checkpoint'):
            launch.check_pretrained(dict(init_cfg=dict(missing, type=kind)))
    with pytest.raises(launch.LaunchError, match=r'model.pretrained=FILE, or train without with model.pretrained=None'):
        launch.check_pretrained(dict(pretrained='no/such.pth'))
    web = dict(init_cfg=dict(type='Pretrained', checkpoint='https://example.org/a.pth'))
    assert launch.check_pretrained(dict(backbone=web, neck=None, init_cfg=dict(type='Normal'))) is None


def test_pretrained_weights_at_home_and_in_parts(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.pth').touch()
    folder = tmp_path / 'b.pth'
    folder.mkdir()
    for part in (sharded.STATE, sharded.LIST):
        (folder / part).touch()
    for path in ('~/a.pth', str(folder)):
        launch.check_pretrained(dict(init_cfg=dict(type='Pretrained', checkpoint=path)))


def test_arguments_of_a_training(data):
    cfg = launch.prepare_train(config(data), partial=True, stop_after='2h', validate=False)
    assert cfg.load_from_partial and cfg.stop_after == '2h'
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None


def test_arguments_of_a_test(data, tmp_path):
    torch.save(dict(state_dict=dict(w=torch.ones(1))), tmp_path / 'a.pth')
    path = str(tmp_path / 'a.pth')
    cfg = launch.prepare_test(config(data, resume=True), path, amp=True, partial=True, show=True)
    assert cfg.test_cfg.fp16 and cfg.load_from_partial and not cfg.resume and cfg.default_hooks.visualization.show
    with pytest.raises(LaunchError, match='drop --tta or --show-dir'):
        launch.prepare_test(config(data), path, tta=True, show_dir='x')


@pytest.mark.parametrize(
    'script, function, arguments, expected',
    [
        (
            'train',
            'prepare_train',
            '--resume a.pth --amp --no-validate --auto-scale-lr --partial --stop-after 2h --launcher slurm',
            dict(
                resume='a.pth',
                amp=True,
                validate=False,
                auto_scale_lr=True,
                partial=True,
                stop_after='2h',
                launcher='slurm',
            ),
        ),
        ('train', 'prepare_train', '--resume', dict(resume='auto', amp=False, validate=True, partial=False)),
        (
            'test',
            'prepare_test',
            'a.pth --show-dir x --show --interval 3 --tta --amp --partial --launcher mpi',
            dict(show_dir='x', show=True, interval=3, tta=True, amp=True, partial=True, launcher='mpi'),
        ),
    ],
)
def test_every_flag_is_handed_on(monkeypatch, data, tmp_path, script, function, arguments, expected):
    (tmp_path / 'config.py').write_text(f'data_root = {str(data)!r}')
    taken, allowed = {}, []
    monkeypatch.setattr(launch, function, lambda cfg, *args, **kwargs: taken.update(kwargs))
    monkeypatch.setattr(launch, script, lambda cfg, **kwargs: taken.update(kwargs))
    command = [f'{script}.py', str(tmp_path / 'config.py'), *arguments.split(), '--unsafe']
    monkeypatch.setattr(sys, 'argv', command + (['--out', 'x.json'] if script == 'test' else []))
    tool = runpy.run_path(str(ROOT / 'tools' / f'{script}.py'))
    monkeypatch.setitem(tool['main'].__globals__, 'allow_unsafe', lambda: allowed.append(True))
    tool['main']()
    assert {key: taken[key] for key in expected} == expected and allowed == [True]
    assert script == 'train' or taken['out'] == 'x.json'


def test_checkpoints_of_custom_hooks_are_safe_too():
    cfg = Config(dict(custom_hooks=[dict(type='CheckpointHook', interval=5), dict(type='EMAHook')]))
    launch_runner.use_safe_checkpoints(cfg)
    assert [hook.type for hook in cfg.custom_hooks] == ['SafeCheckpointHook', 'EMAHook']


@pytest.mark.parametrize('unused', [True, False])
def test_what_cpu_processes_get_of_the_config(data, monkeypatch, unused):
    """Timeout of the group, and DistributedDataParallel as the config has it."""
    asked, built = [], []
    monkeypatch.setattr(launch_runner, 'init_cpu_group', lambda launcher, timeout: asked.append(timeout) or True)
    monkeypatch.setattr(launch_runner, 'check_launcher', lambda launcher: None)
    monkeypatch.setattr(launch_runner.CheckedRunner, 'from_cfg', built.append)
    cfg = config(data, launcher='pytorch', find_unused_parameters=unused, env_cfg=dict(dist_cfg=dict(timeout=99)))
    launch.build_runner(cfg)
    wrapper = built[0].model_wrapper_cfg
    assert asked == [99] and wrapper.find_unused_parameters is unused and wrapper.device_ids is None
