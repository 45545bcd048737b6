"""The autograd functions of layers/kernels.py against their formulas: a training step's time and peak memory.

Contenders are the formulas alone, the rotation's functions alone, the gate's alone, and both. Memory is the growth
of the largest resident size of a process of its own during one step (gradients are there before).
"""

import subprocess
import sys
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from harness import arguments, compare, results_of, train_step_of, wanted, write_csv

from mmvisionllama.backbones import PyramidVisionLLaMA, VisionLLaMA
from mmvisionllama.layers import kernels

MODELS = {
    'plain small 224 batch 4': (lambda: VisionLLaMA('small'), (4, 3, 224, 224)),
    'plain base 224 batch 4': (lambda: VisionLLaMA('base'), (4, 3, 224, 224)),
    'pyramid small 224 batch 4': (lambda: PyramidVisionLLaMA('small'), (4, 3, 224, 224)),
}
#: contender -> (rotation, gate)
CONTENDERS = {'formulas': (False, False), 'rotation': (True, False), 'gate': (False, True), 'both': (True, True)}


@contextmanager
def only(rotation: bool, gate: bool):
    """Switches one kind of function off and leaves the other."""
    off = {} if rotation else {'can_rotate': lambda *args: False}
    if not gate:
        off['can_gate'] = lambda: False
    with mock.patch.multiple(kernels, **off) if off else nullcontext():
        yield


def largest_resident_mib() -> float:
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith('VmHWM'))


def measure_memory(case: str, contender: str) -> None:
    """Prints the growth in MiB; runs in a process of its own."""
    torch.manual_seed(0)
    build, shape = MODELS[case]
    model, images = build(), torch.rand(shape)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = largest_resident_mib()
    with only(*CONTENDERS[contender]):
        model(images)[0].square().mean().backward()
    print(largest_resident_mib() - before)


def peak_mib(case: str, contender: str, threads: int) -> float:
    command = [sys.executable, __file__, '--memory', case, contender, '--threads', str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = arguments(__doc__, 'kernels')
    parser.add_argument('--memory', nargs=2, metavar=('CASE', 'CONTENDER'), help='one measurement of memory, printed')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory:
        measure_memory(*args.memory)
        return
    rows = []
    for case, (build, shape) in MODELS.items():
        if not wanted(case, args.cases):
            continue
        torch.manual_seed(0)
        step = train_step_of(build(), torch.rand(shape))

        def call(switches, step=step):
            with only(*switches):
                step()

        calls = {name: lambda switches=switches, call=call: call(switches) for name, switches in CONTENDERS.items()}
        memory = {name: peak_mib(case, name, torch.get_num_threads()) for name in CONTENDERS}
        rows += compare(f'{case} training step', calls, rounds=args.rounds, peak_mib=memory)
    write_csv(results_of(args), rows, args.append)


if __name__ == '__main__':
    main()
