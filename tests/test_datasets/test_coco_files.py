"""Checks of annotation files in COCO's format."""

import json

import pytest
from mmengine.config import ConfigDict

from mmvisionllama import launch
from mmvisionllama.datasets import DataError
from mmvisionllama.datasets.checks import check_files
from mmvisionllama.datasets.coco_files import check_categories, read_categories
from mmvisionllama.errors import LaunchError


def write(path, names, first=False, indent=None):
    """An annotation file with the categories at its end, where COCO has them, or at its start."""
    categories = dict(categories=[dict(id=3 * i + 1, name=name) for i, name in enumerate(names)])
    rest = dict(info=dict(description='no "categories" here'), images=[dict(id=1, file_name='é.jpg')], annotations=[])
    coco = {**categories, **rest} if first else {**rest, **categories}
    path.write_text(json.dumps(coco, indent=indent, ensure_ascii=False))
    return str(path)


@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize('indent', [None, 2])
def test_names_in_the_files_order(tmp_path, first, indent):
    assert read_categories(write(tmp_path / 'a.json', ['dog', 'cat', 'bär'], first, indent)) == ['dog', 'cat', 'bär']


def test_a_word_like_the_key(tmp_path):
    """The last place that reads like the key is no list: the whole file is parsed."""
    coco = dict(categories=[dict(id=1, name='dog')], images=[], note='"categories"')
    (tmp_path / 'a.json').write_text(json.dumps(coco).replace('\\"categories\\"', 'x", "y": "categories'))
    assert read_categories(str(tmp_path / 'a.json')) == ['dog']


@pytest.mark.parametrize('text', ['no json', '{}', '{"categories": [1]}', '[]', '{"categories": "cat'])
def test_no_annotation_file(tmp_path, text):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(DataError, match=r"a\.json' is no annotation file"):
        read_categories(str(tmp_path / 'a.json'))


def test_more_categories_than_classes_are_fine(tmp_path):
    check_categories(write(tmp_path / 'a.json', ['cow', 'dog', 'cat']), ('dog', 'cat'))


def test_missing_category(tmp_path):
    path = write(tmp_path / 'a.json', ['dog'])
    with pytest.raises(DataError, match=r"lacks 1 of the 2 categories.*\('cat'\); it has 'dog'.*metainfo"):
        check_categories(path, ('dog', 'cat'))


def test_other_order(tmp_path):
    path = write(tmp_path / 'a.json', ['dog', 'cow', 'cat'])
    with pytest.raises(DataError, match=r"another order.*classes=\('dog', 'cat'\)"):
        check_categories(path, ('cat', 'dog'))


def config(root, **dataset):
    dataset = dict(type='CocoDataset', data_root=str(root), ann_file='a.json', **dataset)
    return ConfigDict(train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dataset)))


def test_before_a_training(tmp_path):
    pytest.importorskip('mmdet.datasets', exc_type=ImportError)
    write(tmp_path / 'a.json', ['dog', 'cat'])
    launch.check_data(config(tmp_path, metainfo=dict(classes=('dog', 'cat'))))
    (tmp_path / 'names.txt').write_text('dog\nbird\n')
    with pytest.raises(DataError, match="'bird'"):
        launch.check_data(config(tmp_path, metainfo=dict(classes=str(tmp_path / 'names.txt'))))
    with pytest.raises(DataError, match="lacks 78 of the 80 categories.*'person'"):
        launch.check_data(config(tmp_path))


@pytest.mark.parametrize('root', [{}, dict(data_root='')])
def test_paths_without_a_root_are_checked_too(tmp_path, root):
    pytest.importorskip('mmdet.datasets', exc_type=ImportError)
    write(tmp_path / 'a.json', ['dog', 'cat'])

    def check(**options):
        dataset = dict(type='CocoDataset', ann_file=str(tmp_path / 'a.json'), **root)
        launch.check_data(ConfigDict(train_dataloader=dict(dataset=dict(dataset, **options))))

    check(metainfo=dict(classes=('dog', 'cat')))
    with pytest.raises(DataError, match='another order'):
        check(metainfo=dict(classes=('cat', 'dog')))
    with pytest.raises(LaunchError, match=r"b\.json', which train_dataloader\.dataset of the config names, does not"):
        check(ann_file=str(tmp_path / 'b.json'))
    check(ann_file='s3://bucket/b.json')  # not read here


def test_one_class_without_its_comma(tmp_path):
    write(tmp_path / 'a.json', ['dog'])
    with pytest.raises(DataError, match=r"'dog', and there is no such file.*classes=\('dog',\)"):
        check_files(dict(type='CocoDataset', ann_file='a.json', metainfo=dict(classes=('dog'))), str(tmp_path), 'mmdet')


def test_data_sets_that_sort_the_categories_themselves(tmp_path):
    """Of another order their file may be, of other names not."""
    classes = pytest.importorskip('mmdet.datasets', exc_type=ImportError).Objects365V1Dataset.METAINFO['classes']
    dataset = dict(type='Objects365V1Dataset', ann_file='a.json')
    write(tmp_path / 'a.json', [*classes[5:], *classes[:5]])
    check_files(dataset, str(tmp_path), 'mmdet')
    with pytest.raises(DataError, match='another order'):
        check_files(dict(dataset, type='CocoDataset', metainfo=dict(classes=classes)), str(tmp_path), 'mmdet')
    write(tmp_path / 'a.json', classes[1:])
    with pytest.raises(DataError, match='lacks 1 of the 365'):
        check_files(dataset, str(tmp_path), 'mmdet')


def test_classes_in_a_file_of_their_own(tmp_path):
    """V3Det's class has no names of its own; with others in the config they are checked."""
    pytest.importorskip('mmdet.datasets', exc_type=ImportError)
    write(tmp_path / 'a.json', ['dog', 'cat'])
    dataset = dict(type='V3DetDataset', ann_file='a.json')
    check_files(dataset, str(tmp_path), 'mmdet')
    with pytest.raises(DataError, match="'bird'"):
        check_files(dict(dataset, metainfo=dict(classes=('dog', 'bird'))), str(tmp_path), 'mmdet')


def test_the_evaluators_file(tmp_path):
    cfg = ConfigDict(val_evaluator=[dict(type='CocoMetric', ann_file=str(tmp_path / 'b.json'))])
    with pytest.raises(launch.LaunchError, match=r'val_evaluator\.ann_file=FILE'):
        launch.check_data(cfg)
