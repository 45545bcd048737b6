"""A finished training becomes an entry of the zoo, with what its log and its own config say."""

import importlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config

from mmvisionllama import zoo
from mmvisionllama.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    pytest.importorskip('safetensors')
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'model_zoo'))
    return importlib.import_module('add_weights')


def test_a_training_becomes_an_entry(tool, tmp_path):
    from safetensors.torch import load_file

    pytest.importorskip('mmpretrain')
    config, work = ROOT / 'configs/mmpretrain/quickstart/vision_llama_digits.py', tmp_path / 'work'
    (work / '20260101_000000' / 'vis_data').mkdir(parents=True)
    records = [{'accuracy/top1': value, 'step': step} for step, value in ((1, 40.0), (2, 98.0512))]
    (work / '20260101_000000/vis_data/scalars.json').write_text(''.join(f'{json.dumps(r)}\n' for r in records))
    model = zoo.get_model('vision_llama_digits')
    trained = dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=['no', 'yes'])))
    torch.save(trained, work / 'epoch_2.pth')
    (work / 'last_checkpoint').write_text(str(work / 'epoch_2.pth'))
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'randomness.seed': 7})
    cfg.dump(work / config.name)  # what the Runner leaves
    options = '--cfg-options randomness.seed=7'
    texts = ['--data', 'the digits', '--trained-on', 'other digits']
    arguments = [str(config), str(work), *texts, '--score', 'accuracy/top1=Top 1 Accuracy']
    tool.main([*arguments, '--options', options, '--root', str(tmp_path)])

    folder = tmp_path / 'weights' / 'vision_llama_digits'
    card = (folder / 'README.md').read_text()
    assert 'Top 1 Accuracy **98.05**: the digits. One training with seed 7;' in card and options in card
    assert [json.loads(line)['step'] for line in (folder / 'log.jsonl').read_text().splitlines()] == [1, 2]
    (entry,) = yaml.safe_load((tmp_path / tool.WEIGHTS).read_text())['Models']
    assert entry['Results'][0]['Dataset'] == 'the digits' and entry['Metadata']['Training Data'] == 'other digits'
    assert entry['Metadata']['Seed'] == 7 and entry['Results'][0]['Metrics'] == {'Top 1 Accuracy': 98.05}
    stored = load_file(folder / 'model.safetensors')
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
    assert read_checkpoint(folder / 'model.safetensors')['meta']['dataset_meta'] == dict(classes=['no', 'yes'])
