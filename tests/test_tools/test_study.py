"""The study: its statistics, its page, and one job from training to log on noise."""

import dataclasses
import importlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmvisionllama.errors import DataError

ROOT = Path(__file__).parents[2]
NAMES = (
    'plan',
    'logs',
    'job',
    'page',
    'cells',
    'drawing',
    'classification_page',
    'run',
    'files',
    'classification',
    'detection',
    'pretraining',
    'comparison',
    'generation',
    'detection_page',
    'generation_page',
    'labels_page',
    'pretraining_page',
)


@pytest.fixture
def study(monkeypatch, tmp_path):
    """The scripts as modules, with logs in a folder of their own."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('scipy')
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'study'))
    modules = {name: importlib.import_module(name) for name in NAMES}
    monkeypatch.setattr(modules['plan'], 'LOGS', tmp_path / 'logs')
    yield modules
    for name in NAMES:
        sys.modules.pop(name, None)


def tables(study, part):
    """What is written between the marks of a part."""
    return study['page'].sections()[part].tables(part)


def lines_drawn(module, part, monkeypatch, tmp_path):
    """The lines of each panel, by label, at the moment when a part's picture is written to a file."""
    from matplotlib.figure import Figure

    panels, save = [], Figure.savefig

    def recorded(figure, *args, **options):
        panels.extend({line.get_label(): list(line.get_ydata()) for line in axis.lines} for axis in figure.axes)
        save(figure, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Figure, 'savefig', recorded)
        module.draw(part, tmp_path / 'picture.png')
    assert (tmp_path / 'picture.png').stat().st_size > 10_000
    return panels


def test_intervals_are_students(study):
    from scipy.stats import ttest_rel

    ours, theirs = {0: 60.1, 1: 61.0, 2: 59.2, 5: 0.0}, {2: 58.0, 0: 58.9, 1: 58.3}
    found = study['comparison'].paired(ours, theirs)
    expected = ttest_rel([60.1, 61.0, 59.2], [58.9, 58.3, 58.0]).confidence_interval(0.95)
    assert found.pairs == 3
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((expected.low, expected.high))
    assert found.is_significant == (expected.low > 0)
    assert found.p == pytest.approx(ttest_rel([60.1, 61.0, 59.2], [58.9, 58.3, 58.0]).pvalue)
    assert study['comparison'].paired({0: 1.0}, {1: 1.0}) is None
    alone = study['comparison'].paired({0: 2.0}, {0: 1.0})
    assert alone.mean == 1.0 and math.isnan(alone.half) and not alone.is_significant and str(alone) == '+1.0'
    assert str(study['comparison'].Difference(-3.0, 1.0, 3)) == '**-3.0 ± 1.0**'
    # one of 360 images in every seed, of unlike floats: no spread, no interval
    alike = study['comparison'].paired({0: 99.4444, 1: 98.0556, 2: 0.2778}, {0: 99.1667, 1: 97.7778, 2: 0.0001})
    assert str(alike) == '+0.3' and math.isnan(alike.p) and not alike.is_significant
    assert str(study['comparison'].paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})) == '+0.0 ± 0.0'


def test_speed_is_read_off_mean_curves(study):
    cells, comparison, page = study['cells'], study['comparison'], study['classification_page']
    slow = [
        [(epoch, 2.0 * epoch) for epoch in range(2, 14, 2)],
        [(epoch, 2.0 * epoch + 2) for epoch in range(2, 14, 2)],
    ]
    quick = [[(epoch, 4.0 * epoch) for epoch in range(2, 14, 2)]]
    reached = comparison.reached
    assert reached(quick, 24.0) == 6 and reached(slow, 25.0) == 12 and reached(slow, 26.0) is None
    runs = {
        arm: {
            seed: [dict(kind='val', epoch=epoch, top1=top1) for epoch, top1 in points]
            for seed, points in enumerate(curves)
        }
        for arm, curves in (('vit', slow), ('visionllama', quick))
    }
    assert page.convergence('vit', comparison.Logs({}, runs, 0)) == [
        'visionllama is at the final mean of vit after epoch 8 of 12.',
        'vit is at the final mean of visionllama in none of 12 epochs.',
    ]
    few = {arm: {seed: records[:3] for seed, records in found.items()} for arm, found in runs.items()}
    assert page.convergence('vit', comparison.Logs({}, few, 0)) == []
    losses = [[(step, -1 / step) for step in range(500, 2500, 500)]]
    said = cells.speed(losses, [[(2000, -1 / 900)]], ('sit_llama', 'sit'), 'iterations', 'mean loss')
    assert said == 'sit_llama is at the final mean loss of sit after 1,000 of 2,000 iterations.'
    said = cells.speed(losses, [[(2000, 0.0)]], ('sit_llama', 'sit'), 'iterations', 'mean loss')
    assert said == 'sit_llama is at the final mean loss of sit in none of 2,000 iterations.'


def test_the_smallest_p_is_multiplied(study):
    cells, paired = study['cells'], study['comparison'].paired
    tested = []
    values = {
        'a': {0: 1.0, 1: 2.0, 2: 3.0},
        'b': {0: 3.0, 1: 5.0, 2: 5.0},
        'c': {0: 1.1, 1: 1.9, 2: 3.3},
        'd': {0: 9.0},
    }
    found = [cells.against(arm, values, 'a', tested) for arm in values]
    assert found[0] == '' and found[3] == '+8.0' and [where[0] for _, where in tested] == ['b', 'c']
    p = paired(values['b'], values['a']).p
    (_, line) = cells.smallest_p(tested)
    assert line.startswith(f'The smallest p of all 2 differences in these tables is {p:.4f} (b on all test images); ')
    assert line.endswith(f'is {2 * p:.2f}.') and cells.smallest_p([]) == []


def test_a_difference_is_counted_once(study):
    """Positions that change nothing at the training size have the same accuracies there."""
    cells, tested = study['cells'], []
    ours, other, vit = ('ours', 'as2d'), ('ours', '2d'), ('vit', 'config')
    sizes = {
        '32': {ours: {0: 1.0, 1: 3.0}, other: {0: 1.0, 1: 3.0}, vit: {0: 0.0, 1: 0.0}},
        '48': {ours: {0: 1.0, 1: 3.0}, other: {0: 1.0, 1: 4.0}, vit: {0: 0.0, 1: 0.0}},
    }
    table = cells.differences(sizes, [(*ours, 'as2d', vit), (*other, '2d', vit), (*other, '2d', ours)], tested)
    assert table[2].split('|')[2] == table[3].split('|')[2]
    assert [where for _, where in tested] == ['as2d at 32', 'as2d at 48', '2d at 48', '2d at 48']


def test_jobs_come_in_an_order_that_can_be_cut_short(study):
    jobs = list(study['plan'].jobs(['grocery']))
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) == 5 * 2 + 5 * 3
    assert [job.rate is None for job in jobs] == [False] * 10 + [True] * 15
    assert [job.seed for job in jobs[10:]] == [0] * 5 + [1] * 5 + [2] * 5
    ready = study['run'].ready
    assert ready(jobs[0], jobs[1:], {}) and not ready(jobs[10], jobs[1:10], {}) and ready(jobs[10], [], {})


def test_arms_differ_in_one_line(study):
    """Every config of an arm sets one thing of the backbone, but the other library's."""
    from mmengine.config import Config

    def of(arm):
        return Config.fromfile(study['plan'].CONFIGS / arm.config).to_dict()

    for name, theirs in (('grocery', 'vit'), ('pyramid', 'twins')):
        part = study['plan'].PARTS[name]
        base = of(part.arms[part.reference])
        for arm in set(part.arms) - {part.reference, theirs}:
            other = of(part.arms[arm])
            added = {key for key in other['model']['backbone'] if key not in base['model']['backbone']}
            assert len(added) == 1
            other['model']['backbone'].pop(added.pop())
            assert other == base
        other = of(part.arms[theirs])
        other['model']['backbone'] = base['model']['backbone']
        other['model'].pop('neck', None)
        assert other == base


def test_initial_values_of_the_control(study):
    """Attention as VisionLLaMA's, FFN as the other ViT's, as the protocol says."""
    from mmengine.registry import MODELS, init_default_scope

    from mmvisionllama.launch import load_config

    plan, spreads = study['plan'], {}
    for arm, found in plan.PARTS['cifar10'].arms.items():
        cfg = load_config(str(plan.CONFIGS / found.config))
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        model.init_weights()
        weights = {name: value for name, value in model.backbone.named_parameters() if value.ndim == 2}
        for part, words in (('attention', ('qkv', 'proj')), ('ffn', ('ffn', 'mlp'))):
            values = [value.std().item() for name, value in weights.items() if any(word in name for word in words)]
            assert len(values) >= 12
            spreads[arm, part] = sum(values) / len(values)
    near = pytest.approx
    assert spreads['visionllama', 'attention'] == near(0.02, rel=0.05) == spreads['vit_deit_init', 'attention']
    assert spreads['visionllama', 'ffn'] == near(0.02, rel=0.05)
    assert spreads['vit', 'ffn'] == near(0.065, rel=0.05) == spreads['vit_deit_init', 'ffn']
    assert spreads['vit', 'attention'] > 0.05


def test_arms_are_tested_with_the_positions_of_their_training(study):
    """The first variant of every arm is the network as it was trained, at the size that it was trained at."""
    import torch
    from mmengine.registry import MODELS, init_default_scope

    from mmvisionllama.analysis.resolution_transfer import rotary_variant
    from mmvisionllama.launch import load_config

    plan, count = study['plan'], 0
    for name, part in plan.PARTS.items():
        for arm in part.arms.values():
            if not arm.variants or arm.variants[0] == 'config':
                continue
            cfg = load_config(str(plan.CONFIGS / arm.config))
            init_default_scope(cfg.default_scope)
            trained = MODELS.build(cfg.model.backbone).eval()
            tested = MODELS.build(rotary_variant(cfg.model.backbone, arm.variants[0])).eval()
            tested.load_state_dict(trained.state_dict())
            side = cfg.model.backbone.img_size
            images = torch.rand(1, 3, side, side)
            with torch.no_grad():
                outputs = trained(images)[0], tested(images)[0]
            assert torch.equal(*outputs), (name, arm)
            count += 1
    assert count >= 10


def test_data_as_published(study, tmp_path):
    source = tmp_path / 'dataset'
    for name in ('train/Fruit/Apple/Granny/Granny_001.jpg', 'val/Fruit/Apple/Granny/Granny_001.jpg'):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_text(name)
    (source / 'test/Vegetables/Leek').mkdir(parents=True)
    (source / 'test/Vegetables/Leek/Leek_003.jpg').write_text('test')
    for _ in range(2):
        assert study['files'].arrange_grocery(source, tmp_path / 'data') == 3
    root = tmp_path / 'data' / 'grocery_store'
    assert sorted(path.relative_to(root).as_posix() for path in root.glob('*/*/*')) == [
        'test/Leek/test_Leek_003.jpg',
        'train/Apple/train_Granny_Granny_001.jpg',
        'train/Apple/val_Granny_Granny_001.jpg',
    ]
    with pytest.raises(DataError, match='expected the folder'):
        study['files'].arrange_grocery(tmp_path, tmp_path / 'data')
    with pytest.raises(DataError, match='are not there'):
        study['files'].reduce_grocery(tmp_path)


def test_cifar10_is_arranged_as_published(study, tmp_path, monkeypatch, capsys):
    from PIL import Image

    source = tmp_path / 'cifar-10-batches-bin'
    source.mkdir()
    (source / 'batches.meta.txt').write_text('airplane\nautomobile\n')
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    records = [np.append(np.uint8(index % 2), picture) for index, picture in enumerate(pictures)]
    for name, chosen in (('data_batch_1', records[:2]), ('data_batch_2', records[2:4]), ('test_batch', records[4:])):
        np.concatenate(chosen).tofile(source / f'{name}.bin')
    monkeypatch.setattr(sys, 'argv', ['files.py', str(source), str(tmp_path / 'data')])
    study['files'].main()
    assert capsys.readouterr().out.endswith('5 pictures\n')
    root = tmp_path / 'data' / 'cifar10'
    names = {file.relative_to(root).as_posix(): file for file in root.glob('*/*/*')}
    assert sorted(names) == [
        'test/airplane/00004.png',
        'train/airplane/00000.png',
        'train/airplane/00002.png',
        'train/automobile/00001.png',
        'train/automobile/00003.png',
    ]
    for name, file in names.items():
        assert (np.asarray(Image.open(file)) == pictures[int(name[-9:-4])].transpose(1, 2, 0)).all()


def photographs(root):
    """43 classes of two noisy pictures to train and one to test."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (('train', 2), ('test', 1)):
        for label in range(43):
            folder = root / 'grocery_store' / split / f'{label:02d}'
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (360, 400, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.jpg', quality=30)


def test_a_job_from_training_to_the_page(study, tmp_path, monkeypatch):
    job, logs, plan = (study[name] for name in ('job', 'logs', 'plan'))
    photographs(tmp_path / 'data')
    study['files'].reduce_grocery(tmp_path / 'data')
    study['files'].reduce_grocery(tmp_path / 'data')  # is done already
    sizes = (36, 72, 348, (72, 144))
    variants = ('as2d', '2d')
    part = plan.PARTS['grocery']
    arms = {'axial': dataclasses.replace(part.arms['axial'], variants=variants)}
    monkeypatch.setitem(plan.PARTS, 'grocery', dataclasses.replace(part, sizes=sizes, arms=arms))
    monkeypatch.setattr(job, 'commit', lambda: 'abc')
    common = ['--data-root', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'work'), '--cfg-options']
    small = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=16']
    small += ['model.backbone.arch.num_layers=1']
    with pytest.raises(job.launch.LaunchError, match='comes first'):
        job.main(['grocery', 'axial', '--seed=0', *common, *small])
    for rate in (1e-3, 3e-3):
        job.main(['grocery', 'axial', '--seed=100', f'--rate={rate}', *common, *small])
    job.main(['grocery', 'axial', '--seed=0', *common, *small])

    tuned = {rate: logs.read(plan.Job('grocery', 'axial', 100, rate).log) for rate in (1e-3, 3e-3)}
    assert [tuned[rate][0]['images'] for rate in tuned] == [86 - 18] * 2
    records = logs.read(plan.Job('grocery', 'axial', 0).log)
    best = max(sorted(tuned), key=lambda rate: logs.last(tuned[rate], 'val')['top1'])
    assert records[0]['rate'] == best and records[0]['threads'] == 1 and records[0]['images'] == 86
    assert records[0]['command'] == 'python tools/study/job.py grocery axial --seed 0'
    final = logs.last(records, 'final')
    assert final['images'] == 43 and final['recall'] == pytest.approx(final['top1'], abs=1e-3)
    tests = {(row['variant'], row['size']): row for row in records if row['kind'] == 'test'}
    assert len(tests) == 2 * 4 and all(row['images'] == 11 for row in tests.values())
    assert tests['2d', 72]['top1'] == tests['as2d', 72]['top1']
    assert {size for _, size in tests} == {36, 72, 348, '72x144'}

    text = tables(study, 'grocery')
    assert f'| axial | {records[0]["parameters"]:,} | {best:g} | 1 | {final["top1"]:.1f} ' in text
    shown = [tests['as2d', size]['top1'] for size in (36, 72, 348, '72x144')]
    assert '| axial, as2d | ' + ' | '.join(f'{value:.1f}' for value in shown) + ' |' in text
    trained, tested = lines_drawn(study['classification_page'], 'grocery', monkeypatch, tmp_path)
    assert trained == {'axial': shown[:3]} and tested['as2d'] == shown[:3] and set(tested) == {'as2d', '2d'}


def test_gpus_are_for_parts_that_ask_for_one(study, tmp_path, monkeypatch):
    run, plan = study['run'], study['plan']
    started, stopped = [], []

    class Process:
        def __init__(self, command, env, **options):
            started.append((command, env))

        def poll(self):
            return None

        def terminate(self):
            stopped.append(self)

        def wait(self, timeout=None):
            assert self in stopped

    assert 'cifar10_gpu' not in {job.part for job in plan.jobs()}
    monkeypatch.setattr(run.subprocess, 'Popen', Process)
    monkeypatch.setattr(run.signal, 'signal', lambda *_: None)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
    for part, device in (('cifar10_gpu', '3'), ('cifar10', '')):
        started.clear(), stopped.clear()
        run.main([part, '--workers=2', '--minutes=0.01', '--data-root', str(tmp_path), '--work-dir', str(tmp_path)])
        assert len(started) == len(stopped) == 2  # time was up
        for command, env in started:
            assert command[2] == part and env['CUDA_VISIBLE_DEVICES'] == device and env['OMP_NUM_THREADS'] == '1'


@pytest.mark.skipif(sys.platform != 'linux', reason="Linux' signal")
def test_no_job_outlives_a_killed_run(study, tmp_path):
    code = (
        'import os, signal, sys, run; from plan import Job\n'
        'class Args: work_dir = data_root = run.Path(sys.argv[1])\n'
        'sys.executable = sys.argv[1] + "/job"\n'
        'job = run.start(Job("cifar10", "vit", 0), Args)\n'
        'print(job.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)'
    )
    stub = tmp_path / 'job'
    stub.write_text('#!/bin/sh\nexec sleep 60\n')
    stub.chmod(0o755)
    command = [sys.executable, '-c', code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / 'tools' / 'study', capture_output=True, text=True)
    process = Path('/proc') / done.stdout.strip()
    assert done.returncode == -signal.SIGKILL and done.stdout.strip().isdigit(), done.stderr
    for _ in range(100):
        # ended, or waiting for somebody to take note of it
        if not process.exists() or (process / 'stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z':
            return
        time.sleep(0.1)
    os.kill(int(process.name), signal.SIGKILL)
    pytest.fail('still at work')


def test_the_gpu_study_on_a_cpu(study, tmp_path, monkeypatch):
    job, logs, plan = (study[name] for name in ('job', 'logs', 'plan'))
    pictures_of_ten_classes(tmp_path / 'data')
    monkeypatch.setattr(job, 'commit', lambda: 'abc')
    part = dataclasses.replace(plan.PARTS['cifar10_gpu'], rates=(1e-3,), seeds=(0,), sizes=(32,), test_every=1)
    monkeypatch.setitem(plan.PARTS, 'cifar10_gpu', part)
    common = ['--data-root', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'work'), '--cfg-options']
    common += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=16']
    common += [f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')]
    common += [f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val', 'test')]
    common += ['default_hooks.logger.interval=1', 'model.backbone.arch.num_layers=1']
    monkeypatch.setattr(job, 'has_gpu', lambda: False)
    with pytest.raises(job.launch.LaunchError, match='needs a GPU'):
        job.main(['cifar10_gpu', 'vit', '--seed=100', '--rate=1e-3', *common])
    monkeypatch.setattr(job, 'has_gpu', lambda: True)
    for arm in part.arms:
        job.main(['cifar10_gpu', arm, '--seed=100', '--rate=1e-3', *common])
        job.main(['cifar10_gpu', arm, '--seed=0', *common])
        assert logs.last(logs.read(plan.Job('cifar10_gpu', arm, 0).log), 'final')['images'] == 20
    text = tables(study, 'cifar10_gpu')
    assert '| visionllama, as2d | ' in text and 'hours of jobs that share a GPU.' in text


def test_more_labels(study, tmp_path, monkeypatch):
    """Fewer labels are among more of them, tenths are of every class, and the table pairs the arms' seeds."""
    plan, classification, labels = (study[name] for name in ('plan', 'classification', 'labels_page'))
    pictures_of_ten_classes(tmp_path / 'data', each=20)
    used = []
    for name, part in ((name, plan.PARTS[name]) for name in plan.LABELS):
        cfg = classification.config_of(plan.Job(name, 'visionllama', 0), 1e-3, tmp_path / 'data', {})
        used.append(set(cfg.train_dataloader.dataset.get('indices', range(200))))
        assert [len({i for i in used[-1] if i // 20 == label}) for label in range(10)] == [2 * part.train_tenths] * 10
        tuned = classification.config_of(plan.Job(name, 'visionllama', 100, 1e-3), 1e-3, tmp_path / 'data', {})
        indices = [set(tuned[f'{split}_dataloader'].dataset.indices) for split in ('train', 'val')]
        assert indices[0] | indices[1] == used[-1] and not indices[0] & indices[1]
    assert used[0] < used[1] < used[2]

    nothing = 'No number of labels has all of its runs.'
    assert labels.tables('labels') == nothing
    for name, images in zip(plan.LABELS, (5000, 15000)):
        for arm, gain in (('visionllama', 5.0), ('vit_deit_init', 1.0)):
            for seed in (0, 1, 2):
                log = plan.Job(name, arm, seed).log
                log.parent.mkdir(parents=True, exist_ok=True)
                records = [dict(kind='run', images=images, epochs=20), dict(kind='final', top1=50 + seed * gain)]
                if (images, arm, seed) == (15000, 'vit_deit_init', 0):
                    records[1:] = [dict(kind='diverged', step=70)]
                records.append(dict(kind='end', seconds=1))
                if (images, arm, seed) == (5000, 'vit_deit_init', 2):
                    assert labels.tables('labels') == nothing  # five of six
                log.write_text(''.join(json.dumps(record) + '\n' for record in records))
    first, second, _, corrected = labels.tables('labels').splitlines()[2:6]
    assert first == '| 5,000 | 20 | 3 | 55.0 (50.0 to 60.0) | 51.0 (50.0 to 52.0) | +4.0 ± 9.9 |'
    # one diverged, and its partner is left out, too
    assert second.startswith('| 15,000 | 20 | 2 | 57.5 (55.0 to 60.0) | 51.5 (51.0 to 52.0) | +6.0 ± ')
    assert corrected.startswith('The smallest p of all 2 differences')
    (panel,) = lines_drawn(labels, 'labels', monkeypatch, tmp_path)
    assert panel == {'visionllama': [55, 57.5], 'vit_deit_init': [51, 51.5]}


def test_rates_are_tried_in_a_short_training(study, tmp_path, monkeypatch):
    """With a warm-up of half an epoch, as the part with all labels has it."""
    job, logs, plan = study['job'], study['logs'], study['plan']
    pictures_of_ten_classes(tmp_path / 'data')
    monkeypatch.setattr(job, 'commit', lambda: 'abc')
    common = ['--data-root', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'work'), '--cfg-options']
    common += ['train_dataloader.batch_size=8', 'default_hooks.logger.interval=1', 'model.backbone.arch.num_layers=1']
    job.main(['cifar10_100', 'visionllama', '--seed=100', '--rate=1e-3', *common])
    records = logs.read(plan.Job('cifar10_100', 'visionllama', 100, 1e-3).log)
    rates = [record['lr'] for record in records if record['kind'] == 'train']
    assert len(rates) == 10 and max(rates) == pytest.approx(1e-3) and rates.index(max(rates)) in (1, 2)
    assert [record['epoch'] for record in records if record['kind'] == 'val'] == [2]


@HOOKS.register_module()
class StartRecorder(Hook):
    """Keeps the backbone's weights that a training begins with."""

    weights = {}

    def before_train(self, runner):
        self.weights.clear()
        self.weights.update({name: value.clone() for name, value in runner.model.backbone.state_dict().items()})


def pictures_of_ten_classes(root, each=5):
    """Noise in CIFAR-10's folders: some pictures of a class to train on, two to test on."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (('train', each), ('test', 2)):
        for label in range(10):
            folder = root / 'cifar10' / split / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f'{i}.png')


@pytest.mark.parametrize('part', ['dit', 'sit'])
def test_generators_from_training_to_the_page(study, tmp_path, monkeypatch, part):
    job, logs, plan, generation = (study[name] for name in ('job', 'logs', 'plan', 'generation'))
    pictures_of_ten_classes(tmp_path / 'data')
    for _ in range(2):
        study['files'].split_cifar10(tmp_path / 'data')
    monkeypatch.setattr(job, 'commit', lambda: 'abc')
    monkeypatch.setattr(generation, 'SAMPLES', 40)
    monkeypatch.setattr(generation, 'EXTRACTOR', 'vision_llama_digits')
    monkeypatch.setitem(plan.PARTS, part, dataclasses.replace(plan.PARTS[part], rates=(1e-3,), seeds=(0,)))
    assert tables(study, part) == 'No run is finished.'
    options = ['train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=1', 'train_dataloader.batch_size=4']
    options += ['default_hooks.logger.interval=1', 'model.network.arch.num_layers=1', 'model.sampler.num_steps=2']
    common = ['--data-root', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'work'), '--cfg-options', *options]
    from mmvisionllama.generation import GaussianDiffusion, LinearInterpolant

    owner, name = dict(dit=(GaussianDiffusion, 'add_noise'), sit=(LinearInterpolant, 'interpolate'))[part]
    noised, mixed = [], getattr(owner, name)

    def recorded(self, *args):
        noised.append([float(x.double().sum()) for x in args])
        return mixed(self, *args)

    monkeypatch.setattr(owner, name, recorded)
    finals, streams = {}, []
    for arm in plan.PARTS[part].arms:
        noised.clear()
        job.main([part, arm, '--seed=100', '--rate=1e-3', *common])
        job.main([part, arm, '--seed=0', *common])
        streams.append(list(noised))
        tuned = logs.read(plan.Job(part, arm, 100, 1e-3).log)
        records = logs.read(plan.Job(part, arm, 0).log)
        assert [log[0]['images'] for log in (tuned, records)] == [40, 50]
        assert [(r['iter'], r['images']) for r in records if r['kind'] == 'held_out'] == [(1, 4), (2, 4)]
        finals[arm] = logs.last(records, 'final')
        assert (finals[arm]['samples'], finals[arm]['reals']) == (40, 20) and finals[arm]['distance'] > 0
        assert not [record for record in tuned if record['kind'] == 'final']
        assert logs.score(tuned) == -logs.last(tuned, 'held_out')['loss'] < 0
        assert (plan.LOGS / part / f'{arm}.png').stat().st_size > 1000
    # pictures, times and noises are the same for both arms, in training and in the tests, and no two batches are
    assert streams[0] == streams[1] and streams[0][0] != streams[0][1]
    base, ours = plan.PARTS[part].arms
    difference = 1000 * (finals[ours]['loss'] - finals[base]['loss'])
    text = tables(study, part)
    assert f'| {difference:+.2f} |' in text and f'{ours} is at the final mean loss of {base} ' in text
    losses, *samples = lines_drawn(study['generation_page'], part, monkeypatch, tmp_path)
    drawn = {arm: values[-1] for arm, values in losses.items()}
    assert drawn == pytest.approx({arm: 1000 * finals[arm]['loss'] for arm in (base, ours)})
    assert samples == [{}, {}]


def test_encoders_from_pretraining_to_the_page(study, tmp_path, monkeypatch):
    import torch

    job, logs, plan = (study[name] for name in ('job', 'logs', 'plan'))
    pictures_of_ten_classes(tmp_path / 'data')
    monkeypatch.setattr(job, 'commit', lambda: 'abc')
    part = plan.PARTS['cifar10']
    short = {**part.options, **plan.epochs(2, 1, 1), 'train_dataloader.batch_size': 2}
    short['custom_hooks'] = [dict(type='StartRecorder')]
    monkeypatch.setitem(plan.PARTS, 'cifar10', dataclasses.replace(part, rates=(1e-3,), options=short, sizes=(32, 48)))
    monkeypatch.setitem(plan.PARTS, 'mae', dataclasses.replace(plan.PARTS['mae'], rates=(1e-3,), seeds=(0,)))
    assert tables(study, 'mae') == 'No run is finished.'
    common = ['--data-root', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'work')]
    small = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=8']
    small += ['default_hooks.logger.interval=1']
    for arm in ('visionllama', 'vit_deit_init'):
        log = plan.Job('cifar10', arm, 100, 1e-3).log
        log.parent.mkdir(parents=True, exist_ok=True)
        records = dict(kind='val', epoch=6, top1=1.0), dict(kind='end', seconds=1)
        log.write_text(''.join(json.dumps(record) + '\n' for record in records))
    job.main(['cifar10', 'vit_deit_init', '--seed=0', *common])
    finals = {}
    for arm in plan.PARTS['mae'].arms:
        if arm == 'wide_2_blocks':  # costs time, and shows nothing that the others do not
            shutil.copy(plan.Job('mae', 'paper', 100, 1e-3).log, plan.Job('mae', arm, 100, 1e-3).log)
        else:
            job.main(['mae', arm, '--seed=100', '--rate=1e-3', *common, *small])
        job.main(['mae', arm, '--seed=0', *common, *small])
        tuned = logs.read(plan.Job('mae', arm, 100, 1e-3).log)
        records = logs.read(plan.Job('mae', arm, 0).log)
        assert [log[0]['images'] for log in (tuned, records)] == [40, 50]
        assert not [record for record in tuned if record['kind'] in ('final', 'probe')]
        assert logs.score(tuned) == logs.last(tuned, 'val')['top1']
        found = logs.last(records, 'probe')
        assert (found['images'], found['tested'], found['as_scratch']) == (50, 20, arm != 'wide_2_blocks')
        assert [record['epoch'] for record in records if record['kind'] == 'val'] == [1, 2]
        finals[arm] = logs.last(records, 'final')
        assert finals[arm]['images'] == 20
        # fine-tuning begins with all that pre-training left, but the class token that VisionLLaMA's patches never met
        left = torch.load(tmp_path / 'work/mae' / f'{arm}_seed0' / 'encoder.pth', weights_only=True)['state_dict']
        start = StartRecorder.weights
        assert set(start) - set(left) <= {'ln2.weight', 'ln2.bias'} and not set(left) - set(start)
        assert ('cls_token' in start) == (arm == 'vit')
        assert all(torch.equal(start[name], value) for name, value in left.items())
    sizes = {arm: logs.last(logs.read(plan.Job('mae', arm, 0).log), 'probe')['encoder'] for arm in finals}
    assert abs(sizes['wide_2_blocks'] / sizes['paper'] - 1) < 0.01 and abs(sizes['vit'] / sizes['paper'] - 1) < 0.02
    scratch = logs.last(logs.read(plan.Job('cifar10', 'vit_deit_init', 0).log), 'final')['top1']
    text = tables(study, 'mae')
    (line,) = [line for line in text.splitlines() if line.startswith('| vit |')]
    cells = [cell.strip() for cell in line.split('|')[1:-1]]
    assert cells[1] == f'{sizes["vit"]:,}' and cells[-1] == f'{finals["vit"]["top1"] - scratch:+.1f}'
    assert 'Fine-tuned, vit is at the final mean of vit_deit_init from scratch ' in text
    losses, tops = lines_drawn(study['pretraining_page'], 'mae', monkeypatch, tmp_path)
    assert set(losses) == set(finals)
    assert set(tops) == {f'{arm}, fine-tuned' for arm in finals} | {'vit, from scratch'}
    assert len(tops['vit, from scratch']) == len(tops['vit, fine-tuned']) == 2


def nuclei(root):
    """Discs on noise in COCO's format: ten pictures to train on, three to test."""
    import cv2

    rng = np.random.default_rng(0)
    for split, count in (('train', 10), ('val', 3)):
        (root / 'nuclei' / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            picture = rng.integers(0, 60, (96, 64, 3), dtype=np.uint8)
            for x, y in ((20, 30), (40, 70)):
                cv2.circle(picture, (x, y), 9, (220, 200, 210), -1)
                box = [x - 9, y - 9, 18, 18]
                corners = [box[0], box[1], box[0] + 18, box[1], box[0] + 18, box[1] + 18, box[0], box[1] + 18]
                found = dict(id=len(annotations) + 1, image_id=number, category_id=1, iscrowd=0, area=324)
                annotations.append(dict(found, bbox=box, segmentation=[corners]))
            cv2.imwrite(str(root / 'nuclei' / split / f'{number}.png'), picture)
            images.append(dict(id=number, file_name=f'{number}.png', height=96, width=64))
        whole = dict(images=images, annotations=annotations, categories=[dict(id=1, name='nucleus')])
        (root / 'nuclei' / f'instances_{split}.json').write_text(json.dumps(whole))


def test_detectors_from_training_to_the_page(study, tmp_path, monkeypatch):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops')
    job, logs, plan = (study[name] for name in ('job', 'logs', 'plan'))
    with pytest.raises(DataError, match='is not there'):
        study['files'].split_nuclei(tmp_path / 'data')
    nuclei(tmp_path / 'data')
    study['files'].split_nuclei(tmp_path / 'data')
    split = [json.loads((tmp_path / 'data/nuclei' / f'instances_{name}.json').read_text()) for name in ('fit', 'held')]
    assert [len(part['images']) for part in split] == [8, 2] and [len(part['annotations']) for part in split] == [16, 4]
    monkeypatch.setattr(job, 'commit', lambda: 'abc')
    part = dataclasses.replace(plan.PARTS['nuclei'], rates=(1e-3,), seeds=(0,), sizes=(1, 2))
    monkeypatch.setitem(plan.PARTS, 'nuclei', part)
    assert tables(study, 'nuclei') == 'No run is finished.'
    common = ['--data-root', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'work'), '--cfg-options']
    common += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=2']
    common += ['default_hooks.logger.interval=1']
    sizes = {}
    for arm in part.arms:
        cfg = study['detection'].config_of(plan.Job('nuclei', arm, 0), 1e-3, tmp_path / 'data', {})
        facts = study['detection'].facts(cfg)
        sizes[arm] = facts['backbone'], facts['gmacs']
        if arm == 'swin':  # costs time, and shows nothing that the others do not
            continue
        if arm == 'pyramid':
            job.main(['nuclei', arm, '--seed=100', '--rate=1e-3', *common])
        else:
            shutil.copy(plan.Job('nuclei', 'pyramid', 100, 1e-3).log, plan.Job('nuclei', arm, 100, 1e-3).log)
        tuned = logs.read(plan.Job('nuclei', arm, 100, 1e-3).log)
        job.main(['nuclei', arm, '--seed=0', *common])
        records = logs.read(plan.Job('nuclei', arm, 0).log)
        assert [log[0]['images'] for log in (tuned, records)] == [8, 10]
        assert not [record for record in tuned if record['kind'] == 'test']
        assert logs.score(tuned) == logs.last(tuned, 'val')['ap']
        tests = {(row['variant'], row['size']): row['ap'] for row in records if row['kind'] == 'test'}
        assert set(tests) == {(variant, size) for variant in part.arms[arm].variants for size in (1, 2)}
        first = part.arms[arm].variants[0]
        assert tests[first, 1] == pytest.approx(logs.last(records, 'val')['ap'], abs=0.05)  # mmdet gives three digits
        assert {row['ap'] for row in records if row['kind'] in ('val', 'test')} != {-100.0}
    # of the same cost: the parameters within 30 %, the operations within 25 %
    for values, room in zip(zip(*sizes.values()), (1.3, 1.25)):
        assert max(values) / min(values) < room
    text = tables(study, 'nuclei')
    assert f'| pyramid | {sizes["pyramid"][0]:,} | {sizes["pyramid"][1]:.2f} | 0.001 | 1 |' in text
    assert '| positions | 1x | 2x |' in text
    training, resized = lines_drawn(study['detection_page'], 'nuclei', monkeypatch, tmp_path)
    assert set(training) == {'pyramid', 'resnet'} and len(resized) == 3


def test_what_was_repeated_counts_once(study, tmp_path):
    """A training that was killed logs the iterations since its last checkpoint again."""
    folder = tmp_path / '20260101_000000' / 'vis_data'
    folder.mkdir(parents=True)
    rows = [dict(lr=1, loss=3.0, step=10), dict(step=1, top1=1.0), dict(lr=1, loss=2.0, step=20)]
    (folder / 'scalars.json').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    later = tmp_path / '20260101_000100' / 'vis_data'
    later.mkdir(parents=True)
    again = [dict(step=1, top1=2.0), dict(lr=1, loss=1.5, step=20), dict(step=2, top1=3.0)]
    (later / 'scalars.json').write_text(''.join(json.dumps(row) + '\n' for row in again))
    found = study['logs'].scalars(tmp_path)
    assert [row['loss'] for row in found if 'loss' in row] == [3.0, 1.5]
    assert [row['top1'] for row in found if 'top1' in row] == [2.0, 3.0]
    check = study['logs'].check_end
    check([dict(kind='val', epoch=4)], 4, tmp_path)
    with pytest.raises(study['job'].launch.LaunchError, match=f'{tmp_path}: stopped in its last validation'):
        check([dict(kind='val', epoch=2)], 4, tmp_path)


def test_a_run_that_diverged_takes_its_seed_along(study, tmp_path, monkeypatch):
    job, logs, plan = (study[name] for name in ('job', 'logs', 'plan'))
    sizes = (36,)
    monkeypatch.setitem(plan.PARTS, 'grocery', dataclasses.replace(plan.PARTS['grocery'], sizes=sizes))
    for arm in ('axial', 'vit'):
        for seed in (0, 1, 2):
            log = plan.Job('grocery', arm, seed).log
            log.parent.mkdir(parents=True, exist_ok=True)
            final = dict(kind='final', top1=50.0 + seed + (arm == 'vit'), recall=1.0, ece=1.0, nll=1.0)
            variant = plan.PARTS['grocery'].arms[arm].variants[0]
            records = [dict(kind='run', rate=1e-3, parameters=7), final, dict(kind='val', epoch=8, top1=1.0)]
            records += [dict(kind='test', variant=variant, size=36, top1=3.0), dict(kind='end', seconds=1)]
            if (arm, seed) == ('vit', 1):
                records[1:-1] = [dict(kind='diverged', step=70)]
            log.write_text(''.join(json.dumps(record) + '\n' for record in records))
    text = tables(study, 'grocery')
    assert 'Seed 1 is left out: vit diverged.' in text and '\n4 of 10 runs and those' in text
    assert '| axial | 7 | 0.001 | 2 | 51.0 (50.0 to 52.0) |' in text and '| vit | 7 | 0.001 | 2 | 52.0 ' in text
    assert logs.score([dict(kind='diverged', step=3)]) == -math.inf
    for rate, records in ((1e-3, [dict(kind='val', epoch=8, top1=2.0)]), (3e-3, [dict(kind='diverged', step=3)])):
        log = plan.Job('grocery', 'axial', 100, rate).log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(''.join(json.dumps(record) + '\n' for record in [*records, dict(kind='end', seconds=3600)]))
    text = tables(study, 'grocery')
    assert 'axial 2.0 at 0.001, diverged at 0.003.' in text and 'chose the rates: 2.0 hours of one core.' in text


def test_nan_ends_in_a_log_and_seconds_add_up(study, tmp_path, monkeypatch):
    job, logs, plan = study['job'], study['logs'], study['plan']
    photographs(tmp_path / 'data')
    study['files'].reduce_grocery(tmp_path / 'data')
    monkeypatch.setattr(job, 'commit', lambda: 'abc')
    seconds = tmp_path / 'work' / 'grocery/tuning/axial_lr0.001' / 'seconds.txt'
    seconds.parent.mkdir(parents=True)
    seconds.write_text('1000')
    common = ['--data-root', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'work'), '--cfg-options']
    small = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=16']
    small += ['model.backbone.arch.num_layers=1', 'model.head.loss.loss_weight=1e39', 'default_hooks.logger.interval=1']
    job.main(['grocery', 'axial', '--seed=100', '--rate=1e-3', *common, *small])
    records = logs.read(plan.Job('grocery', 'axial', 100, 1e-3).log)
    assert [record['kind'] for record in records] == ['run', 'diverged', 'end']
    assert records[-1]['seconds'] >= 1000 and float(seconds.read_text()) >= 1000


def test_a_finished_or_other_training_is_not_gone_on_with(study, tmp_path):
    """After its log was removed, or with another rate."""
    aside, folder, before = study['job'].set_earlier_aside, tmp_path / 'axial_seed0', tmp_path / 'axial_seed0_before'
    aside(folder, 'lr = 1')
    (folder / 'epoch_1.pth').touch()
    aside(folder, 'lr = 1')
    assert (folder / 'epoch_1.pth').exists() and not before.exists()
    (folder / 'final.pth').touch()
    aside(folder, 'lr = 1')
    assert [path.name for path in folder.iterdir()] == ['config.py'] and (before / 'final.pth').exists()
    (folder / 'epoch_1.pth').touch()
    aside(folder, 'lr = 3')
    assert [path.name for path in folder.iterdir()] == ['config.py'] and not (before / 'final.pth').exists()
    assert (before / 'epoch_1.pth').exists() and (folder / 'config.py').read_text() == 'lr = 3'


def test_seconds_of_the_training_stay_when_its_tests_are_killed(study, tmp_path, monkeypatch):
    job, seconds = study['job'], tmp_path / 'seconds.txt'
    monkeypatch.setattr(job.launch, 'prepare_train', lambda cfg, resume: cfg)
    monkeypatch.setattr(job.launch, 'train', lambda runner: (tmp_path / 'last_checkpoint').write_text('epoch_1.pth'))

    def killed(path):
        assert path == 'epoch_1.pth' and float(seconds.read_text()) >= 1000
        raise KeyboardInterrupt

    monkeypatch.setattr(job, 'read_checkpoint', killed)
    stopwatch = job.Stopwatch(seconds)
    stopwatch.before = 1000
    cfg = job.Config(dict(work_dir=str(tmp_path), train_dataloader=dict(batch_size=1)))
    with pytest.raises(KeyboardInterrupt):
        job._run(study['plan'].Job('grocery', 'axial', 0), 1e-3, cfg, 'abc', stopwatch)


def test_held_out_loss_is_that_of_the_same_noise(study, monkeypatch):
    """Of a network that says 0: the mean square of the noise, the same whenever it is asked."""
    import torch

    generation = study['generation']

    class Zero(torch.nn.Module):
        def network(self, x, t, labels):
            return torch.zeros_like(x)

        def __init__(self):
            super().__init__()
            from mmvisionllama.generation import LinearInterpolant

            self.objective = LinearInterpolant()

    images = torch.zeros(8, 3, 16, 16)
    loader = [dict(inputs=images, labels=torch.zeros(8, dtype=torch.int64))]
    torch.manual_seed(5)
    found = [generation.held_out_loss(Zero(), loader) for _ in range(2)]
    torch.manual_seed(5)
    assert found[0] == found[1] == pytest.approx(1, abs=0.05)  # the velocity to a black picture is the noise
    assert generation.held_out_loss(Zero(), loader, seed=1) != found[0]


@HOOKS.register_module()
class BatchRecorder(Hook):
    """Keeps the labels and pixel sums of every training batch."""

    seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        labels = [int(sample.gt_label) for sample in data_batch['data_samples']]
        self.seen.append((labels, [int(image.long().sum()) for image in data_batch['inputs']]))


@pytest.mark.nightly
def test_a_seed_gives_all_arms_the_same_batches(study, tmp_path):
    """Order, crops, flips and colours, in a second epoch and with arms that draw numbers of their own as well."""
    job, plan = study['job'], study['plan']
    photographs(tmp_path / 'data')
    study['files'].reduce_grocery(tmp_path / 'data')
    streams = {}
    for arm, seed in (('axial', 0), ('vit', 0), ('mixed', 0), ('augmented', 0), ('axial', 1)):
        options = {
            'train_cfg.max_epochs': 2,
            'train_dataloader.batch_size': 16,
            'model.backbone.drop_path_rate': 0.5,
            'custom_hooks': [dict(type='BatchRecorder')],
        }
        if arm != 'vit':
            options['model.backbone.arch.num_layers'] = 1
        cfg = study['classification'].config_of(plan.Job('grocery', arm, seed), 1e-3, tmp_path / 'data', options)
        cfg.work_dir = str(tmp_path / f'{arm}{seed}')
        BatchRecorder.seen.clear()
        job.launch.train(job.launch.prepare_train(cfg))
        streams[arm, seed] = list(BatchRecorder.seen)
    first = streams['axial', 0]
    assert len(first) == 10 and first[0] != first[5]
    for (arm, seed), stream in streams.items():
        assert (stream == first) == (seed == 0), arm


def test_page_has_what_the_logs_say():
    """Every number of the tables comes from the logs in the repository."""
    pytest.importorskip('scipy')
    sys.path.insert(0, str(ROOT / 'tools' / 'study'))
    try:
        assert importlib.import_module('page').main(['--check']) == 0
    finally:
        sys.path.pop(0)
        for name in NAMES:
            sys.modules.pop(name, None)


def test_positions_are_compared_with_the_same_weights():
    """What the page says of unscaled positions on CIFAR-10 at 48 pixels, from the logs without its code."""
    from scipy.stats import t

    logs = [ROOT / f'docs/results/study/cifar10/visionllama_seed{seed}.jsonl' for seed in range(3)]
    found = []
    for log in logs:
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        top1 = {r['variant']: r['top1'] for r in rows if r['kind'] == 'test' and str(r['size']) == '48'}
        found.append(top1['2d'] - top1['as2d'])
    half = t.ppf(0.975, len(found) - 1) * np.std(found, ddof=1) / len(found) ** 0.5
    text = (ROOT / 'docs/study.md').read_text().split('<!-- results of cifar10')[1].split('<!-- end')[0]
    (line,) = [line for line in text.split('same weights')[1].splitlines() if line.startswith('| visionllama, 2d |')]
    assert line.split('|')[4].strip() == f'**{np.mean(found):+.1f} ± {half:.1f}**'


def test_differences_to_the_control_in_words():
    """Those of VisionLLaMA to the control by size are in a sentence, not in a table: from the logs alone."""
    from scipy.stats import t

    def top1(arm, seed, size):
        log = ROOT / f'docs/results/study/cifar10/{arm}_seed{seed}.jsonl'
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        (row,) = [r for r in rows if r['kind'] == 'test' and r['size'] == size and r['variant'] != '2d']
        return row['top1']

    said = []
    for size in (24, 32, 48, 64):
        found = [top1('visionllama', seed, size) - top1('vit_deit_init', seed, size) for seed in range(3)]
        half = t.ppf(0.975, len(found) - 1) * np.std(found, ddof=1) / len(found) ** 0.5
        said.append(f'{np.mean(found):.1f} ± {half:.1f}')
    text = ' '.join((ROOT / 'docs/study.md').read_text().split())
    assert f'{", ".join(said[:3])} and {said[3]} points at 24, 32, 48 and 64 pixels' in text


def test_intervals_in_words_are_those_of_the_tables():
    """In the page and in the README, rounded or not; the four by size are counted in the test above."""
    page = (ROOT / 'docs/study.md').read_text()
    blocks = re.findall('<!-- results of .*?<!-- end of results -->', page, flags=re.DOTALL)
    number = r'(\d+\.\d+) ± (\d+\.\d+)'
    known = {'4.1 ± 1.9', '5.7 ± 1.5', '4.0 ± 5.1', '2.1 ± 4.0'}
    for mean, half in re.findall(number, ' '.join(blocks)):
        known |= {f'{mean} ± {half}', f'{float(mean):.1f} ± {float(half):.1f}'}
    for block in blocks:
        page = page.replace(block, '')
    said = [f'{mean} ± {half}' for mean, half in re.findall(number, ' '.join(page.split()))]
    study = (ROOT / 'README.md').read_text().split('[a study](docs/study.md)')[1].split('\n\n')[0]
    said += [f'{mean} ± {half}' for mean, half in re.findall(number, ' '.join(study.split()))]
    assert len(said) > 20 and set(said) <= known


def test_a_corrected_p_in_words_is_that_of_its_table():
    """Where a section says by how much its smallest p misses."""
    said = 0
    for section in (ROOT / 'docs/study.md').read_text().split('\n## '):
        for product in re.findall(r'just not \((\d\.\d\d)\)', ' '.join(section.split())):
            assert f'times their number that is {product}.' in section
            said += 1
    assert said


def test_logs_are_of_the_plan(study):
    """No log of a job that the plan does not have, and none of another number of epochs or threads."""
    from mmengine.config import Config

    plan = study['plan']
    logs = ROOT / 'docs' / 'results' / 'study'
    planned = {f'{job.name}.jsonl': job for job in plan.jobs(list(plan.PARTS))}
    for path in logs.glob('**/*.jsonl'):
        job = planned[path.relative_to(logs).as_posix()]
        run = json.loads(path.read_text().splitlines()[0])
        assert (run['part'], run['arm'], run['seed'], run['threads']) == (job.part, job.arm, job.seed, 1)
        part = plan.PARTS[job.part]
        options = {**part.options, **({} if job.rate is None else part.tuning)}
        length, key = ('iterations', 'max_iters') if part.kind == 'generation' else ('epochs', 'max_epochs')
        configured = Config.fromfile(plan.CONFIGS / part.arms[job.arm].config).train_cfg[key]
        assert run[length] == options.get(f'train_cfg.{key}', configured)
