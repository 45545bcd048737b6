"""What only a GPU can show (``make gpu-test``), and what it has in common with CPUs, which is tested on both."""

import copy
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import distributed

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA, iLLaMA
from mmvisionllama.generation import DiTLLaMA
from mmvisionllama.layers import build_norm

CUDA = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not CUDA, reason='needs a GPU: make gpu-test')
DEVICES = ['cpu', pytest.param('cuda', marks=needs_gpu)]
PLAIN = dict(embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=128)
PYRAMID = dict(embed_dims=[32, 64], depths=[2, 2], num_heads=[1, 2], window_sizes=[7, 7], sr_ratios=[4, 2])
BACKBONES = {
    'plain': lambda **options: VisionLLaMA(PLAIN, **options),
    'windowed': lambda **options: VisionLLaMA(
        PLAIN, out_type='featmap', with_cls_token=False, window_size=5, window_block_indexes=(0,), **options
    ),
    'pyramid': lambda **options: PyramidVisionLLaMA(PYRAMID, out_indices=(1,), **options),
    'illama': lambda **options: iLLaMA(PLAIN, **options),
}
images = pytest.mark.parametrize('size', [(64, 64), (80, 112)], ids=str)
families = pytest.mark.parametrize('family', BACKBONES)


def built(family, device, **options):
    torch.manual_seed(0)
    return BACKBONES[family](**options).to(device)


def loss_of(out):
    """Weighs every output differently: a mean square is nearly constant behind a norm, without gradients to compare."""
    return (out * torch.arange(out.numel(), device=out.device).view_as(out).cos()).mean()


def gradients(model, x):
    out = model(x)[0]
    return out, torch.autograd.grad(loss_of(out), list(model.parameters()), allow_unused=True)


def assert_gradients_close(actual, expected):
    """To a thousandth of the largest."""
    assert (actual is None) == (expected is None)
    if actual is not None:
        expected = expected.to(actual)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@needs_gpu
@families
@images
def test_fp32_equals_the_cpu(family, size):
    model, x = built(family, 'cpu'), torch.randn(2, 3, *size)
    out, grads = gradients(model, x)
    other, other_grads = gradients(copy.deepcopy(model).cuda(), x.cuda())
    torch.testing.assert_close(other.cpu(), out, rtol=1e-4, atol=1e-4)
    for a, b in zip(other_grads, grads):
        assert_gradients_close(a, b)


@families
def test_gradients_are_more_than_rounding_errors(family):
    model, x = built(family, 'cpu'), torch.randn(2, 3, 80, 112)
    for a, b in zip(gradients(model, x)[1], gradients(copy.deepcopy(model).double(), x.double())[1]):
        assert_gradients_close(a, b)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('pure', [False, True], ids=['autocast', 'bf16'])
@families
def test_bf16_is_close_to_fp32(family, device, pure):
    model, x = built(family, device).eval(), torch.randn(2, 3, 80, 112, device=device)
    with torch.no_grad():
        expected = model(x)[0]
        if pure:
            out = copy.deepcopy(model).bfloat16()(x.bfloat16())[0]
            assert out.dtype == torch.bfloat16
        else:
            with torch.autocast(device, torch.bfloat16):
                out = model(x)[0]
    assert (out.float() - expected).norm() < 0.02 * expected.norm()


def saved_tensors(function):
    """What autograd keeps for the backward pass, each storage once."""
    saved = {}

    def pack(tensor):
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = function()
    return list(saved.values()), out


@pytest.mark.parametrize('device', DEVICES)
@families
def test_pure_bf16_keeps_no_fp32_tokens(family, device):
    """Of fp32 there are only tables, without a batch axis, and statistics of norms, without a channel axis."""
    if family == 'illama' and device == 'cpu':
        pytest.skip("torch's RMSNorm is fused on GPUs only")
    batch = 8
    model = built(family, device).bfloat16()
    x = torch.randn(batch, 3, 48, 80, device=device, dtype=torch.bfloat16)  # no count of tokens is one of channels
    saved, _ = saved_tensors(lambda: model(x)[0])
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    wide = [
        tuple(t.shape)
        for t in saved
        if t.dtype == torch.float32 and t.untyped_storage().data_ptr() not in parameters and t.numel() > 1
    ]
    tokens = [shape for shape in wide if shape[0] >= batch and shape[-1] in (32, 64, 128) and len(shape) > 2]
    assert not tokens, tokens


@pytest.mark.parametrize('device', DEVICES)
def test_bytes_kept_per_token(device):
    """Of one block in bf16."""
    torch.manual_seed(0)
    model = VisionLLaMA(
        dict(PLAIN, num_layers=1, embed_dims=128), with_cls_token=False, out_type='raw', final_norm=False
    )
    block = model.layers[0].to(device, torch.bfloat16)
    x = torch.randn(4, 64, 128, device=device, dtype=torch.bfloat16, requires_grad=True)
    grid = (8, 8)
    context = model.rotary_contexts(grid, x.device, x.dtype)[False]
    saved, _ = saved_tensors(lambda: block(x, context))
    own = {p.untyped_storage().data_ptr() for p in block.parameters()}
    tokens = x.shape[0] * x.shape[1]
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved if t.dtype == torch.bfloat16
    }
    kept = sum(size for address, size in storages.items() if address not in own) / (2 * tokens * x.shape[-1])
    # inputs and outputs of both norms 4, q, k and v 3, attention's output 1, inputs of both LayerScales 2, gate, up
    # and, as the hooks of this test keep it, their product 3; C channels per token, hidden as wide
    assert 13 <= kept < 13.1, kept


@needs_gpu
@families
def test_nothing_waits_for_the_gpu(family):
    model, x = built(family, 'cuda'), torch.randn(2, 3, 80, 112, device='cuda')
    model(x)[0].square().mean().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        with torch.autocast('cuda', torch.bfloat16):
            out = model(torch.cat((x, x)))[0]
        out.float().square().mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def waits(depth):
    """How often the host waits in a packed forward pass of training."""
    arch = dict(embed_dims=64, num_layers=depth, num_heads=2)
    model = VisionLLaMA(arch, drop_path_rate=0.3, out_type='avg_featmap', with_cls_token=False).cuda().train()
    images = [torch.randn(3, *size, device='cuda') for size in ((80, 112), (64, 48))]
    with torch.autocast('cuda', torch.bfloat16), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            model.forward_packed(images)
        finally:
            torch.cuda.set_sync_debug_mode('default')
    return sum('synchroniz' in str(each.message) for each in seen)


@needs_gpu
def test_packed_blocks_do_not_wait():
    """Where the runs are is copied once for all blocks, stochastic depth included."""
    assert waits(5) == waits(2)


@needs_gpu
def test_rms_norm_under_autocast_is_that_of_layer_norm():
    x = torch.randn(2, 5, 64, device='cuda', dtype=torch.bfloat16)
    norms = [build_norm(dict(type=kind), 64).cuda() for kind in ('RMSNorm', 'LN')]
    with torch.autocast('cuda', torch.bfloat16):
        assert [norm(x).dtype for norm in norms] == [torch.float32] * 2
        torch.testing.assert_close(norms[0](x), F.rms_norm(x.float(), (64,)))


@needs_gpu
def test_a_denoising_step_does_not_wait():
    model = DiTLLaMA(dict(embed_dims=64, num_layers=2, num_heads=2)).cuda()
    x, t, y = (
        torch.randn(2, 4, 32, 32, device='cuda'),
        torch.rand(2, device='cuda'),
        torch.zeros(2, device='cuda').long(),
    )
    model(x, t, y).square().mean().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        model(x, t, y).square().mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode('default')


@needs_gpu
@families
def test_cuda_graphs(family):
    model, x = built(family, 'cuda').eval(), torch.randn(2, 3, 80, 112, device='cuda')
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                model(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(x)[0]
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.testing.assert_close(out, model(x)[0], rtol=1e-4, atol=1e-4)


@needs_gpu
@families
def test_compiled_whole_with_dynamic_sizes(family):
    torch._dynamo.reset()
    model = built(family, 'cuda').eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for size in ((64, 64), (80, 112), (96, 64)):
        x = torch.randn(2, 3, *size, device='cuda')
        with torch.no_grad():
            torch.testing.assert_close(compiled(x)[0], model(x)[0], rtol=1e-3, atol=1e-3)


@needs_gpu
@pytest.mark.parametrize('family', ['plain', 'windowed', 'pyramid'])
def test_mixed_sizes_equal_the_images_alone(family):
    model = built(family, 'cuda').eval()
    sizes = [(64, 64), (48, 80)]
    batch = torch.randn(2, 3, 64, 80, device='cuda')
    with torch.no_grad():
        together = model(batch, valid_sizes=sizes)[0]
        for n, (height, width) in enumerate(sizes):
            alone = model(batch[n : n + 1, :, :height, :width])[0]
            mine = together[n : n + 1]
            if mine.ndim == 4:
                mine = mine[..., : alone.shape[-2], : alone.shape[-1]]
            torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-4)


@needs_gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_packed_images_equal_the_images_alone(dtype):
    """In bf16 through torch's variable-length flash attention."""
    model = built('plain', 'cuda').eval().to(dtype)
    pictures = [torch.randn(3, *size, device='cuda', dtype=dtype) for size in ((64, 64), (48, 80), (64, 64), (32, 96))]
    with torch.no_grad():
        packed = model.forward_packed(pictures)[0]
        for n, picture in enumerate(pictures):
            alone = model(picture[None])[0][0]
            tolerance = 1e-4 if dtype == torch.float32 else 5e-2
            torch.testing.assert_close(packed[n], alone, rtol=tolerance, atol=tolerance)


@needs_gpu
@pytest.mark.parametrize('windows', [65535, 65536, 70000])
def test_more_windows_than_a_grid_of_cuda_has(windows):
    from mmvisionllama.layers import AttentionContext, RotaryAttention, RotaryEmbedding

    attention = RotaryAttention(16, 1).cuda().bfloat16().eval()
    rotary = RotaryEmbedding(16)
    context = AttentionContext(rotary(rotary.positions((2, 2), device=torch.device('cuda'))))
    x = torch.randn(windows, 4, 16, device='cuda', dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(attention(x, context)[-5:], attention(x[-5:], context), rtol=3e-2, atol=3e-2)


@needs_gpu
def test_nccl_with_one_process(tmp_path):
    distributed.init_process_group('nccl', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model, x = built('pyramid', 'cuda'), torch.randn(2, 3, 64, 64, device='cuda')
        _, expected = gradients(model, x)
        parallel = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(model))
        loss_of(parallel(x)[0]).backward()
        for parameter, grad in zip(parallel.parameters(), expected):
            if grad is not None:
                assert_gradients_close(parameter.grad, grad)
    finally:
        distributed.destroy_process_group()


@needs_gpu
def test_training_with_loss_scaling_resumes(tmp_path, monkeypatch):
    """fp16 with mmengine's AmpOptimWrapper: the same weights after four steps as after two, saved, and two more."""
    from mmengine.optim import AmpOptimWrapper

    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', True)  # AdamW makes steps of a gradient's last digits

    def start():
        model = built('plain', 'cuda')
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        return model, AmpOptimWrapper(loss_scale='dynamic', dtype='float16', optimizer=optimizer)

    def train(model, wrapper, steps):
        for step in steps:
            torch.manual_seed(step)
            with wrapper.optim_context(model):
                loss = loss_of(model(torch.randn(2, 3, 64, 64, device='cuda'))[0])
            wrapper.update_params(loss)

    whole = start()
    train(*whole, range(4))
    model, wrapper = start()
    train(model, wrapper, range(2))
    torch.save(dict(model=model.state_dict(), wrapper=wrapper.state_dict()), tmp_path / 'state.pth')
    state = torch.load(tmp_path / 'state.pth', weights_only=True)
    model, wrapper = start()
    model.load_state_dict(state['model'])
    wrapper.load_state_dict(state['wrapper'])
    train(model, wrapper, range(2, 4))
    for a, b in zip(model.parameters(), whole[0].parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


#: demo's config -> (library that it needs, function of mmvisionllama.datasets that writes its data)
DEMOS = {
    'mmpretrain/quickstart/vision_llama_digits.py': ('mmpretrain', 'digits.write_digits', 'digits'),
    'mmpretrain/quickstart/vision_llama_digits_packed.py': ('mmpretrain', 'digits.write_digits', 'digits'),
    'mmpretrain/quickstart/pyramid_vision_llama_digits.py': ('mmpretrain', 'digits.write_digits', 'digits'),
    'mmpretrain/quickstart/illama_digits.py': ('mmpretrain', 'digits.write_digits', 'digits'),
    'mmpretrain/quickstart/mae_digits.py': ('mmpretrain', 'digits.write_digits', 'digits'),
    'generation/quickstart/dit_llama_digits.py': ('mmengine', 'digits.write_digits', 'digits'),
    'generation/quickstart/sit_llama_digits.py': ('mmengine', 'digits.write_digits', 'digits'),
    'mmseg/quickstart/pyramid_vision_llama_digit_scenes.py': ('mmseg', 'digit_scenes.write_scenes', 'digit_scenes'),
    'mmdet/quickstart/pyramid_vision_llama_digit_scenes.py': ('mmdet', 'digit_scenes.write_scenes', 'digit_scenes'),
}


@needs_gpu
@pytest.mark.parametrize('config', DEMOS)
def test_a_short_training_of_every_demo(config, tmp_path):
    """Ten seconds in bf16 from the command line, stopped in order, with finite losses and a checkpoint."""
    library, write, folder = DEMOS[config]
    for module in (library, 'sklearn'):
        pytest.importorskip(module)
    if library == 'mmdet' and pytest.importorskip('mmcv.ops').get_compiling_cuda_version() == 'not available':
        pytest.skip("mmcv's operators were compiled for CPUs only")
    module, function = write.split('.')
    write_data = getattr(pytest.importorskip(f'mmvisionllama.datasets.{module}'), function)
    write_data(str(tmp_path / 'data' / folder), *([(60, 8)] if module == 'digit_scenes' else []))
    root = Path(__file__).parents[1]
    command = ['tools/train.py', f'configs/{config}', '--work-dir', tmp_path / 'work', '--stop-after', '10', '--amp']
    command[:2] = [root / command[0], root / command[1]]
    options = ['--cfg-options', 'default_hooks.logger.interval=5']
    done = subprocess.run(
        [sys.executable, *map(str, command), *options], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, 75), done.stdout[-2000:] + done.stderr[-2000:]
    lines = next((tmp_path / 'work').glob('*/vis_data/scalars.json')).read_text().splitlines()
    losses = [row['loss'] for row in map(json.loads, lines) if 'loss' in row]
    assert losses and all(map(math.isfinite, losses))
    assert list((tmp_path / 'work').glob('*.pth'))
