"""Downloads: one file for each address, whole or not at all, once for all processes."""

import shutil
import threading

import pytest
import torch

from mmvisionllama.checkpoints import CheckpointError, read_checkpoint
from mmvisionllama.checkpoints.fetching import cached_path, fetch


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Files by address, and the addresses that were asked for."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    files, asked = {}, []

    def download(url, target):
        asked.append(url)
        shutil.copy(files[url], target)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    return files, asked


def saved(path, value):
    torch.save(dict(weight=torch.full((3,), float(value))), path)
    return path


def test_addresses_of_the_same_file_name_are_different_files(tmp_path, web):
    files, asked = web
    for i, url in enumerate(
        ['https://a.org/1/model.pth', 'https://a.org/2/model.pth', 'https://a.org/1/model.pth?v=2']
    ):
        files[url] = saved(tmp_path / f'{i}.pth', i)
        assert read_checkpoint(url)['weight'].tolist() == [i] * 3
    assert len(asked) == 3
    assert read_checkpoint('https://a.org/1/model.pth')['weight'].tolist() == [0] * 3 and len(asked) == 3


@pytest.mark.parametrize('url', ['https://a.org/weights/', 'https://a.org', f'https://a.org/{"x" * 300}.pth'])
def test_addresses_without_a_usable_file_name(tmp_path, web, url):
    web[0][url] = saved(tmp_path / 'file.pth', 1)
    assert read_checkpoint(url)['weight'].sum() == 3


def test_damaged_downloads_do_not_stay(tmp_path, web):
    files, asked = web
    url = 'https://a.org/model.pth'
    files[url] = tmp_path / 'page.html'
    files[url].write_text('<html>please log in</html>')
    with pytest.raises(CheckpointError, match=f'{url}.*damaged.*the download is removed, check the address'):
        read_checkpoint(url)
    files[url] = saved(tmp_path / 'good.pth', 2)
    assert read_checkpoint(url)['weight'].sum() == 6


def test_interrupted_downloads_leave_nothing(tmp_path, web, monkeypatch):
    def download(url, target):
        with open(target, 'w') as file:
            file.write('half of it')
        raise OSError('connection lost')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    with pytest.raises(CheckpointError, match='cannot be fetched .connection lost.'):
        fetch('https://a.org/model.pth')
    assert [path.suffix for path in (tmp_path / 'hub/checkpoints').iterdir()] == ['.lock']


def test_one_of_several_fetches(tmp_path, web, monkeypatch):
    files, asked = web
    url = 'https://a.org/model.pth'
    files[url] = saved(tmp_path / 'file.pth', 1)
    copy, started = torch.hub.download_url_to_file, threading.Barrier(4)
    paths = []

    def slow(url, target):
        while len(threading.enumerate()) < before + 4:
            pass  # the others are on their way
        copy(url, target)

    def work():
        started.wait()
        paths.append(fetch(url))

    monkeypatch.setattr(torch.hub, 'download_url_to_file', slow)
    before = len(threading.enumerate())
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [cached_path(url)] * 4 and len(asked) == 1


@pytest.mark.parametrize('path', ['s3://bucket/model.pth', 'file:///etc/model.pth', 'hf://a/b'])
def test_other_addresses_are_refused(path):
    with pytest.raises(CheckpointError, match=f'addresses of kind {path.split("//")[0]}// are not fetched'):
        read_checkpoint(path)
