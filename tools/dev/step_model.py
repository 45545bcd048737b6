#!/usr/bin/env python
"""Predicts the time of a training step on many GPUs, and checks the arithmetic on processes of this machine.

    python tools/dev/step_model.py                                       # the table of docs/scaling.md
    python tools/dev/step_model.py --check benchmarks/results/scaling_cpu.csv   # 1, 2 and 4 processes, measured

A step is between two bounds: communication wholly hidden behind computing, and not hidden at all. The computing time
of one GPU is measured (benchmarks/results/gpu_nvidia_h200.csv); bytes are arithmetic; link speeds are assumptions about
the machines. The check predicts 2 and 4 processes from one alone and from the speed of an all-reduce between two.
"""

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import torch
from processes import start, wait
from scaling_model import parameters
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mmvisionllama.backbones import VisionLLaMA

MEASURED = Path('benchmarks/results/gpu_nvidia_h200.csv')
#: case of the benchmark -> config whose parameters are trained
MODELS = {
    'plain B 224x224 batch 128': 'mmpretrain/vision_llama/visionllama-base-p16_8xb64-20e_in1k.py',
    'plain L 224x224 batch 64': 'mmpretrain/vision_llama/visionllama-large-p16_8xb64-20e_in1k.py',
    'DiT-LLaMA XL/2 32x32 batch 32': 'generation/dit_llama/dit-llama-xl-2_8xb32-2352k_imagenet-256.py',
}
#: GPUs -> bytes per second that each sends over its slowest link: NVLink 4 inside a machine of 8, 400 Gb/s per GPU
#: between machines, nominal, times what is assumed to be reached
LINKS = {8: 450e9 * 0.8, 64: 50e9 * 0.8, 512: 50e9 * 0.8}
CHECKED = (1, 2, 4)
ROUNDS, WARMUP = 12, 3


def ring_seconds(size: float, processes: int, speed: float) -> float:
    """Time of an all-reduce of ``size`` bytes in a ring: each process sends 2 (n - 1) / n of them."""
    return 2 * (processes - 1) / processes * size / speed


def bounds(compute: float, communication: float) -> Tuple[float, float]:
    """Seconds of a step: everything hidden that can be, and nothing."""
    return max(compute, communication), compute + communication


def measured_steps() -> Dict[str, float]:
    """Seconds of a training step of one GPU, eager, by case."""
    with open(MEASURED) as file:
        rows = [row for row in csv.DictReader(file) if row['contender'] == 'mmvisionllama']
    end = ' training step'
    return {row['case'][: -len(end)]: float(row['median_s']) for row in rows if row['case'].endswith(end)}


def table() -> Iterator[str]:
    """Lines of the table."""
    yield '| model, images per GPU | GPUs | computing, ms | sending, ms | step, ms | efficiency |'
    yield '|---|---|---|---|---|---|'
    steps = measured_steps()
    for case, config in MODELS.items():
        size, compute = 4 * parameters(f'configs/{config}'), steps[case]
        for gpus, speed in LINKS.items():
            sending = ring_seconds(size, gpus, speed)
            low, high = bounds(compute, sending)
            cells = [f'{1e3 * compute:.0f}', f'{1e3 * sending:.0f}', f'{1e3 * low:.0f} to {1e3 * high:.0f}']
            yield f'| {case} | {gpus} | ' + ' | '.join(cells) + f' | {compute / high:.0%} to {compute / low:.0%} |'


def small_model() -> torch.nn.Module:
    """5 million parameters: enough for the all-reduce to be seen."""
    torch.manual_seed(0)
    return VisionLLaMA(dict(embed_dims=256, num_layers=6, num_heads=4), img_size=96, anchor=96, patch_size=16)


def median_of(run, synchronise: bool) -> float:
    """Median seconds of a call; all processes begin it together."""
    times = []
    for _ in range(WARMUP + ROUNDS):
        if synchronise:
            distributed.barrier()
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[WARMUP:])


def measure(out: Path, images: int) -> None:
    """In each process: computing alone, all processes at once; the all-reduce; the step."""
    count = int(os.environ['WORLD_SIZE'])
    if count > 1:
        distributed.init_process_group('gloo')
    model = small_model()
    batch = torch.rand(images, 3, 96, 96)

    def step_of(network):
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

        def step() -> None:
            network(batch)[-1].square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    compute = median_of(step_of(model), count > 1)
    size = sum(parameter.numel() for parameter in model.parameters())
    reduce_time, step = 0.0, compute
    if count > 1:
        whole = torch.zeros(size)
        reduce_time = median_of(lambda: distributed.all_reduce(whole), True)
        step = median_of(step_of(DistributedDataParallel(model, broadcast_buffers=False)), True)
    if os.environ['RANK'] == '0':
        out.write_text(f'{size} {compute} {reduce_time} {step}')


def check(out: Path, images: int) -> None:
    """Predicts 2 and 4 processes from one, and from the all-reduce of two."""
    raw, found = out.with_suffix('.part'), {}
    for count in CHECKED:
        if any(wait(start(lambda: measure(raw, images), count))):
            sys.exit(f'ERROR: measuring {count} processes failed: see the error above')
        found[count] = tuple(map(float, raw.read_text().split()))
    raw.unlink()
    size, alone, _, _ = found[1]
    speed = ring_seconds(4 * size, 2, 1.0) / found[2][2]
    rows = []
    for count, (_, compute, reduce_time, step) in found.items():
        predicted_compute = alone * max(1.0, count / (os.cpu_count() or 1))
        low, high = bounds(predicted_compute, ring_seconds(4 * size, count, speed) if count > 1 else 0.0)
        rows.append(
            dict(
                processes=count,
                parameters=int(size),
                images=images,
                compute_s=f'{compute:.4f}',
                all_reduce_s=f'{reduce_time:.4f}',
                step_s=f'{step:.4f}',
                predicted_low_s=f'{low:.4f}',
                predicted_high_s=f'{high:.4f}',
                error=f'{max(low - step, step - high, 0.0) / step:.3f}',
                cores=os.cpu_count(),
                torch=torch.__version__,
                machine=f'{platform.machine()} {platform.system()}',
                date=time.strftime('%Y-%m-%d'),
                command=f'python tools/dev/step_model.py --check {out}',
            )
        )
    with open(out, 'w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print({key: row[key] for key in ('processes', 'step_s', 'predicted_low_s', 'predicted_high_s', 'error')})


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description='Predict the time of a training step')
    parser.add_argument('--check', type=Path, metavar='CSV', help='measure processes of this machine instead')
    parser.add_argument('--images', type=int, default=4, help='per process, in the check')
    args = parser.parse_args(argv)
    if args.check:
        check(args.check, args.images)
    else:
        print(*table(), sep='\n')


if __name__ == '__main__':
    main()
