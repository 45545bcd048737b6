"""A training goes on from the newest whole checkpoint, and no second one writes into its folder."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmvisionllama import launch
from mmvisionllama.checkpoints import CheckpointError
from mmvisionllama.launch import LaunchError, lock_work_dir, newest_checkpoint, training
from mmvisionllama.launch.resuming import mark_first_turn, newest_of_this_training
from mmvisionllama.launch.training import agree_on_checkpoint, choose_checkpoint


def save(path, epoch=1, **rest):
    torch.save(
        dict(
            dict(meta=dict(epoch=epoch, iter=epoch), message_hub={}, optimizer={}, state_dict=dict(w=torch.ones(99))),
            **rest,
        ),
        path,
    )
    os.utime(path, (epoch, epoch))


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / 'work'
    folder.mkdir()
    for epoch in (9, 10):
        save(folder / f'epoch_{epoch}.pth', epoch)
    save(folder / 'best_accuracy_epoch_11.pth', 11)
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_10.pth'))
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:-50])


def name(path):
    return path and os.path.basename(path)


@pytest.mark.parametrize(
    'content', [None, b'', b'\xff\xfe\x00', b'/gone/epoch_10.pth', b'/gone/epoch_12.pth', b'epoch_10.pth\n\n', 'folder']
)
def test_damaged_last_checkpoint(work, capsys, content):
    """Missing, empty, binary, of a folder that was moved, of a file that is gone, with line breaks, a folder."""
    (work / 'last_checkpoint').unlink()
    if content == 'folder':
        (work / 'last_checkpoint').mkdir()
    elif content is not None:
        (work / 'last_checkpoint').write_bytes(content)
    assert newest_checkpoint(str(work)) == str(work / 'epoch_10.pth')
    assert f'resumes from {work}/epoch_10.pth' in capsys.readouterr().out


def test_a_checkpoint_at_an_address(work, tmp_path):
    """Of a hook with another out_dir: the training would lose epochs. A download in the folder is taken."""
    for folder in (tmp_path, work):
        (folder / 'last_checkpoint').write_text('s3://bucket/run/epoch_9.pth')
    with pytest.raises(LaunchError, match='s3://bucket/run/epoch_9.pth, .*download it and give --resume FILE') as error:
        newest_checkpoint(str(tmp_path))
    assert '\n' not in str(error.value)
    assert name(newest_checkpoint(str(work))) == 'epoch_9.pth'
    (work / 'last_checkpoint').write_text('s3://bucket/run/epoch_12.pth')
    with pytest.raises(LaunchError, match='epoch_12.pth'):
        newest_checkpoint(str(work))


def test_the_named_one_comes_first(work):
    """A new run in the folder of an old one; also if the file lies elsewhere."""
    (work / 'last_checkpoint').write_text(str(work / 'epoch_9.pth'))
    assert name(newest_checkpoint(str(work))) == 'epoch_9.pth'
    shutil.move(work / 'epoch_9.pth', work.parent)
    (work / 'last_checkpoint').write_text(str(work.parent / 'epoch_9.pth'))
    assert newest_checkpoint(str(work)) == str(work.parent / 'epoch_9.pth')


def test_damaged_ones_are_skipped_and_named(work, capsys):
    truncate(work / 'epoch_10.pth')
    assert name(newest_checkpoint(str(work))) == 'epoch_9.pth'
    assert 'not resumed: ' in capsys.readouterr().out
    (work / 'epoch_10.pth').write_bytes(b'')
    assert name(newest_checkpoint(str(work))) == 'epoch_9.pth'
    truncate(work / 'epoch_9.pth')
    with pytest.raises(CheckpointError, match='no checkpoint .* can be resumed .*--work-dir'):
        newest_checkpoint(str(work))


def test_weights_alone_cannot_be_resumed(work):
    torch.save(dict(state_dict=dict(w=torch.ones(1))), work / 'epoch_10.pth')
    with pytest.raises(CheckpointError, match='no state of a training.*load_from='):
        choose_checkpoint(Config(dict(work_dir=str(work))), str(work / 'epoch_10.pth'))
    assert name(newest_checkpoint(str(work))) == 'epoch_9.pth'


def test_the_best_one_has_no_optimizer(work):
    """mmengine would go on at its epoch with a new optimizer and the first rates of the schedules."""
    best = torch.load(work / 'epoch_10.pth', weights_only=True)
    del best['optimizer']
    torch.save(best, work / 'best_acc_epoch_10.pth')
    with pytest.raises(CheckpointError, match='no state of a training.*load_from='):
        choose_checkpoint(Config(dict(work_dir=str(work))), str(work / 'best_acc_epoch_10.pth'))


@pytest.mark.parametrize('variable', ['SLURM_RESTART_COUNT', 'TORCHELASTIC_RESTART_COUNT'])
def test_a_path_is_for_the_first_turn(work, tmp_path, monkeypatch, variable):
    """The launcher repeats the command; what the first turn saved is newer. Older files are of another training."""

    def chosen(count, work_dir=work):
        monkeypatch.setenv(variable, count)
        cfg = Config(dict(work_dir=str(work_dir)))
        choose_checkpoint(cfg, str(work / 'epoch_9.pth'))
        assert cfg.resume
        return name(cfg.load_from)

    assert [chosen('0'), chosen('1')] == ['epoch_9.pth', 'epoch_9.pth']  # no turn has begun yet
    (work / '.resumed').write_text(' elsewhere.pth')  # nor one of this training
    assert chosen('1') == 'epoch_9.pth'
    mark_first_turn(str(work), str(work / 'epoch_9.pth'))
    assert chosen('1') == 'epoch_9.pth'  # epoch_10 was there before
    now = os.path.getmtime(work / '.resumed')
    os.utime(work / 'epoch_10.pth', (now, now))
    assert chosen('1') == 'epoch_10.pth' and chosen('0') == 'epoch_9.pth'
    truncate(work / 'epoch_10.pth')
    assert chosen('1') == 'epoch_9.pth'
    assert chosen('1', tmp_path / 'nothing saved') == 'epoch_9.pth'


def test_all_processes_go_on_from_one_file(work, monkeypatch):
    """Only those of the machine whose process died know that they were started again."""
    given, newest = str(work / 'epoch_9.pth'), str(work / 'epoch_10.pth')
    runner = SimpleNamespace(work_dir=str(work), _load_from=given)
    monkeypatch.setattr(training, 'all_gather_object', lambda own: [own, newest])
    agree_on_checkpoint(runner, given)
    assert runner._load_from == newest and not (work / '.resumed').exists()
    runner._load_from = given
    monkeypatch.setattr(training, 'all_gather_object', lambda own: [own, given])
    agree_on_checkpoint(runner, given)
    assert runner._load_from == given and (work / '.resumed').exists()


def test_a_command_that_fails_leaves_the_mark(work, monkeypatch):
    """Beside a running training, say."""

    def fails(cfg):
        assert 'resume_path' not in cfg  # not among the settings that the Runner writes down
        raise LaunchError('another training')

    monkeypatch.setattr(training, 'build_runner', fails)
    with pytest.raises(LaunchError, match='another training'):
        launch.train(Config(dict(work_dir=str(work), resume_path=str(work / 'epoch_9.pth'))))
    assert not (work / '.resumed').exists()


@pytest.mark.parametrize('launcher', ['none', 'slurm'])
def test_tasks_of_a_sweep_are_trainings_of_their_own(work, monkeypatch, launcher):
    """Each of srun's tasks without a launcher holds its folder, and goes on where it was when it is started again."""
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.setenv('SLURM_PROCID', '3')

    def build(cfg):
        assert (work / '.training').exists() == (launcher == 'none')
        return SimpleNamespace(work_dir=cfg.work_dir, _load_from=cfg.resume_from, launcher=launcher, train=lambda: None)

    monkeypatch.setattr(training, 'build_runner', build)
    given = str(work / 'epoch_9.pth')
    launch.train(Config(dict(work_dir=str(work), launcher=launcher, resume_path=given, resume_from=given)))
    assert (work / '.resumed').exists() == (launcher == 'none')


def test_a_whole_file_beside_a_damaged_one_is_named(work):
    truncate(work / 'epoch_10.pth')
    with pytest.raises(LaunchError, match='epoch_10.pth.* is damaged .*: --resume .*/epoch_9.pth') as error:
        choose_checkpoint(Config(dict(work_dir=str(work))), str(work / 'epoch_10.pth'))
    assert '\n' not in str(error.value)


def test_what_the_runner_gets(work, tmp_path):
    """The file itself; without one to resume, what the config loads stays."""
    cfg = Config(dict(work_dir=str(work)))
    choose_checkpoint(cfg, 'auto')
    assert cfg.resume and name(cfg.load_from) == 'epoch_10.pth'
    cfg = Config(dict(work_dir=str(tmp_path / 'new'), load_from=str(work / 'epoch_9.pth')))
    choose_checkpoint(cfg, 'auto')
    assert not cfg.resume and name(cfg.load_from) == 'epoch_9.pth'
    cfg = Config(dict(work_dir=str(work), resume=True))
    choose_checkpoint(cfg)
    assert cfg.resume and name(cfg.load_from) == 'epoch_10.pth'


def test_the_config_itself_resumes_a_file(work, tmp_path):
    """--resume, which the scripts that restart add, is for what the work directory has."""
    cfg = Config(dict(work_dir=str(tmp_path / 'new'), load_from=str(work / 'epoch_9.pth'), resume=True))
    choose_checkpoint(cfg, 'auto')
    assert cfg.resume and name(cfg.load_from) == 'epoch_9.pth'
    truncate(work / 'epoch_9.pth')
    with pytest.raises(LaunchError, match='epoch_9.pth.* is damaged .*: --resume .*/epoch_10.pth'):
        choose_checkpoint(cfg, 'auto')
    cfg.work_dir = str(work)
    choose_checkpoint(cfg, 'auto')
    assert cfg.resume and name(cfg.load_from) == 'epoch_10.pth'


OTHER = """
import sys
from mmvisionllama.launch import LaunchError, lock_work_dir
try:
    with lock_work_dir(sys.argv[1]):
        print('free')
except LaunchError as error:
    print(error)
"""


def test_two_trainings_in_one_folder(tmp_path, monkeypatch):
    pytest.importorskip('fcntl')
    monkeypatch.delenv('RANK', raising=False)

    def other(**env):
        done = subprocess.run(
            [sys.executable, '-c', OTHER, str(tmp_path / 'work')],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    with lock_work_dir(str(tmp_path / 'work')):
        said = other()
        assert f'another training (process {os.getpid()} on ' in said and '--work-dir' in said and '\n' not in said
        assert other(RANK='1') == 'free', 'the other processes of one training'
    assert other() == 'free'


def test_training_holds_its_folder(tmp_path, monkeypatch):
    held = []

    class Runner:
        def train(self):
            held.append((tmp_path / 'work' / '.training').read_text())
            return 'model'

    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.setattr('mmvisionllama.launch.training.build_runner', lambda cfg: Runner())
    assert launch.train(Config(dict(work_dir=str(tmp_path / 'work')))) == 'model'
    assert held[0].startswith(f'process {os.getpid()} on ')


def test_another_job_of_slurm_begins_from_the_given_checkpoint(tmp_path, monkeypatch):
    """And the same one, queued again, goes on from its own."""
    monkeypatch.setenv('SLURM_JOB_ID', '1')
    given = str(tmp_path / 'given.pth')
    mark_first_turn(str(tmp_path), given)
    save(tmp_path / 'epoch_1.pth')
    os.utime(tmp_path / 'epoch_1.pth')  # now
    assert newest_of_this_training(str(tmp_path), given) == str(tmp_path / 'epoch_1.pth')
    monkeypatch.setenv('SLURM_JOB_ID', '2')
    assert newest_of_this_training(str(tmp_path), given) is None
