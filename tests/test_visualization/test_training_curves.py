"""Learning curves from mmengine's logs: one run, a resumed one, a repeated one."""

import json

import numpy as np
import pytest

from mmvisionllama.visualization.training import curves, evaluation_unit, plot_learning_curves, read_scalars


def write(folder, run, steps, offset=0.0):
    """A log of mmengine: losses at every step, an evaluation at every second one."""
    file = folder / run / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    lines = []
    for step in steps:
        lines.append(dict(lr=0.1, loss=offset + 1 / step, step=step))
        if step % 2 == 0:
            lines.append({'accuracy/top1': offset + step, 'step': step})
    file.write_text('\n'.join(map(json.dumps, lines)) + '\n')


def test_one_run(tmp_path):
    write(tmp_path, '20260101_000000', range(1, 5))
    assert curves(read_scalars(tmp_path), 'accuracy/top1') == (
        ([1, 2, 3, 4], [1, 1 / 2, 1 / 3, 1 / 4]),
        ([2, 4], [2, 4]),
    )


def test_a_resumed_run_continues_and_a_repeated_one_starts_anew(tmp_path):
    write(tmp_path, '20260101_000000', range(1, 6))
    write(tmp_path, '20260101_000001', range(4, 7), offset=10.0)
    (steps, losses), evaluations = curves(read_scalars(tmp_path), 'accuracy/top1')
    assert steps == [1, 2, 3, 4, 5, 6] and losses[2] < 1 and losses[3] > 10
    assert evaluations == ([2, 4, 6], [2, 14, 16])
    write(tmp_path, '20260101_000002', range(1, 5), offset=20.0)
    assert curves(read_scalars(tmp_path), 'accuracy/top1')[1] == ([2, 4], [22, 24])


def test_a_repeated_run_takes_the_evaluations_along_before_its_first(tmp_path):
    """Of epochs, whose numbers say nothing about iterations."""
    first = [dict(lr=0.1, loss=1.0, step=step) for step in (10, 20)]
    first.insert(1, {'accuracy/top1': 6, 'step': 1})
    first.append({'accuracy/top1': 12, 'step': 2})
    again = dict(lr=0.1, loss=5.0, step=10)
    assert curves([*first, again], 'accuracy/top1') == (([10], [5.0]), ([], []))
    resumed = dict(lr=0.1, loss=5.0, step=30)
    assert curves([*first, resumed], 'accuracy/top1')[1] == ([1, 2], [6, 12])


def test_a_line_that_a_kill_cut_off(tmp_path):
    write(tmp_path, '20260101_000000', range(1, 5))
    (file,) = tmp_path.glob('*/vis_data/scalars.json')
    text = file.read_text()
    file.write_text(text + '{"lr": 0.1, "lo')
    assert len(read_scalars(tmp_path)) == text.count('step')
    file.write_text('{"lr": 0.1, "lo\n' + text)
    with pytest.raises(json.JSONDecodeError):
        read_scalars(tmp_path)


def test_the_picture_has_every_curve(tmp_path):
    from PIL import Image

    for name in 'ab':
        write(tmp_path / name, '20260101_000000', range(1, 5))
    plot_learning_curves({'first': tmp_path / 'a', 'second': tmp_path / 'b'}, 'accuracy/top1', tmp_path / 'p.png')
    with Image.open(tmp_path / 'p.png') as picture:
        assert np.asarray(picture.convert('L')).std() > 5  # not blank
    with pytest.raises(FileNotFoundError, match='was a model trained there'):
        read_scalars(tmp_path / 'c')


def test_there_are_no_fractions_of_epochs_on_the_axis(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    write(tmp_path, '20260101_000000', range(1, 4))
    monkeypatch.setattr(plt, 'close', lambda figure: None)
    plot_learning_curves({'one': tmp_path}, 'accuracy/top1', tmp_path / 'p.png')
    ticks = [tick for axes in plt.gcf().axes for tick in axes.get_xticks()]
    monkeypatch.undo()
    plt.close('all')
    assert ticks and all(tick == int(tick) for tick in ticks)


def test_unit_of_the_evaluations():
    evaluation = {'mIoU': 8.0, 'step': 350}
    assert evaluation_unit([{'loss': 1.0, 'lr': 0.1, 'iter': 50, 'step': 50}, evaluation]) == 'iteration'
    assert evaluation_unit([{'loss': 1.0, 'lr': 0.1, 'epoch': 1, 'iter': 50, 'step': 50}, evaluation]) == 'epoch'
