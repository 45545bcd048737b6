"""A checkpoint and every exported file of it give the same predictions, in the library's own result types."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

import mmvisionllama
from mmvisionllama import deploy, launch, zoo
from mmvisionllama.deploy import runtimes
from mmvisionllama.deploy.export import describe
from mmvisionllama.deploy.models import file_info, file_pipeline, load_model, model_config, session_model
from mmvisionllama.errors import CheckpointError, DataError, OptionError

CONFIGS = Path(__file__).parents[2] / 'configs'


def trained(cfg, path, classes):
    """A checkpoint with weights that tell pictures apart."""
    init_default_scope(cfg.default_scope)
    model = MODELS.build(model_config(cfg))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=classes))), path)
    return str(path)


def classification_config():
    pytest.importorskip('mmpretrain')
    cfg = launch.load_config(str(CONFIGS / 'mmpretrain/quickstart/vision_llama_digits.py'))
    cfg.model.backbone.update(arch=dict(embed_dims=16, num_layers=2, num_heads=2), layer_scale_init_value=0.0)
    cfg.model.head.in_channels = 16
    return cfg


def segmentation_config(mode='whole'):
    pytest.importorskip('mmseg')
    cfg = launch.load_config(str(CONFIGS / 'mmseg/quickstart/pyramid_vision_llama_digit_scenes.py'))
    arch = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), sr_ratios=(4, 2))
    cfg.model.backbone = dict(type='PyramidVisionLLaMA', arch=arch, out_indices=(0, 1), layer_scale_init_value=0.0)
    cfg.model.decode_head.update(in_channels=[8, 16], in_index=[0, 1], channels=8)
    cfg.model.test_cfg = dict(mode=mode, crop_size=(64, 64), stride=(40, 40))
    return cfg


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for i, (height, width) in enumerate(((70, 90), (64, 64), (33, 120))):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.png')
    return folder


def exported(cfg, checkpoint, folder, target):
    model = load_model(cfg, checkpoint)
    return deploy.export(deploy.export_network(model), folder / 'model', target, info=file_info(cfg, model)).path


@pytest.mark.usefixtures('exporting')
def test_weights_of_the_package_by_name_and_another_size(tmp_path, pictures):
    pytest.importorskip('mmpretrain')
    predictor = deploy.Predictor('vision_llama_digits', size=(48, 64))
    assert predictor.prepare(str(pictures / '0.png'))['inputs'].shape[1:] == (48, 64)
    (sample,) = predictor(pictures / '0.png')
    model = mmvisionllama.get_model('vision_llama_digits', pretrained=True)
    inputs = predictor.prepare(str(pictures / '0.png'))['inputs'][None]
    logits = model(model.data_preprocessor(dict(inputs=inputs))['inputs'])
    torch.testing.assert_close(sample.pred_score, logits.softmax(dim=1)[0], rtol=1e-5, atol=1e-6)
    assert deploy.Predictor('vision_llama_digits').prepare(str(pictures / '0.png'))['inputs'].shape[1:] == (32, 32)

    cfg, _ = zoo.config_and_weights('vision_llama_digits')
    network = deploy.export_network(predictor.model)
    path = deploy.export(network, tmp_path / 'model', 'torch', info=file_info(cfg, predictor.model)).path
    assert deploy.Predictor(path, size=40).prepare(str(pictures / '0.png'))['inputs'].shape[1:] == (40, 40)
    with pytest.raises(CheckpointError, match="no weights of 'illama-.*' come with the package; those of .*illama_d"):
        deploy.Predictor('illama-base-p16_8xb128-accum4-300e_in1k')
    with pytest.raises(OptionError, match=r'give an exported file, a config or one of list_models\(\)'):
        deploy.Predictor('vision_llama_digit')


def test_a_name_takes_a_checkpoint_of_its_own(tmp_path, pictures):
    pytest.importorskip('mmpretrain')
    model = mmvisionllama.get_model('vision_llama_digits', pretrained=True)
    torch.nn.init.zeros_(model.head.fc.weight)
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    (sample,) = deploy.Predictor('vision_llama_digits', str(tmp_path / 'model.pth'))(pictures / '0.png')
    torch.testing.assert_close(sample.pred_score, model.head.fc.bias.softmax(0))


def nightly(*values):
    return pytest.param(*values, marks=pytest.mark.nightly)


@pytest.mark.parametrize('target', [nightly('torch'), 'onnx', nightly('openvino')])
@pytest.mark.usefixtures('exporting')
def test_classification_is_the_same_from_a_checkpoint_and_from_an_exported_file(target, tmp_path, pictures):
    cfg = classification_config()
    classes = [str(i) for i in range(10)]
    checkpoint = trained(cfg, tmp_path / 'model.pth', classes)
    reference = deploy.Predictor(cfg, checkpoint)
    predictor = deploy.Predictor(exported(cfg, checkpoint, tmp_path, target), threads=1)
    assert predictor.classes == reference.classes == classes
    ours, theirs = predictor(pictures), reference(pictures)
    assert [type(sample).__name__ for sample in ours] == ['DataSample'] * 3
    assert len({tuple(sample.pred_score.tolist()) for sample in theirs}) == 3
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.pred_score, b.pred_score, rtol=1e-4, atol=1e-6)
        assert a.pred_label == b.pred_label
    array = np.array(Image.open(pictures / '0.png'))[..., ::-1].copy()
    torch.testing.assert_close(predictor(array)[0].pred_score, ours[0].pred_score)
    batch = predictor(sorted(pictures.iterdir()), batch_size=2)
    torch.testing.assert_close(batch[2].pred_score, ours[2].pred_score, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_predicts_as_the_librarys_own_inferencer(tmp_path, pictures):
    cfg = classification_config()
    checkpoint = trained(cfg, tmp_path / 'model.pth', [str(i) for i in range(10)])
    from mmpretrain import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(cfg, pretrained=checkpoint, device='cpu')
    for picture in sorted(pictures.iterdir()):
        ours = deploy.Predictor(cfg, checkpoint)(picture)[0].pred_score.numpy()
        np.testing.assert_allclose(ours, inferencer(str(picture))[0]['pred_scores'], rtol=1e-5)


def test_a_detectors_checkpoint_predicts_as_mmdet_does(pictures):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops')
    from mmdet.apis import inference_detector

    cfg = launch.load_config(str(CONFIGS / 'mmdet/quickstart/pyramid_vision_llama_digit_scenes.py'))
    weights = CONFIGS.parent / 'weights/pyramid_vision_llama_digit_scenes_mmdet/model.safetensors'
    paths = [str(picture) for picture in sorted(pictures.iterdir())[:2]]
    ours = deploy.Predictor(cfg, str(weights))(paths)
    model = load_model(cfg, str(weights))
    model.cfg = cfg
    for sample, path in zip(ours, paths, strict=True):
        theirs = inference_detector(model, path).pred_instances
        assert type(sample).__name__ == 'DetDataSample' and len(sample.pred_instances) == len(theirs)
        torch.testing.assert_close(sample.pred_instances.bboxes, theirs.bboxes)
        torch.testing.assert_close(sample.pred_instances.scores, theirs.scores)
        assert torch.equal(sample.pred_instances.masks, theirs.masks)
    assert sum(len(sample.pred_instances) for sample in ours) > 0


@pytest.mark.parametrize(
    'target, mode', [nightly('onnx', 'slide'), nightly('onnx', 'whole'), nightly('openvino', 'slide')]
)
def test_segmentation_is_the_same_from_a_checkpoint_and_from_an_exported_file(target, mode, tmp_path, pictures):
    cfg = segmentation_config(mode)
    checkpoint = trained(cfg, tmp_path / 'model.pth', ['ground', *map(str, range(10))])
    reference = deploy.Predictor(cfg, checkpoint)
    predictor = deploy.Predictor(exported(cfg, checkpoint, tmp_path, target), threads=1)
    for a, b in zip(predictor(pictures), reference(pictures)):
        assert type(a).__name__ == 'SegDataSample'
        assert a.pred_sem_seg.data.shape == b.pred_sem_seg.data.shape
        scale = b.seg_logits.data.abs().max()
        assert (a.seg_logits.data - b.seg_logits.data).abs().max() <= 1e-5 * scale
        assert len(b.pred_sem_seg.data.unique()) > 1


@pytest.mark.usefixtures('exporting')
def test_an_exported_file_resizes_in_proportion(tmp_path, pictures):
    """As the configs of ADE20K do; JSON has no tuples, and mmcv takes no list for a size."""
    cfg = classification_config()
    cfg.model.backbone.arch.num_layers = 1
    (resize,) = (step for step in cfg.test_dataloader.dataset.pipeline if step['type'] == 'Resize')
    resize.update(scale=(96, 64), keep_ratio=True)
    checkpoint = trained(cfg, tmp_path / 'model.pth', [str(i) for i in range(10)])
    reference = deploy.Predictor(cfg, checkpoint)
    predictor = deploy.Predictor(exported(cfg, checkpoint, tmp_path, 'torch'))
    for picture, size in zip(sorted(pictures.iterdir()), ((64, 82), (64, 64), (26, 96)), strict=True):
        assert predictor.prepare(str(picture))['inputs'].shape[1:] == size
    (ours,), (theirs,) = predictor(picture), reference(picture)
    torch.testing.assert_close(ours.pred_score, theirs.pred_score, rtol=1e-4, atol=1e-6)
    steps = [dict(type='A', scales=[[64, 32], [0.5, 1]], keys=['a', 'b'], none=[], steps=[dict(size=[3, 4])])]
    found = [dict(type='A', scales=[(64, 32), (0.5, 1)], keys=['a', 'b'], none=[], steps=[dict(size=(3, 4))])]
    assert file_pipeline(dict(pipeline=steps)) == found


PURE_PYTHON = """
from mmcv.transforms import LoadAnnotations, LoadImageFromFile, Resize
from mmpretrain.datasets import CustomDataset, PackInputs
from mmpretrain.models import ClsDataPreprocessor, ImageClassifier, LinearClsHead

from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.engine import SizedDataPreprocessor

default_scope = 'mmpretrain'
model = dict(
    type=ImageClassifier,
    data_preprocessor=dict(type=SizedDataPreprocessor, base=ClsDataPreprocessor, mean=[100.0] * 3, std=[50.0] * 3),
    backbone=dict(type=VisionLLaMA, arch=dict(embed_dims=16, num_layers=1, num_heads=2), layer_scale_init_value=0),
    head=dict(type=LinearClsHead, num_classes=5, in_channels=16),
)
pipeline = [dict(type=LoadImageFromFile), dict(type=Resize, scale=(40, 32)), dict(type=LoadAnnotations)]
test_dataloader = dict(dataset=dict(type=CustomDataset, pipeline=[*pipeline, dict(type=PackInputs)]))
"""


@pytest.mark.usefixtures('exporting')
def test_a_pure_python_config_is_exported(tmp_path, pictures):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'config.py').write_text(PURE_PYTHON)
    cfg = launch.load_config(str(tmp_path / 'config.py'))
    checkpoint = trained(cfg, tmp_path / 'model.pth', list('abcde'))
    reference = deploy.Predictor(cfg, checkpoint)
    predictor = deploy.Predictor(exported(cfg, checkpoint, tmp_path, 'torch'))
    for ours, theirs in zip(predictor(pictures), reference(pictures), strict=True):
        torch.testing.assert_close(ours.pred_score, theirs.pred_score, rtol=1e-4, atol=1e-6)
    assert predictor.prepare(str(pictures / '0.png'))['inputs'].shape[1:] == (32, 40)


def test_pictures_that_cannot_be_used_end_in_one_line(tmp_path):
    cfg = classification_config()
    predictor = deploy.Predictor(cfg, trained(cfg, tmp_path / 'model.pth', ['a']))
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(tmp_path / 'deep.png')
    Image.new('CMYK', (8, 8)).save(tmp_path / 'print.jpg')
    Image.new('RGB', (16, 16)).save(tmp_path / 'small.ico')
    (tmp_path / 'damaged.png').write_bytes(b'\x89PNG no picture')
    (tmp_path / 'empty').mkdir()
    for name, reason in (
        ('deep.png', 'mode I;16'),
        ('print.jpg', 'mode CMYK'),
        ('damaged.png', 'cannot be read'),
        ('small.ico', 'format or size that OpenCV does not read'),
        ('missing.png', 'does not exist'),
        ('empty', 'has no picture'),
    ):
        with pytest.raises(DataError, match=f'{name}.*{reason}') as error:
            predictor(tmp_path / name)
        assert '\n' not in str(error.value)
    with pytest.raises(DataError, match=r'got \(8, 8\) of float64'):
        predictor(np.zeros((8, 8)))
    with pytest.raises(DataError, match='cannot predict on a int'):
        predictor(3)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tiff', 'webp', 'avif'])
def test_pictures_stand_upright_in_every_format(suffix, tmp_path):
    cfg = classification_config()
    predictor = deploy.Predictor(cfg, trained(cfg, tmp_path / 'model.pth', ['a']))
    predictor._prepare = lambda results: results
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20, :, 0] = 255  # red above
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    if f'.{suffix}' not in Image.registered_extensions():
        pytest.skip(f'Pillow without {suffix}')
    Image.fromarray(np.rot90(pixels)).save(tmp_path / f'a.{suffix}', exif=exif)
    found = predictor.prepare(str(tmp_path / f'a.{suffix}'))
    assert found['img'].shape == (40, 60, 3) and found['ori_shape'] == (40, 60)
    assert found['img_path'] == str(tmp_path / f'a.{suffix}')
    np.testing.assert_allclose(found['img'][[8, 32], 30], [[0, 0, 255], [0, 0, 0]], atol=12)


def test_pictures_that_would_take_much_memory_are_refused(tmp_path, monkeypatch):
    cfg = classification_config()
    checkpoint = trained(cfg, tmp_path / 'model.pth', ['a'])
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline[1:-1] = [dict(type='ResizeEdge', scale=32, edge='short')]
    predictor = deploy.Predictor(cfg, checkpoint)
    Image.new('RGB', (100_000, 1)).save(tmp_path / 'line.png')
    for line in (tmp_path / 'line.png', np.zeros((100_000, 1, 3), np.uint8)):
        with pytest.raises(
            DataError, match='is so narrow that the test pipeline would make more than 89,478,485 pixels'
        ):
            predictor(line)
    with monkeypatch.context() as patch:
        patch.setattr('mmvisionllama.deploy.predictor.MAX_PIXELS', 5000)
        Image.new('RGB', (100, 51)).save(tmp_path / 'large.png')
        with pytest.raises(DataError, match=r'large.png has too many pixels \(100 x 51, 5,000 at most\)'):
            predictor(tmp_path / 'large.png')
    pipeline[1] = dict(type='Resize', scale=(64, 32), keep_ratio=True)  # no height is left
    predictor = deploy.Predictor(cfg, checkpoint)
    with pytest.raises(DataError, match='line.png.* cannot be resized'):
        predictor(tmp_path / 'line.png')
    Image.new('L', (1_100_000, 1)).save(tmp_path / 'wide.bmp')  # OpenCV's own bound
    with pytest.raises(DataError, match='wide.bmp.* is of a format or size that OpenCV does not read'):
        predictor(tmp_path / 'wide.bmp')


def test_values_that_make_no_sense_are_refused(tmp_path):
    (tmp_path / 'model.onnx').write_text('')
    for values, said in (
        (dict(precision='int3'), "unknown precision 'int3': choose one of f32, bf16, f16"),
        (dict(threads=-1), 'threads=-1: give their number'),
    ):
        with pytest.raises(OptionError, match=said):
            deploy.Predictor(tmp_path / 'model.onnx', **values)
    cfg = classification_config()
    checkpoint = trained(cfg, tmp_path / 'model.pth', ['a'])
    for size in (0, (32, -1)):
        with pytest.raises(OptionError, match='give pixels, a side or'):
            deploy.Predictor(cfg, checkpoint, size=size)
    predictor = deploy.Predictor(cfg, checkpoint)
    for batch_size in (0, -1):
        with pytest.raises(OptionError, match=f'batch_size={batch_size}: give 1 or more'):
            predictor(np.zeros((32, 32, 3), dtype=np.uint8), batch_size=batch_size)


def test_an_exported_file_of_packed_or_sized_training_predicts():
    """Packed images come as a list; padding that the network ignored is left out."""
    from mmpretrain.structures import DataSample
    from mmseg.structures import SegDataSample

    class Session:
        """Two classes: the mean of the pixels, and 0."""

        def __init__(self, preprocessor):
            preprocessor = dict(preprocessor, mean=[0.0] * 3, std=[1.0] * 3)
            self.metadata = dict(task='classification', scope='mmpretrain', classes=['a', 'b'])
            self.metadata['model'] = dict(data_preprocessor=preprocessor)

        def __call__(self, images):
            means = images.mean((1, 2, 3))
            return [torch.stack([means, torch.zeros_like(means)], 1)]

    picture = torch.full((3, 32, 32), 2, dtype=torch.uint8)
    data = dict(inputs=[picture, picture[:, :16]], data_samples=[DataSample(), DataSample()])
    model = session_model(Session(dict(type='PackedDataPreprocessor', base='ClsDataPreprocessor')))
    for sample in model.test_step(data):
        assert sample.pred_score[0].item() == pytest.approx(1 / (1 + np.exp(-2)))
    data = dict(inputs=[picture], data_samples=[DataSample(metainfo=dict(img_shape=(32, 32)))])
    for name in ('SizedDataPreprocessor', 'mmvisionllama.engine.SizedDataPreprocessor'):  # the second of pure Python
        sized = dict(type=name, base='ClsDataPreprocessor', pad_size_divisor=64)
        (sample,) = session_model(Session(sized)).test_step(data)
        assert sample.pred_score[0].item() == pytest.approx(1 / (1 + np.exp(-2)))
    sized = dict(type='SizedDataPreprocessor', base='mmseg.SegDataPreProcessor', test_cfg=dict(size_divisor=64))
    preprocessor = session_model(Session(sized)).data_preprocessor
    assert preprocessor(dict(inputs=[picture], data_samples=[SegDataSample()]))['inputs'].shape == (1, 3, 32, 32)


def own_session(model, cfg):
    """What an exported file of the model gives, without tracing."""
    network = deploy.export_network(model)
    metadata = json.loads(json.dumps(describe(network, file_info(cfg, model))))
    return deploy.Session('torch', metadata, lambda images: [network(images)])


def test_a_binary_segmentor_keeps_its_threshold():
    cfg = segmentation_config()
    cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.4)
    cfg.model.decode_head.loss_decode = dict(type='CrossEntropyLoss', use_sigmoid=True)
    init_default_scope('mmseg')
    model = MODELS.build(model_config(cfg)).eval()
    for parameter in model.decode_head.conv_seg.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    session = own_session(model, cfg)
    data = dict(inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)])
    (ours,), (theirs,) = (m.test_step(data) for m in (session_model(session), model))
    assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)
    assert len(theirs.pred_sem_seg.data.unique()) == 2
    for key in ('out_channels', 'threshold', 'multi_label'):  # a file written before they were kept
        del session.metadata[key]
    assert session_model(session).decode_head.out_channels == 2


@pytest.mark.parametrize('rule', [dict(thr=0.4), dict(topk=2)], ids=str)
def test_a_classifier_of_several_labels_keeps_its_rule(rule):
    cfg = classification_config()
    cfg.model.head = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=16, **rule)
    init_default_scope('mmpretrain')
    model = MODELS.build(model_config(cfg)).eval()
    torch.nn.init.normal_(model.head.fc.weight, std=2.0)
    data = dict(inputs=[torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)])
    (ours,), (theirs,) = (m.test_step(data) for m in (session_model(own_session(model, cfg)), model))
    torch.testing.assert_close(ours.pred_score, theirs.pred_score, rtol=1e-4, atol=1e-6)
    assert torch.equal(ours.pred_label, theirs.pred_label) and 1 < len(theirs.pred_label) < 10


@pytest.mark.usefixtures('exporting')
def test_wrong_combinations_of_files_are_refused(tmp_path):
    cfg = classification_config()
    checkpoint = trained(cfg, tmp_path / 'model.pth', ['a'])
    with pytest.raises(OptionError, match='needs a checkpoint'):
        deploy.Predictor(cfg)
    with pytest.raises(OptionError, match='leave the checkpoint out'):
        deploy.Predictor('model.onnx', checkpoint)
    with pytest.raises(OptionError, match='does not exist'):
        deploy.Predictor('missing.py', checkpoint)
    for name in ('weights.pth', 'WEIGHTS.SAFETENSORS'):
        (tmp_path / name).write_text('')
        with pytest.raises(OptionError, match=f"{name}' is no exported file .* and no config .*: weights are the"):
            deploy.Predictor(str(tmp_path / name))
    (tmp_path / 'MODEL.ONNX').write_text('')
    with pytest.raises(CheckpointError, match="MODEL.ONNX' cannot be read, export the model again"):
        deploy.Predictor(tmp_path / 'MODEL.ONNX')
    cfg.model.head.num_classes = 3
    with pytest.raises(CheckpointError, match='does not fit the config'):
        deploy.Predictor(cfg, checkpoint)
    backbone = deploy.export_network(load_model(classification_config(), checkpoint).backbone)
    with pytest.raises(OptionError, match='holds a part of a model'):
        deploy.Predictor(deploy.export(backbone, tmp_path / 'backbone', 'torch').path)


@pytest.mark.parametrize('wrong', [lambda value: value * float('nan'), lambda value: value.to(torch.int8)])
def test_weights_that_are_no_numbers_are_refused(tmp_path, wrong):
    cfg = classification_config()
    stored = torch.load(trained(cfg, tmp_path / 'model.pth', ['a']), weights_only=True)
    stored['state_dict']['head.fc.weight'] = wrong(stored['state_dict']['head.fc.weight'])
    torch.save(stored, tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match='head.fc.weight holds'):
        load_model(cfg, str(tmp_path / 'model.pth'))


@pytest.mark.parametrize('cpus, threads', [(1, 0), (8, 1)])
def test_openvino_is_kept_from_ending_the_process(monkeypatch, cpus, threads):
    """In bf16 with one thread on a processor with AMX."""
    monkeypatch.setattr(runtimes.os, 'sched_getaffinity', lambda pid: set(range(cpus)), raising=False)
    monkeypatch.setattr(runtimes, 'has_amx', lambda: False)
    runtimes.check_bf16(threads, 'bf16')
    monkeypatch.setattr(runtimes, 'has_amx', lambda: True)
    runtimes.check_bf16(2, 'bf16')
    for precision in ('f32', 'f16'):
        runtimes.check_bf16(threads, precision)
    with pytest.raises(OptionError, match='crash in bf16 with one thread on this processor: give threads=2'):
        runtimes.check_bf16(threads, 'bf16')
