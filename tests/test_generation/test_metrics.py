"""Metrics against torch-fidelity and against versions written out, on random features."""

import sys

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS, TASK_UTILS

from mmvisionllama.errors import DataError, OptionError
from mmvisionllama.generation import InceptionFeatures
from mmvisionllama.generation.metrics import (
    compare,
    extract_npz,
    frechet_distance,
    inception_score,
    load_reference,
    precision_recall,
    statistics,
)
from mmvisionllama.generation.pictures import SampleFile, image_grid, iterate_npz, npz_header


def features(count, dims, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, dims)) @ rng.standard_normal((dims, dims)) * 0.3 + shift).astype(np.float32)


@pytest.mark.parametrize('count', [200, 10])  # more and fewer samples than features
def test_frechet_distance(count):
    fidelity = pytest.importorskip('torch_fidelity.metric_fid')
    one, two = features(count, 24), features(count + 5, 24, 0.2, seed=1)
    theirs = fidelity.fid_statistics_to_metric(
        *(fidelity.fid_features_to_statistics(torch.from_numpy(x).double()) for x in (one, two)), verbose=False
    )['frechet_inception_distance']
    assert frechet_distance(statistics(one), statistics(two)) == pytest.approx(theirs, rel=1e-4)
    from scipy import linalg

    s1, s2 = statistics(one), statistics(two)
    root = linalg.sqrtm(s1['sigma'] @ s2['sigma']).real
    written_out = ((s1['mu'] - s2['mu']) ** 2).sum() + np.trace(s1['sigma'] + s2['sigma'] - 2 * root)
    assert frechet_distance(s1, s2) == pytest.approx(written_out, rel=1e-4)
    assert frechet_distance(s1, s1) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_diagonal_gaussians():
    one = dict(mu=np.zeros(3), sigma=np.diag([1.0, 4.0, 0.0]))
    two = dict(mu=np.array([1.0, 0, 2]), sigma=np.diag([9.0, 4.0, 1.0]))
    assert frechet_distance(one, two) == pytest.approx(5 + (1 - 3) ** 2 + 0 + 1)


def test_inception_score():
    fidelity = pytest.importorskip('torch_fidelity.metric_isc')
    logits = features(1000, 12)
    theirs = fidelity.isc_features_to_metric(torch.from_numpy(logits), splits=4, shuffle=False)
    assert inception_score(logits, 250) == pytest.approx(theirs['inception_score_mean'], rel=1e-4)
    certain = 50 * np.eye(10)[np.arange(100) % 10]
    assert inception_score(certain) == pytest.approx(10, rel=1e-4)
    assert inception_score(np.ones((100, 10))) == pytest.approx(1)


def test_precision_recall():
    fidelity = pytest.importorskip('torch_fidelity.metric_prc')
    samples, reference = features(150, 6, 0.3), features(120, 6, seed=1)
    precision, recall = fidelity.calculate_precision_recall_full(
        torch.from_numpy(samples).double(), torch.from_numpy(reference).double(), 3
    )
    ours = precision_recall(samples, reference, chunk=32)
    assert ours == pytest.approx(dict(precision=precision, recall=recall), abs=1e-4)
    assert 0 < precision < 1 and 0 < recall < 1

    def covered(points, centres):
        inside = 0
        for point in points:
            for i, centre in enumerate(centres):
                others = sorted(np.linalg.norm(centre - other) for j, other in enumerate(centres) if j != i)
                if np.linalg.norm(point - centre) <= others[2]:
                    inside += 1
                    break
        return inside / len(points)

    few = (samples[:20].astype(float), reference[:15].astype(float))
    by_hand = dict(precision=covered(*few), recall=covered(*few[::-1]))
    assert precision_recall(*few) == pytest.approx(by_hand, abs=1e-9)
    with pytest.raises(ValueError, match='more images than that, got 3 and 120'):
        precision_recall(samples[:3], reference)


@TASK_UTILS.register_module()
class MeanColours:
    """An extractor of one's own: means of the quarters of the picture."""

    def __call__(self, images):
        pooled = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)
        return dict(pool=pooled, logits=pooled[:, :4].numpy() / 64)  # tensors or arrays


def write_images(path, count=12, seed=0):
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8))
    file = SampleFile(path, (count, 8, 8, 3))
    file.write(range(count), images)
    file.flush()
    file.finish()
    return images


def test_own_extractor(tmp_path):
    samples = write_images(tmp_path / 'samples.npz')
    reference = write_images(tmp_path / 'reference.npz', 20, seed=1)
    extractor = MeanColours()
    found = extract_npz(str(tmp_path / 'samples.npz'), extractor, batch_size=5)
    assert np.allclose(found['pool'], extractor(samples)['pool'])
    loaded = load_reference(str(tmp_path / 'reference.npz'), extractor, batch_size=7)
    results = compare(found, loaded)
    assert set(results) == {'IS', 'FID', 'precision', 'recall'}
    pool = [extractor(x)['pool'].numpy() for x in (samples, reference)]
    assert results['FID'] == pytest.approx(frechet_distance(*map(statistics, pool)))

    metric = METRICS.build(
        dict(
            type='GenerationMetric',
            reference=str(tmp_path / 'reference.npz'),
            extractor=dict(type='MeanColours'),
        )
    )
    order = [3, 1, 0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 3]  # several processes, one sample twice
    metric.process({}, [dict(image=samples[i], label=0, index=i) for i in order])
    assert metric.evaluate(len(samples)) == pytest.approx({f'generation/{key}': x for key, x in results.items()})

    metric.process({}, [dict(image=samples[i], label=0, index=i % 6) for i in range(12)])
    with pytest.raises(OptionError, match='12 samples have 6 different numbers: .* need an index'):
        metric.evaluate(len(samples))


def test_reference_statistics(tmp_path):
    """ADM's reference batches hold statistics of a larger set next to the images."""
    stats = {key: statistics(features(40, dims)) for key, dims in (('pool', 12), ('spatial', 5))}
    arrays = dict(mu=stats['pool']['mu'], sigma=stats['pool']['sigma'])
    arrays.update(mu_s=stats['spatial']['mu'], sigma_s=stats['spatial']['sigma'])
    images = np.zeros((9, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / 'reference.npz', arr_0=images, **arrays)
    inception_like = MeanColours()
    inception_like.is_inception = True
    loaded = load_reference(str(tmp_path / 'reference.npz'), inception_like)
    assert np.array_equal(loaded['statistics']['pool']['sigma'], stats['pool']['sigma'])
    assert loaded['features']['pool'].shape == (9, 12)
    found = dict(pool=features(30, 12, seed=2), spatial=features(30, 5, seed=2))
    results = compare(found, loaded)
    assert results['sFID'] == pytest.approx(frechet_distance(statistics(found['spatial']), stats['spatial']))
    # statistics of another network are not used
    assert load_reference(str(tmp_path / 'reference.npz'), MeanColours())['statistics']['pool']['mu'].shape == (12,)
    assert not load_reference(str(tmp_path / 'reference.npz'), MeanColours())['statistics']['pool']['mu'].any()


@pytest.mark.parametrize('mu, sigma, said', [((5,), (5, 5), '5'), ((12,), (5, 5), '5'), ((), (), '0')])
def test_a_reference_of_other_dimensions_is_said_at_the_first_batch(tmp_path, mu, sigma, said):
    write_images(tmp_path / 'samples.npz')
    np.savez(tmp_path / 'reference.npz', mu=np.zeros(mu), sigma=np.ones(sigma))
    extractor = MeanColours()
    extractor.is_inception = True
    reference = load_reference(str(tmp_path / 'reference.npz'), extractor)
    message = f'the pool features of the samples have 12 dimensions and those of the reference {said}: '
    batches = []

    def counted(images):
        batches.append(images)
        return extractor(images)

    with pytest.raises(DataError, match=message):
        extract_npz(str(tmp_path / 'samples.npz'), counted, batch_size=5, reference=reference)
    assert len(batches) == 1
    with pytest.raises(DataError, match=message):
        compare(dict(pool=features(30, 12)), reference)


def test_reference_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='is no file'):
        load_reference(str(tmp_path / 'nothing.npz'))
    (tmp_path / 'text.npz').write_text('no archive')
    with pytest.raises(ValueError, match=r'text.npz. is no .npz file'):
        load_reference(str(tmp_path / 'text.npz'))
    np.savez(tmp_path / 'wrong.npz', pictures=np.zeros(3))
    with pytest.raises(ValueError, match="it has {'pictures'}"):
        load_reference(str(tmp_path / 'wrong.npz'))
    for wrong in (np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)):
        np.savez(tmp_path / 'images.npz', arr_0=wrong)
        with pytest.raises(ValueError, match=r'expected uint8 images \(N, height, width, 3\)'):
            extract_npz(str(tmp_path / 'images.npz'), MeanColours())
    for path in ('wrong.npz', 'text.npz'):
        with pytest.raises(ValueError, match=f'{path}. is no .npz file with an array arr_0'):
            extract_npz(str(tmp_path / path), MeanColours())
    monkeypatch.setitem(sys.modules, 'torch_fidelity', None)
    with pytest.raises(ImportError, match=r"need torch-fidelity: pip install 'mmvisionllama\[generation\]'"):
        InceptionFeatures(str(tmp_path / 'text.npz'))
    with pytest.raises(FileNotFoundError, match="torch-fidelity's Inception weights"):
        InceptionFeatures(str(tmp_path / 'weights.pth'))


def test_inception_features(tmp_path, monkeypatch):
    """Shapes and places of the features, with random weights; the real weights give the real metrics."""
    fidelity = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3')
    path = tmp_path / 'weights.pth'
    original = fidelity.FeatureExtractorInceptionV3.load_state_dict
    with pytest.MonkeyPatch.context() as patch:  # its constructor needs weights to make any
        patch.setattr(torch, 'load', lambda *args, **kwargs: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, 'load_state_dict', lambda *args, **kwargs: None)
        random = fidelity.FeatureExtractorInceptionV3('random', ['2048'], feature_extractor_weights_path='none')
    assert fidelity.FeatureExtractorInceptionV3.load_state_dict is original
    torch.save(random.state_dict(), path)
    build = fidelity.FeatureExtractorInceptionV3.__init__

    def in_training_mode(self, *args, **kwargs):  # as in torch-fidelity 0.3
        build(self, *args, **kwargs)
        self.train()

    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, '__init__', in_training_mode)
    extractor = InceptionFeatures(str(path))
    assert not extractor.network.training
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    out = extractor(images)
    assert {key: tuple(value.shape) for key, value in out.items()} == {
        'pool': (1, 2048),
        'spatial': (1, 17 * 17 * 7),
        'logits': (1, 1008),
    }
    # the inception score is of the logits without their bias
    (biased,) = fidelity.FeatureExtractorInceptionV3('x', ['logits'], feature_extractor_weights_path=str(path)).eval()(
        images
    )
    bias = random.state_dict()['fc.bias']
    torch.testing.assert_close(out['logits'] + bias, biased, atol=1e-5, rtol=0)
    maps = []
    random.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, output: maps.append(output))
    assert torch.equal(out['pool'], random(images)[0])
    # mu_s and sigma_s of reference files are of TensorFlow's order: channels last
    spatial = out['spatial'].view(17, 17, 7)
    assert maps[0].shape == (1, 192, 17, 17) and maps[0][:, :7].std() > 0
    for row, column, channel in ((0, 0, 1), (0, 5, 0), (3, 0, 6), (16, 16, 2)):
        assert spatial[row, column, channel] == maps[0][0, channel, row, column]


def test_sample_file(tmp_path):
    path = tmp_path / 'set.npz'
    images = torch.randint(0, 256, (5, 1, 4, 6), dtype=torch.uint8)
    first = SampleFile(path, (5, 4, 6, 3))
    second = SampleFile(path)  # another process
    first.write([0, 3], images[[0, 3]])
    second.write([1, 2, 4], images[[1, 2, 4]])
    second.flush()
    first.flush()
    first.finish()
    with np.load(path) as archive:
        assert archive.files == ['arr_0']
        array = archive['arr_0']
    assert array.dtype == np.uint8
    assert np.array_equal(array, images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())
    assert [entry.name for entry in tmp_path.iterdir()] == ['set.npz']
    assert npz_header(path) == ((5, 4, 6, 3), np.uint8)
    assert np.array_equal(np.concatenate(list(iterate_npz(path, 2))), array)
    with pytest.raises(ValueError, match='.npz file'):
        SampleFile(tmp_path / 'set.npy', (1, 2, 2, 3))


def test_sample_file_of_a_stopped_run(tmp_path):
    path, run = tmp_path / 'set.npz', dict(seed=0, size=(2, 2))
    images = torch.full((2, 1, 2, 2), 7, dtype=torch.uint8)
    first = SampleFile(path, (4, 2, 2, 3), run)
    first.write([1, 2], images)
    again = SampleFile(path, (4, 2, 2, 3), run)
    assert again.made.tolist() == [False, True, True, False] and (again.array[1:3] == 7).all()
    (tmp_path / 'set.partial.made.npy').write_bytes(b'cut off')  # a machine that died while the files were made
    assert not SampleFile(path, (4, 2, 2, 3), run).made.any()
    (tmp_path / 'set.partial.npy').write_bytes(b'')
    assert not SampleFile(path, (4, 2, 2, 3), run).made.any()
    for other in ((5, 2, 2, 3), run), ((4, 2, 2, 3), dict(run, seed=1)), ((4, 2, 2, 3), None):
        SampleFile(path, (4, 2, 2, 3), run).write([1, 2], images)
        fresh = SampleFile(path, *other)
        assert not fresh.made.any() and not fresh.array.any() and len(fresh.made) == other[0][0]


def test_image_grid():
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    grid = image_grid(images, columns=2, pad=1)
    assert grid.shape == (7, 7, 3)
    assert [grid[1, 1, 0], grid[1, 4, 0], grid[4, 1, 0], grid[4, 4, 0]] == [0, 1, 2, 255]
