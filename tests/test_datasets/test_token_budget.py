"""Batches within a budget of tokens."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from PIL import Image

from mmvisionllama.datasets import DataError, TokenBudgetBatchSampler
from mmvisionllama.datasets.transforms.resize_to_tokens import token_count
from mmvisionllama.errors import OptionError

SIZES = [(16, 16), (64, 16), (32, 48), (16, 80), (48, 48), (15, 17), (33, 16), (64, 64)]


class Images(list):
    def get_data_info(self, index):
        return self[index]


def sized(sizes=SIZES):
    return Images(dict(height=height, width=width) for height, width in sizes)


def sampler(dataset, shuffle=False, **kwargs):
    kwargs = dict(dict(batch_size=99, max_tokens=16, patch_size=16), **kwargs)
    return TokenBudgetBatchSampler(DefaultSampler(dataset, shuffle=shuffle, seed=0), **kwargs)


def test_no_batch_has_more_tokens_and_every_image_comes_in_order():
    batches = list(sampler(sized()))
    assert [index for batch in batches for index in batch] == list(range(len(SIZES)))
    used = [sum(token_count(SIZES[index], 16) for index in batch) for batch in batches]
    assert max(used) <= 16
    for now, after in zip(zip(batches, used), batches[1:]):
        assert now[1] + token_count(SIZES[after[0]], 16) > 16, 'the first image of the next batch did not fit'


def test_batch_size_is_the_largest_number_of_images():
    assert max(map(len, sampler(sized([(16, 16)] * 9), batch_size=4))) == 4


def test_every_epoch_has_as_many_batches():
    batches = sampler(sized(SIZES * 5), shuffle=True)
    lengths = set()
    for epoch in range(8):
        batches.sampler.set_epoch(epoch)
        lengths.add(len(list(batches)))
    assert lengths == {len(batches)}


def test_processes_have_as_many_batches_as_each_other(monkeypatch):
    monkeypatch.setattr('mmvisionllama.datasets.token_budget.get_world_size', lambda: 3)
    counts = set()
    for rank in range(3):
        shard = sampler(sized(SIZES * 5))
        shard.sampler.rank, shard.sampler.world_size = rank, 3
        shard.sampler.num_samples, shard.sampler.total_size = 14, 42
        counts.add(len(list(shard)))
    assert len(counts) == 1


def test_sizes_come_from_the_headers_of_files(tmp_path):
    for n, (height, width) in enumerate(SIZES):
        Image.new('L', (width, height)).save(tmp_path / f'{n}.png')
    files = Images(dict(img_path=str(tmp_path / f'{n}.png')) for n in range(len(SIZES)))
    assert list(sampler(files)) == list(sampler(sized()))


def test_sizes_after_the_pipeline():
    limited = sampler(sized(), image_tokens=(1, 4))
    assert [limited.tokens(index) for index in range(len(SIZES))] == [1, 4, 4, 4, 4, 2, 3, 4]
    grown = sampler(sized(), image_tokens=(4, 9))
    assert min(grown.tokens(index) for index in range(len(SIZES))) >= 4
    fixed = sampler(Images([{}] * 5), image_size=(32, 32))
    assert [len(batch) for batch in fixed] == [4, 1]
    with pytest.raises(OptionError, match='image_tokens or image_size, not both'):
        sampler(sized(), image_tokens=(1, 4), image_size=(32, 32))


def test_a_sampler_without_an_end_is_refused():
    with pytest.raises(OptionError, match='DefaultSampler'):
        TokenBudgetBatchSampler(InfiniteSampler(sized()), batch_size=99, max_tokens=16, patch_size=16)


def test_images_that_cannot_be_placed_are_named():
    with pytest.raises(DataError, match='image 7 has 16 patches and a batch at most 15'):
        list(sampler(sized(), max_tokens=15))
    with pytest.raises(DataError, match='image_size'):
        list(sampler(Images([SimpleNamespace(get=lambda key: None)])))


def test_a_process_without_images_is_told():
    batches = sampler(Images([dict(height=8, width=8)]))
    vars(batches.sampler).update(rank=1, world_size=2, round_up=False, num_samples=0, total_size=1)
    with pytest.raises(DataError, match='fewer than processes'):
        next(iter(batches))


def test_the_guide_names_every_setting_of_the_template_s_loader():
    """``drop_last`` of the inherited loader, for one, would be refused beside a batch sampler."""
    root = Path(__file__).parents[2]
    guide = (root / 'docs/any_resolution.md').read_text().split('### Training at native aspect ratios')[1]
    template = Config.fromfile(root / 'configs/mmpretrain/quickstart/vision_llama_digits_packed.py').train_dataloader
    inherited = Config.fromfile(root / 'configs/mmpretrain/quickstart/vision_llama_digits.py').train_dataloader
    changed = {key for key in template if template[key] != inherited.get(key)} - {'dataset'}
    assert changed == {'batch_sampler', 'collate_fn', 'drop_last'}
    assert all(f'`{key}=' in guide for key in changed)


def test_the_head_of_the_template_counts_its_iterations():
    path = Path(__file__).parents[2] / 'configs/mmpretrain/quickstart/vision_llama_digits_packed.py'
    loader = Config.fromfile(path).train_dataloader
    options = {key: value for key, value in loader.batch_sampler.items() if key != 'type'}
    batches = sampler(Images([{}] * 1437), batch_size=loader.batch_size, **options)
    assert re.search(r'epochs x (\d+) iterations', path.read_text()).group(1) == str(len(batches))


@pytest.mark.parametrize('content', [b'', b'no picture', None])
def test_files_that_tell_no_size_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / 'broken.png').write_bytes(content)
    with pytest.raises(DataError, match='broken.png cannot be read'):
        len(sampler(Images([dict(img_path=str(tmp_path / 'broken.png'))])))
