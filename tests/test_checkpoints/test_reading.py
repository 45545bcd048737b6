"""Each way a checkpoint can be wrong has its own error, and a refused one changes nothing."""

import argparse
import copy
import fractions
import json
import logging
import re
import sys
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from mmvisionllama.backbones import iLLaMA
from mmvisionllama.checkpoints import CheckpointError, find_state_dict, load_pretrained, read_checkpoint
from mmvisionllama.checkpoints.loading import check_weights


def network():
    """80 + 8 elements in the first layer, 32 + 4 in the second."""
    return nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 4))


@pytest.fixture
def source():
    return network()


@pytest.fixture
def save(tmp_path):
    def write(content, name='file.pth'):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return write


class TestRead:
    def test_what_mmengine_writes(self, save, source):
        """Training state of a Runner: history buffers and numpy values next to the weights."""
        import numpy as np
        from mmengine.logging import MessageHub

        hub = MessageHub.get_instance('reading')
        hub.update_scalar('train/loss', 0.5)
        hub.update_info('epoch', np.int64(3))
        path = save(dict(state_dict=source.state_dict(), message_hub=hub.state_dict(), meta=dict(seed=np.float64(1))))
        checkpoint = read_checkpoint(path)
        assert checkpoint['message_hub']['log_scalars']['train/loss'].current() == 0.5
        assert checkpoint['meta']['seed'] == 1
        for key, value in find_state_dict(checkpoint).items():
            assert torch.equal(value, source.state_dict()[key])

    def test_metainfo_of_a_config(self, save, source):
        """A dictionary in a data set's metainfo is a ConfigDict, which the Runner saves with the weights."""
        from mmengine.config import Config
        from mmengine.dataset import BaseDataset

        config = Config(dict(metainfo=dict(classes=['oak', 'fir'], groups=dict(broad=['oak'], of=dict(fir=1)))))
        dataset = BaseDataset(metainfo=config.metainfo, lazy_init=True)
        path = save(dict(state_dict=source.state_dict(), meta=dict(dataset_meta=dataset.metainfo)))
        assert read_checkpoint(path)['meta']['dataset_meta'] == dataset.metainfo

    def test_a_range_is_data(self, save, source):
        assert read_checkpoint(save(dict(source.state_dict(), meta=range(2, 9))))['meta'] == range(2, 9)

    @pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
    def test_a_device_that_is_not_here_is_no_damage(self, tmp_path, source, suffix):
        from safetensors.torch import save_file

        save_file(source.state_dict(), tmp_path / 'file.safetensors')
        torch.save(source.state_dict(), tmp_path / 'file.pth')
        with pytest.raises(CheckpointError, match="map_location 'cuda:99' cannot be used here") as error:
            read_checkpoint(tmp_path / f'file.{suffix}', map_location='cuda:99')
        assert 'fetch it again' not in str(error.value)

    @pytest.mark.parametrize('name', ['model.bin', 'model.pth', 'model.SAFETENSORS'])
    def test_safetensors_under_other_names(self, tmp_path, source, name):
        from safetensors.torch import save_file

        save_file(source.state_dict(), tmp_path / name)
        if name.endswith('SAFETENSORS'):
            assert set(read_checkpoint(tmp_path / name)) == set(source.state_dict())
            return
        with pytest.raises(CheckpointError, match='holds safetensors: give it a name that ends in .safetensors'):
            read_checkpoint(tmp_path / name)

    def test_a_list_of_parts(self, tmp_path):
        (tmp_path / 'model.safetensors.index.json').write_text('{"weight_map": {}}')
        with pytest.raises(CheckpointError, match='lists the parts of a checkpoint'):
            read_checkpoint(tmp_path / 'model.safetensors.index.json')

    def test_configs_in_files_of_earlier_mmengines(self, save, monkeypatch):
        """Pickled item by item, as addict's dictionaries are: nothing that torch reads, but the files are whole."""
        from addict import Dict
        from mmengine.config import ConfigDict, config

        earlier = type('ConfigDict', (Dict,), dict(__module__=ConfigDict.__module__, __qualname__='ConfigDict'))
        with monkeypatch.context() as context:
            context.setattr(config, 'ConfigDict', earlier)
            path = save(dict(meta=earlier(classes=['oak', 'fir'], groups=dict(fir=1))))
        with pytest.raises(CheckpointError, match=r'more than weights \(.*ConfigDict.*If you trust the file, allow it'):
            read_checkpoint(path)
        assert read_checkpoint(path, unsafe=True)['meta'] == dict(classes=['oak', 'fir'], groups=dict(fir=1))

    def test_configs_are_no_larger_than_their_file(self, save):
        """What they hold twice is not copied, nor that in which it is held twice."""
        from mmengine.config import ConfigDict

        shared = dict(a=1)
        for _ in range(10):
            shared = dict(a=shared, b=shared)
        meta = ConfigDict()
        dict.update(meta, a=shared, b=shared)
        found = read_checkpoint(save(dict(meta=meta)))['meta']
        assert found == meta and found.a is found.b and found.a['a'] is found.b['b']

    @pytest.mark.parametrize('module', [b'numpy.core.multiarray', b'numpy._core.multiarray'])
    def test_numpy_of_either_version(self, tmp_path, save, module):
        """numpy 1 and 2 give their functions different names in a file."""
        import numpy as np

        path, renamed = save(dict(seed=np.float64(2.5), order=np.arange(3))), str(tmp_path / 'renamed.pth')
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(renamed, 'w') as new:
            for name in old.namelist():
                content = old.read(name)
                if name.endswith('data.pkl'):
                    content, changed = re.subn(rb'numpy\.(_?core)\.multiarray', module, content)
                    assert changed >= 2
                new.writestr(name, content)
        checkpoint = read_checkpoint(renamed)
        assert checkpoint['seed'] == 2.5 and checkpoint['order'].tolist() == [0, 1, 2]

    def test_safetensors(self, tmp_path, source):
        safetensors = pytest.importorskip('safetensors.torch')
        file = tmp_path / 'file.safetensors'
        safetensors.save_file(source.state_dict(), file)
        assert torch.equal(find_state_dict(read_checkpoint(file))['0.weight'], source.state_dict()['0.weight'])
        file.write_bytes(file.read_bytes()[:-8])
        with pytest.raises(CheckpointError, match='damaged or truncated'):
            read_checkpoint(file)

    def test_classes_in_the_metadata_of_safetensors(self, tmp_path, source):
        """As in a Runner's checkpoint, for what shows predictions."""
        safetensors = pytest.importorskip('safetensors.torch')
        file, classes = tmp_path / 'file.safetensors', dict(classes=['oak', 'fir'])
        metadata = dict(format='pt', dataset_meta=json.dumps(classes))
        safetensors.save_file(source.state_dict(), file, metadata)
        checkpoint = read_checkpoint(file)
        assert checkpoint['meta'] == dict(dataset_meta=classes)
        # colours as mmdetection draws them, where JSON has lists alone
        safetensors.save_file(
            source.state_dict(), file, dict(dataset_meta=json.dumps(dict(classes, palette=[(9, 8, 7), (6, 5, 4)])))
        )
        assert read_checkpoint(file)['meta']['dataset_meta'] == dict(classes, palette=[(9, 8, 7), (6, 5, 4)])
        assert torch.equal(find_state_dict(checkpoint)['0.weight'], source.state_dict()['0.weight'])
        for wrong in ('oak', '["oak"]', '1', '{"palette": [1]}'):
            safetensors.save_file(source.state_dict(), file, dict(metadata, dataset_meta=wrong))
            with pytest.raises(CheckpointError, match='damaged'):
                read_checkpoint(file)

    def test_missing(self):
        with pytest.raises(CheckpointError, match="'nowhere.pth' does not exist"):
            read_checkpoint('nowhere.pth')

    @pytest.mark.parametrize('unsafe', [False, True])
    @pytest.mark.parametrize('zipped', [True, False])
    @pytest.mark.parametrize('part', [0.0, 0.3, 0.9])
    def test_truncated(self, tmp_path, unsafe, zipped, part):
        file = tmp_path / 'file.pth'
        torch.save({'weight': torch.randn(300, 300)}, file, _use_new_zipfile_serialization=zipped)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(CheckpointError, match='damaged or .*: fetch it again') as error:
            read_checkpoint(file, unsafe=unsafe)
        assert '\n' not in str(error.value) and 'weights_only' not in str(error.value)

    @pytest.mark.parametrize('unsafe', [False, True])
    def test_a_web_page_instead_of_weights(self, tmp_path, unsafe):
        file = tmp_path / 'file.pth'
        file.write_text('<html>not found</html>')
        with pytest.raises(CheckpointError, match='damaged or no checkpoint') as error:
            read_checkpoint(file, unsafe=unsafe)
        assert '\n' not in str(error.value) and 'weights_only' not in str(error.value)

    def test_not_a_dict(self, save):
        with pytest.raises(CheckpointError, match='holds a list'):
            read_checkpoint(save([1, 2]))

    def test_a_namespace_is_data(self, save, source):
        args = read_checkpoint(save(dict(model=source.state_dict(), args=argparse.Namespace(lr=1))))['args']
        assert type(args) is argparse.Namespace and args == argparse.Namespace(lr=1)

    def test_pickled_objects_need_to_be_allowed(self, save, source):
        path = save(dict(model=source.state_dict(), part=fractions.Fraction(1, 2)))
        with pytest.raises(CheckpointError, match=r'fractions.Fraction.*any code.*unsafe=True.*--unsafe'):
            read_checkpoint(path)
        assert read_checkpoint(path, unsafe=True)['part'] == 0.5
        assert set(find_state_dict(read_checkpoint(path, unsafe=True))) == set(source.state_dict())

    def test_refusing_runs_no_code(self, tmp_path):
        class Harmful:
            def __reduce__(self):
                return (open, (str(tmp_path / 'trace'), 'w'))

        torch.save({'weight': torch.zeros(1), 'args': Harmful()}, tmp_path / 'file.pth')
        with pytest.raises(CheckpointError, match='any code'):
            read_checkpoint(tmp_path / 'file.pth')
        assert not (tmp_path / 'trace').exists()

    def test_threads_read_at_once(self, save, source):
        """Torch's list of what may be unpickled is the process's: one that puts it back takes it from another."""
        paths = [save(dict(state_dict=source.state_dict(), lr=np.float64(n)), f'{n}.pth') for n in range(4)]
        before = torch.serialization.get_safe_globals(), list(warnings.filters)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(4) as threads:
                found = list(threads.map(read_checkpoint, paths * 10))
        finally:
            sys.setswitchinterval(interval)
        assert [float(checkpoint['lr']) for checkpoint in found] == [0, 1, 2, 3] * 10
        assert (torch.serialization.get_safe_globals(), list(warnings.filters)) == before

    def test_addresses_are_fetched_once(self, tmp_path, monkeypatch, save):
        path, calls = save({'weight': torch.ones(2)}), []
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))

        def download(url, target):
            calls.append(url)
            with open(path, 'rb') as content, open(target, 'wb') as out:
                out.write(content.read())

        monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
        for _ in range(2):
            assert read_checkpoint('https://example.org/a/small.pth?x=1')['weight'].sum() == 2
        assert calls == ['https://example.org/a/small.pth?x=1']

        def refuse(url, target):
            raise OSError('no route')

        monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)
        with pytest.raises(CheckpointError, match='https://example.org/large.pth cannot be fetched'):
            read_checkpoint('https://example.org/large.pth')


class TestFind:
    def test_entries_in_order(self):
        tensors = {'w': torch.zeros(1)}
        assert find_state_dict(tensors) == tensors
        assert find_state_dict({'model': tensors, 'ema': {'w': torch.ones(1)}, 'epoch': 3}) == tensors
        assert find_state_dict({'state_dict': {'module.w': tensors['w']}}) == tensors

    def test_nothing_there(self):
        with pytest.raises(CheckpointError, match='no weights found'):
            find_state_dict({'epoch': 3, 'model': {}})


class TestLoad:
    def refused(self, path, words, **kwargs):
        """Loading must fail, with these words, and leave the module alone."""
        module = network()
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(CheckpointError, match=words):
            load_pretrained(module, path, **kwargs)
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())

    def test_everything(self, save, source):
        module = network()
        load_pretrained(module, save(source.state_dict()))
        assert torch.equal(module[0].weight, source[0].weight) and torch.equal(module[1].bias, source[1].bias)

    def test_part_of_a_larger_model(self, save, source, caplog):
        state = {f'backbone.{key}': value for key, value in source.state_dict().items()}
        del state['backbone.1.bias']  # 4 of 124 elements
        path = save(dict(state_dict=dict(state, **{'head.weight': torch.zeros(2)})))
        for prefix in ('backbone', 'backbone.'):
            module = network()
            kept = module[1].bias.clone()
            with caplog.at_level(logging.INFO):
                load_pretrained(module, path, prefix)
            assert torch.equal(module[0].weight, source[0].weight) and torch.equal(module[1].bias, kept)

    def test_names_what_did_not_fit(self, save, source, monkeypatch):
        lines = []
        monkeypatch.setattr('mmvisionllama.checkpoints.loading.print_log', lambda text, **kwargs: lines.append(text))
        state = source.state_dict()
        del state['1.bias']
        load_pretrained(network(), save(dict(state, extra=torch.zeros(1))))
        text = '\n'.join(lines)
        assert 'loaded 3 of 4' in text and 'initial values: 1.bias' in text and 'not used: extra' in text

    def test_too_much_missing(self, save, source):
        state = source.state_dict()
        del state['1.weight']  # 32 of 124 elements
        self.refused(save(state), '26% of the weights.*1.weight')
        load_pretrained(network(), save(state), max_missing=0.3)

    def test_wrong_prefix(self, save, source):
        path = save({f'backbone.{key}': value for key, value in source.state_dict().items()})
        self.refused(path, "nothing under prefix 'encoder.'; its keys start with \\['backbone'\\]", prefix='encoder')
        self.refused(path, '100% of the weights.*prefix.*backbone.0.weight')

    def test_position_embeddings_inside_of_it(self, save):
        """Resampled as load_state_dict does, however deep they lie."""
        arch = dict(embed_dims=16, num_layers=1, num_heads=2)
        small, large = (nn.Sequential(iLLaMA(arch, img_size=size)) for size in (32, 64))
        nn.init.normal_(small[0].pos_embed)
        path = save(small.state_dict())
        load_pretrained(large, path)
        other = nn.Sequential(iLLaMA(arch, img_size=64))
        other.load_state_dict(small.state_dict())
        assert torch.equal(large[0].pos_embed, other[0].pos_embed)

    def test_wrong_shapes(self, save, source):
        state = dict(source.state_dict(), **{'1.weight': torch.zeros(5, 8)})
        self.refused(save(state), r'1 tensors have another shape: 1.weight \(5, 8\) for \(4, 8\)')

    def test_truncated(self, tmp_path, source):
        file = tmp_path / 'file.pth'
        torch.save(source.state_dict(), file)
        file.write_bytes(file.read_bytes()[:-100])
        self.refused(file, 'truncated')

    def test_unsafe(self, save, source):
        path = save(dict(model=source.state_dict(), part=fractions.Fraction(1)))
        self.refused(path, 'any code')
        module = network()
        load_pretrained(module, path, unsafe=True)
        assert torch.equal(module[0].weight, source[0].weight)

    def test_released_weights_are_to_be_converted(self, save):
        state = {'patch_embed.proj.weight': torch.zeros(4, 3, 2, 2), 'blocks.0.mlp.c_fc1.weight': torch.zeros(8, 4)}
        self.refused(save(state), "family 'plain': convert it first")


class TestWeights:
    """What is looked at before weights are taken."""

    def test_masks_may_be_infinite_and_fp8_is_read(self):
        module = nn.Linear(2, 1)
        module.register_buffer('mask', torch.zeros(2))
        check_weights(module, dict(mask=torch.tensor([0.0, -float('inf')])), 'x')
        check_weights(module, dict(weight=torch.ones(1, 2).to(torch.float8_e4m3fn)), 'x')
        with pytest.raises(CheckpointError, match='mask holds NaN'):
            check_weights(module, dict(mask=torch.tensor([0.0, float('nan')])), 'x')

    def test_pretrained_weights_with_nan(self, save, source):
        state = dict(source.state_dict(), **{'1.bias': torch.full((4,), float('nan'))})
        with pytest.raises(CheckpointError, match='1.bias holds NaN'):
            load_pretrained(network(), save(state))
