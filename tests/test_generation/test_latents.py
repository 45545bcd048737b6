"""Codecs, encoded data sets and image folders."""

import copy
import json
import sys
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from mmvisionllama.checkpoints import CheckpointError
from mmvisionllama.errors import DataError, OptionError
from mmvisionllama.generation import ClassLabels, LabelledImages, LatentShards, PixelCodec, VAECodec
from mmvisionllama.generation.codecs import check_image_size
from mmvisionllama.generation.labelled_images import center_crop
from mmvisionllama.generation.latents import META, describe, encode_dataset


@pytest.fixture(scope='module')
def vae_folder(tmp_path_factory):
    """A tiny VAE as diffusers stores it, downsampling by 2."""
    diffusers = pytest.importorskip('diffusers')
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=('DownEncoderBlock2D',) * 2,
        up_block_types=('UpDecoderBlock2D',) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
    )
    folder = tmp_path_factory.mktemp('vae')
    vae.save_pretrained(folder)
    return folder


@pytest.fixture
def codec(vae_folder):
    return VAECodec(vae_folder, downsample=2, chunk=2)


@pytest.fixture
def images(tmp_path):
    """Two classes of noise images, 3 + 2 files."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, count in (('b', 2), ('a', 3)):
        (tmp_path / 'images' / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(
                tmp_path / 'images' / name / f'{i}.png'
            )
    return LabelledImages(str(tmp_path / 'images'), size=8)


def test_vae_round_trip_is_diffusers_own(codec):
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    vae = codec.vae(x.device)
    moments = codec.moments(x)
    posterior = vae.encode(x).latent_dist
    assert torch.allclose(moments, torch.cat((posterior.mean, posterior.std), 1))
    torch.manual_seed(3)
    latents = codec.encode(x)
    torch.manual_seed(3)
    assert torch.allclose(latents, 0.18215 * (posterior.mean + posterior.std * torch.randn(3, 4, 4, 4)), atol=1e-6)
    assert not torch.equal(codec.encode(x), latents)  # a draw, not the mean
    assert torch.allclose(codec.decode(latents), vae.decode(latents / 0.18215).sample, atol=1e-5)
    assert not vae.training and not any(p.requires_grad for p in vae.parameters())


def test_vae_is_fp32_amid_autocast(codec):
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.autocast('cpu', torch.bfloat16):
        moments, images = codec.moments(x), codec.decode(x.new_ones(2, 4, 4, 4))
    assert torch.equal(moments, codec.moments(x)) and moments.dtype == torch.float32
    assert torch.equal(images, codec.decode(x.new_ones(2, 4, 4, 4)))


def test_vae_is_read_in_a_compiled_step(codec):
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    compiled = torch.compile(lambda images: codec.moments(images) * 2, backend='eager')
    found = compiled(x)
    assert torch.allclose(found, codec.moments(x) * 2, atol=1e-5)
    assert torch.equal(compiled(x), found)


def test_vae_is_not_copied(codec):
    assert copy.deepcopy(codec) is codec


def test_a_vae_at_home(vae_folder, monkeypatch):
    monkeypatch.setenv('HOME', str(vae_folder.parent))
    VAECodec(f'~/{vae_folder.name}', downsample=2).load()


def test_vae_errors(vae_folder, tmp_path, monkeypatch):
    for path in (tmp_path / 'nothing', tmp_path, 'a/b/c'):
        with pytest.raises(CheckpointError, match='no VAE at .*give a folder with config.json'):
            VAECodec(path).load()
    with pytest.raises(CheckpointError, match='downsamples by 2, the codec says 8: set downsample=2'):
        VAECodec(vae_folder).load()
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(CheckpointError, match='cannot be read'):
        VAECodec(tmp_path).load()
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(ImportError, match=r"the VAE needs diffusers: pip install 'mmvisionllama\[generation\]'"):
        VAECodec(vae_folder, downsample=2).load()
    with pytest.raises(ValueError, match='image size 100x64 is no multiple of 8'):
        check_image_size((100, 64), 8)


def test_pixel_codec():
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(PixelCodec().decode(PixelCodec().encode(x)), x)


def encode(codec, images, root, **kwargs):
    lines = []
    encode_dataset(
        codec, images, root, **{**dict(shard_size=2, batch_size=2, num_workers=0, report=lines.append), **kwargs}
    )
    return lines


def test_shards(codec, images, tmp_path):
    root = tmp_path / 'latents'
    lines = encode(codec, images, root, dtype='float32')
    assert len(lines) == 3 and '5 of 5 images' in lines[-1]
    data = LatentShards(str(root))
    assert len(data) == 10
    for i, item in enumerate(images):
        for index, image in ((i, item['inputs']), (i + 5, item['inputs'].flip(-1))):
            stored = data[index]
            assert stored['labels'] == item['labels']
            assert torch.allclose(stored['moments'], codec.moments(image[None])[0], atol=1e-5)
    assert len(list(LatentShards(str(root), flip=False))) == 5
    loader = torch.utils.data.DataLoader(data, batch_size=5, num_workers=1)
    assert next(iter(loader))['moments'].shape == (5, 8, 4, 4)


def test_encoding_goes_on_where_it_stopped(codec, images, tmp_path):
    root = tmp_path / 'latents'
    encode(codec, images, root)
    kept = (root / 'moments_00000.npy').stat().st_mtime_ns
    (root / 'moments_00001.npy').unlink()
    with pytest.raises(DataError, match='lacks 1 of 3 shards'):
        LatentShards(str(root))
    assert len(encode(codec, images, root)) == 1
    assert len(LatentShards(str(root))) == 10
    assert (root / 'moments_00000.npy').stat().st_mtime_ns == kept
    assert np.load(root / 'moments_00000.npy').dtype == np.float16
    with pytest.raises(ValueError, match=r'made with other settings or pictures \(shard_size, shards\)'):
        encode(codec, images, root, shard_size=3)


def test_two_processes_share_the_shards(codec, images, tmp_path):
    alone, shared = tmp_path / 'alone', tmp_path / 'shared'
    encode(codec, images, alone)
    reports = [encode(codec, images, shared, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(lines) for lines in reports] == [2, 1]
    assert (alone / META).read_text() == (shared / META).read_text()
    for one, two in zip(LatentShards(str(alone)), LatentShards(str(shared))):
        assert torch.equal(one['moments'], two['moments']) and one['labels'] == two['labels']


def test_more_shards_than_files_that_may_be_open(codec, images, tmp_path):
    resource = pytest.importorskip('resource')
    encode(codec, images, tmp_path, shard_size=1)
    data = LatentShards(str(tmp_path))
    limits, taken = resource.getrlimit(resource.RLIMIT_NOFILE), []
    with ExitStack() as opened:  # the five lowest numbers that are free
        last = max(opened.enter_context(open(tmp_path / META)).fileno() for _ in range(5))
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, limits[1]))
    try:
        taken = [data[i]['labels'] for i in range(len(data))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert taken == [0, 0, 0, 1, 1] * 2


def test_shard_errors(codec, images, tmp_path):
    with pytest.raises(DataError, match='encode_latents.py'):
        LatentShards(str(tmp_path))
    encode(codec, images, tmp_path / 'plain', flip=False)
    assert json.loads((tmp_path / 'plain' / META).read_text())['views'] == 1
    with pytest.raises(DataError, match='without mirrored images'):
        LatentShards(str(tmp_path / 'plain'))


@pytest.mark.parametrize('name', ['moments_00001.npy', 'labels_00001.npy'])
@pytest.mark.parametrize('kept', [0, 40, -1])
def test_a_damaged_shard_is_said_at_once_and_made_anew(codec, images, tmp_path, name, kept):
    encode(codec, images, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:kept])
    with pytest.raises(DataError, match=f'{name}.* is damaged: run .*encode_latents.py again'):
        LatentShards(str(tmp_path))
    assert len(encode(codec, images, tmp_path)) == 1
    assert (tmp_path / name).read_bytes() == whole


def test_a_shard_of_other_images_is_damaged(codec, images, tmp_path):
    encode(codec, images, tmp_path)
    (tmp_path / 'labels_00001.npy').write_bytes((tmp_path / 'labels_00002.npy').read_bytes())  # one label for two
    with pytest.raises(DataError, match='is damaged'):
        LatentShards(str(tmp_path))


@pytest.mark.parametrize('text', ['', '{"images": 5', '[1]', '{}'])
def test_damaged_description(codec, images, tmp_path, text):
    encode(codec, images, tmp_path)
    (tmp_path / META).write_text(text)
    for use in (lambda: LatentShards(str(tmp_path)), lambda: encode(codec, images, tmp_path)):
        with pytest.raises(
            DataError, match=r'latents.json. is damaged .*: remove it and run .*encode_latents.py again'
        ):
            use()
    (tmp_path / META).unlink()
    assert not encode(codec, images, tmp_path)
    assert len(LatentShards(str(tmp_path))) == 10


def test_latents_know_their_classes(codec, images, tmp_path):
    encode(codec, images, tmp_path, description=describe(images))
    data = LatentShards(str(tmp_path))
    assert data.metainfo == images.metainfo and data.image_size == 8
    meta = json.loads((tmp_path / META).read_text())
    del meta['class_names'], meta['files']
    (tmp_path / META).write_text(json.dumps(meta))  # as earlier versions wrote it
    assert LatentShards(str(tmp_path)).metainfo == dict(classes=['0', '1'])
    assert not encode(codec, images, tmp_path, description=describe(images))
    del meta['classes'], meta['size']
    (tmp_path / META).write_text(json.dumps(meta))
    data = LatentShards(str(tmp_path))
    assert data.metainfo == {} and data.image_size is None


def test_latents_of_other_pictures_are_not_gone_on_with(codec, images, tmp_path):
    root = tmp_path / 'latents'
    encode(codec, images, root, description=describe(images))
    folder = tmp_path / 'images'
    folder.rename(tmp_path / 'elsewhere')
    moved = LabelledImages(f'{tmp_path}/elsewhere/', size=8)
    assert not encode(codec, moved, root, description=describe(moved))  # the same ones at another place
    (tmp_path / 'elsewhere' / 'b' / '1.png').rename(tmp_path / 'elsewhere' / 'b' / '2.png')
    with pytest.raises(OptionError, match=r'other settings or pictures \(files\)'):
        encode(codec, images, root, description=describe(LabelledImages(f'{tmp_path}/elsewhere', size=8)))
    (tmp_path / 'elsewhere' / 'b').rename(tmp_path / 'elsewhere' / 'c')
    with pytest.raises(OptionError, match=r'other settings or pictures \(class_names, files\)'):
        encode(codec, images, root, description=describe(LabelledImages(f'{tmp_path}/elsewhere', size=8)))
    meta = json.loads((root / META).read_text())
    del meta['class_names'], meta['files']
    (root / META).write_text(json.dumps(meta))  # as earlier versions wrote it
    assert not encode(codec, images, root, description=describe(LabelledImages(f'{tmp_path}/elsewhere', size=8)))


def test_labelled_images(images):
    assert len(images) == 5 and images.classes == ['a', 'b']
    assert [item['labels'] for item in images] == [0, 0, 0, 1, 1]
    item = images[0]
    assert item['inputs'].shape == (3, 8, 8) and item['inputs'].dtype == torch.float32
    assert item['inputs'].min() >= -1 and item['inputs'].max() <= 1
    with pytest.raises(DataError, match='has no images'):
        LabelledImages(images.samples[0][0].rsplit('/', 1)[0])
    with pytest.raises(DataError, match='is no folder'):
        LabelledImages('/nowhere')


@pytest.mark.parametrize('size', [(64, 40), (40, 64), (9, 9), (8, 8), (300, 17)])
def test_center_crop(size):
    """A ramp along x stays centred: the mean of the crop is the mean of the image."""
    from PIL import Image

    ramp = np.tile(np.linspace(0, 255, size[0], dtype=np.float32), (size[1], 1)).astype(np.uint8)
    crop = np.asarray(center_crop(Image.fromarray(ramp), 8))
    assert crop.shape == (8, 8)
    assert abs(crop.mean() - 127) < 20
    if size[0] <= size[1]:
        assert crop[:, 0].max() < crop[:, -1].min()


def test_class_labels():
    labels = ClassLabels(1000, 10)
    assert len(labels) == 1000 and set(labels.labels) == set(range(10))
    assert labels.labels == ClassLabels(1000, 10).labels != ClassLabels(1000, 10, seed=1).labels
    assert [labels[i]['index'] for i in (0, 7)] == [0, 7]
    assert ClassLabels(5, 10, classes=[7, 3]).labels == [7, 3, 7, 3, 7]
    with pytest.raises(ValueError, match='class 10 is out of range: the model has 0 ... 9'):
        ClassLabels(5, 10, classes=[1, 10])
    with pytest.raises(OptionError, match='classes names none: name one or more'):
        ClassLabels(5, 10, classes=[])
