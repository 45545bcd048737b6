"""tools/model_converters/released_to_mmvisionllama.py, on weights under the released names."""

import argparse
import fractions
import importlib.util
from pathlib import Path

import pytest
import released_names
import torch

from mmvisionllama import launch
from mmvisionllama.backbones import VisionLLaMA
from mmvisionllama.checkpoints import CheckpointError, load_pretrained, read_checkpoint

TOOL = Path(__file__).parents[2] / 'tools' / 'model_converters' / 'released_to_mmvisionllama.py'
DIMS, HIDDEN = 32, 48


@pytest.fixture(scope='module')
def main():
    pytest.importorskip('mmpretrain')
    spec = importlib.util.spec_from_file_location('released_to_mmvisionllama', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def released_weights():
    """One block of a plain classifier: our own weights under the released names."""
    model = VisionLLaMA(
        dict(embed_dims=DIMS, num_layers=1, num_heads=2, feedforward_channels=HIDDEN), layer_scale_init_value=0.5
    )
    state = released_names.renamed(model)
    state.update({'head.weight': torch.randn(3, DIMS), 'head.bias': torch.randn(3)})
    return model, state


@pytest.fixture
def published(tmp_path):
    """A file as the released trainer writes it, and the model whose weights it holds."""
    model, state = released_weights()
    file = tmp_path / 'published.pth'
    torch.save(dict(model=state, model_ema=None, epoch=799, args=argparse.Namespace(lr=3e-3)), file)
    return model, str(file)


@pytest.fixture
def more_than_weights(tmp_path):
    file = tmp_path / 'more.pth'
    torch.save(dict(model=released_weights()[1], part=fractions.Fraction(1, 2)), file)
    return str(file)


def test_refuses_pickles_without_the_flag(main, more_than_weights, tmp_path, capsys):
    target = str(tmp_path / 'out.pth')
    with pytest.raises(CheckpointError, match=r'fractions.Fraction.*any code.*--unsafe'):
        main([more_than_weights, target, '--num-heads', '2'])
    assert not (tmp_path / 'out.pth').exists()
    main([more_than_weights, target, '--num-heads', '2', '--unsafe'])
    assert 'can run any code' in capsys.readouterr().err


def test_refusal_is_one_line(main, more_than_weights, tmp_path, capsys):
    with pytest.raises(SystemExit):
        launch.run_cli(lambda: main([more_than_weights, str(tmp_path / 'out.pth')]))
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1


def test_converts(main, published, tmp_path, capsys):
    model, source = published
    out = tmp_path / 'new' / 'out.pth'
    main([source, str(out), '--num-heads', '2', '--img-size', '64', '--set', 'auto_scale=True'])
    printed = capsys.readouterr()
    params = sum(p.numel() for p in model.parameters()) + 3 * DIMS + 3
    assert f'family plain, {params:,} parameters' in printed.out
    assert f'tools/test.py CONFIG {out}' in printed.out and "type='ImageClassifier'" in printed.out

    checkpoint = read_checkpoint(out)  # weights-only
    assert checkpoint['meta']['family'] == 'plain' and checkpoint['meta']['source'] == 'published.pth'
    backbone = checkpoint['meta']['model']['backbone']
    assert backbone['img_size'] == 64 and backbone['rope_cfg'] == dict(scale='height')
    from mmpretrain.registry import MODELS

    classifier = MODELS.build(checkpoint['meta']['model'])
    classifier.load_state_dict(checkpoint['state_dict'], strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(classifier.backbone.state_dict()[key], value)

    alone = VisionLLaMA(dict(embed_dims=DIMS, num_layers=1, num_heads=2, feedforward_channels=HIDDEN))
    load_pretrained(alone, str(out), 'backbone.')
    assert torch.equal(alone.layers[0].ffn.up.weight, model.layers[0].ffn.up.weight)


def test_averaged_weights_are_taken_if_there(main, tmp_path, capsys):
    _, raw = released_weights()
    _, averaged = released_weights()
    torch.save(dict(model=raw, ema=averaged), tmp_path / 'in.pth')
    for flags, expected in (([], averaged), (['--weights', 'model'], raw)):
        main([str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'), '--num-heads', '2', *flags])
        weight = read_checkpoint(tmp_path / 'out.pth')['state_dict']['backbone.layers.0.attn.qkv.weight']
        assert torch.equal(weight, expected['blocks.0.attn.qkv.weight'])
    assert 'any code' not in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no weights under 'best': its entries are model, ema"):
        main([str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'), '--weights', 'best'])


def test_incomplete_weights(main, tmp_path):
    _, state = released_weights()
    del state['blocks.0.attn.proj.bias']
    torch.save(state, tmp_path / 'in.pth')
    with pytest.raises(CheckpointError, match='not complete.*layers.0.attn.proj.bias'):
        main([str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'), '--num-heads', '2'])
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ([], 'give num_heads'),
        (['--num-heads', '2', '--set', 'depth=3'], 'does not take depth: known are num_heads'),
        (['--family', 'swin'], "unknown family 'swin'"),
        (['--family', 'pyramid'], "family 'pyramid' does not have these keys"),
    ],
)
def test_errors(main, tmp_path, flags, words):
    torch.save(released_weights()[1], tmp_path / 'in.pth')
    with pytest.raises(CheckpointError, match=words):
        main([str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'), *flags])


@pytest.mark.parametrize('name', ['ema', 'model_ema', 'state_dict_ema'])
def test_averaged_weights_come_first(main, tmp_path, capsys, name):
    """As DiT, DeiT and timm call them."""
    plain, averaged = released_weights()[1], released_weights()[1]
    torch.save({'model': plain, name: averaged}, tmp_path / 'published.pth')
    main([str(tmp_path / 'published.pth'), str(tmp_path / 'out.pth'), '--num-heads', '2', '--img-size', '64'])
    assert f'takes the entry {name!r}' in capsys.readouterr().out
    assert torch.equal(read_checkpoint(tmp_path / 'out.pth')['state_dict']['head.fc.weight'], averaged['head.weight'])


def test_the_published_file_is_not_overwritten(main, published):
    before = Path(published[1]).read_bytes()
    with pytest.raises(launch.LaunchError, match='DST is SRC'):
        main([published[1], published[1], '--num-heads', '2'])
    assert Path(published[1]).read_bytes() == before


def test_heads_that_do_not_divide(main, published, tmp_path):
    with pytest.raises(CheckpointError, match='num_heads 5 does not divide embed_dims 32'):
        main([published[1], str(tmp_path / 'out.pth'), '--num-heads', '5'])
