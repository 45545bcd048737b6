"""Shape bias: file names, the 16 categories, decisions and their counts."""

import pytest
import torch

from mmvisionllama.analysis.shape_texture import category_scores, cues_of, imagenet_categories, shape_bias

CATEGORIES = dict(cat=[0, 1], dog=[2], car=[4])


def one_hot(*classes):
    return torch.eye(5)[list(classes)]


def test_bias_is_the_part_of_shape_decisions_among_decisions_for_a_cue():
    cues = [('cat', 'dog'), ('cat', 'dog'), ('cat', 'car'), ('dog', 'cat'), ('cat', 'cat')]
    # shape, texture, shape, neither; the last image has no conflict
    result = shape_bias(one_hot(0, 2, 1, 4, 0), cues, CATEGORIES)
    assert result.images == 4
    assert result.bias == pytest.approx(2 / 3)
    assert result.cue_accuracy == pytest.approx(3 / 4)
    assert result.shape == {'cat': 2} and result.texture == {'dog': 1}


def test_a_category_counts_with_the_mean_of_its_classes():
    scores = torch.tensor([[0.3, 0.1, 0.25, 0.0, 0.35]])
    assert category_scores(scores, CATEGORIES).tolist()[0] == pytest.approx([0.2, 0.25, 0.35])
    assert shape_bias(scores, [('dog', 'car')], CATEGORIES).bias == 0


def test_the_sixteen_categories_name_classes_of_imagenet():
    categories = imagenet_categories()
    sizes = {name: len(indices) for name, indices in categories.items()}
    assert sizes == dict(
        airplane=1, bear=4, bicycle=2, bird=49, boat=5, bottle=7, car=3, cat=6, chair=4, clock=3,
        dog=109, elephant=2, keyboard=2, knife=1, oven=1, truck=8,
    )  # fmt: skip
    everything = [index for indices in categories.values() for index in indices]
    assert len(set(everything)) == len(everything) and max(everything) < 1000
    names = pytest.importorskip('mmpretrain.datasets.categories').IMAGENET_CATEGORIES
    for name in ('airplane', 'bear', 'car', 'clock', 'elephant', 'keyboard', 'bottle'):
        words = {'airplane': 'airliner', 'car': 'wagon convertible sports', 'bottle': 'bottle jug'}.get(name, name)
        for index in categories[name]:
            assert any(word in names[index] for word in words.split()), (name, names[index])


def test_file_names():
    assert cues_of('stimuli/cat/cat7-elephant1.png') == ('cat', 'elephant')
    assert cues_of('oven/oven10-airplane3.png') == ('oven', 'airplane')
    assert cues_of('3/3-8.png') == ('3', '8')
    with pytest.raises(ValueError, match='cat7-elephant1'):
        cues_of('cat/cat7.png')


def test_categories_must_fit_the_model_and_the_files():
    with pytest.raises(ValueError, match='2 classes'):
        shape_bias(torch.rand(1, 2), [('cat', 'dog')], CATEGORIES)
    with pytest.raises(ValueError, match='no classes are given for bird'):
        shape_bias(one_hot(0), [('cat', 'bird')], CATEGORIES)
