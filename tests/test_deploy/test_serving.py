"""The example server, answered in process, and under the load test over a socket."""

import importlib
import io
import json
import runpy
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmvisionllama import deploy
from mmvisionllama.deploy.predictor import check_picture
from mmvisionllama.errors import LaunchError

for library in ('starlette', 'httpx', 'uvicorn'):
    pytest.importorskip(library)
FOLDER = Path(__file__).parents[2] / 'tools' / 'deployment'


class Brightness:
    """Stands for a predictor: the brighter, the likelier the second of three classes."""

    classes = ('dark', 'bright', 'other')

    def __call__(self, path):
        from PIL import Image

        check_picture(path)
        share = np.asarray(Image.open(path).convert('L')).mean() / 255
        return [SimpleNamespace(pred_score=torch.tensor([0.9 - 0.9 * share, 0.9 * share, 0.1]))]


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module('serve'), importlib.import_module('load_test')


def png(value, size=(20, 30)):
    from PIL import Image

    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 3, (*size, 3))
    Image.fromarray((value + noise).astype(np.uint8)).save(buffer, 'PNG')
    return buffer.getvalue()


def test_answers(tools):
    from starlette.testclient import TestClient

    client = TestClient(tools[0].make_app(Brightness(), max_bytes=10_000))
    assert client.get('/health').json() == {'classes': 3}
    reply = client.post('/predict', content=png(240))
    assert reply.status_code == 200
    assert reply.json()['classes'] == ['bright', 'other', 'dark'] and reply.json()['scores'][0] > 0.8
    for broken in (b'', b'no picture', png(240)[:400]):
        reply = client.post('/predict', content=broken)
        assert reply.status_code == 400 and reply.json()['error'].startswith('the picture cannot be read')
        assert '\n' not in reply.json()['error'] and len(reply.json()['error']) < 300
        assert tempfile.gettempdir() not in reply.json()['error']
    assert client.post('/predict', content=bytes(10_001)).status_code == 413
    assert client.get('/predict').status_code == 405


def test_other_models_are_refused(tools):
    with pytest.raises(LaunchError, match='serves classifiers.*mmseg'):
        tools[0].make_app(SimpleNamespace(scope='mmseg'))


@pytest.mark.parametrize('limits', [dict(at_once=0), dict(at_once=-1), dict(max_bytes=0)])
def test_a_server_that_could_answer_nothing_is_refused(tools, limits):
    with pytest.raises(LaunchError, match='have to be above 0'):
        tools[0].make_app(Brightness(), **limits)


def test_a_client_that_leaves_while_it_sends_is_no_error(tools):
    app, sent = tools[0].make_app(Brightness()), []

    async def receive():
        return dict(type='http.disconnect')

    async def send(message):
        sent.append(message)

    scope = dict(type='http', method='POST', path='/predict', headers=[], query_string=b'', root_path='')
    tools[1].anyio.run(app, scope, receive, send)
    assert sent[0]['status'] == 400


def test_a_load_of_nothing_is_refused(tools, tmp_path):
    (tmp_path / 'a.png').write_bytes(png(10))
    args = tools[1].parse_args(['http://127.0.0.1:1', str(tmp_path), '--requests=0'])
    with pytest.raises(LaunchError, match='no picture was sent'):
        tools[1].anyio.run(tools[1].send, args)


def test_a_real_model(tools):
    """The shipped digits classifier, from its config and weights."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('safetensors')
    from starlette.testclient import TestClient

    from mmvisionllama.model_zoo import CONFIGS, config_path

    weights = CONFIGS.parent / 'weights' / 'vision_llama_digits' / 'model.safetensors'
    predictor = deploy.Predictor(config_path('mmpretrain/quickstart/vision_llama_digits.py'), str(weights))
    reply = TestClient(tools[0].make_app(predictor)).post('/predict', content=png(100, (32, 32)))
    assert reply.status_code == 200 and len(reply.json()['scores']) == 5
    assert reply.json()['scores'] == sorted(reply.json()['scores'], reverse=True)


@pytest.mark.parametrize('replies, status', [({'whole: 200': 9, 'broken: 400': 1}, 0), ({'whole: 500': 10}, 1)])
def test_the_exit_status_of_a_load_test(replies, status, tools, monkeypatch, capsys):
    monkeypatch.setattr(tools[1].httpx, 'get', lambda url: SimpleNamespace(raise_for_status=lambda: None))
    monkeypatch.setattr(tools[1].anyio, 'run', lambda *_: dict(replies=replies))
    monkeypatch.setattr('sys.argv', ['load_test.py', 'http://127.0.0.1:1', 'a.png'])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(tools[1].__file__, run_name='__main__')
    assert stop.value.code == status


def test_load(tools, tmp_path, capsys):
    import uvicorn

    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(tools[0].make_app(Brightness()), port=port, log_level='error'))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    (tmp_path / 'a.png').write_bytes(png(10))
    arguments = [f'http://127.0.0.1:{port}/', str(tmp_path), '--requests=40', '--clients=3', '--seconds=30']
    try:
        assert tools[1].main([*arguments, '--out', str(tmp_path / 'r.json')]) == 0
        found = json.loads((tmp_path / 'r.json').read_text())
        assert found['replies'] == {'whole: 200': 36, 'broken: 400': 4}
        assert 0 < found['p50_ms'] <= found['p95_ms'] <= found['p99_ms'] and found['per_second'] > 0
    finally:
        server.should_exit = True
        thread.join(10)
    with pytest.raises(LaunchError, match='does not answer.*start tools'):
        tools[1].main(arguments)
