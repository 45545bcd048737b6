"""Paired timing: contenders run in alternation in one process, and the ratio is the median of the paired ratios.

A workload script builds contenders, calls :func:`compare` once per case and writes the rows with :func:`write_csv`.
"""

import argparse
import copy
import csv
import datetime
import importlib.metadata
import itertools
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import torch
from torch import nn

RESULTS = Path(__file__).parent / 'results'
# fmt: off
COLUMNS = (
    'case', 'contender', 'reference', 'median_s', 'reference_median_s', 'ratio', 'ratio_low', 'ratio_high',
    'rounds', 'gmacs', 'gmacs_reference', 'ratio_per_mac', 'peak_mib', 'device', 'dtype', 'threads', 'torch',
    'versions', 'machine', 'date', 'command',
)
# fmt: on


def machine(device: torch.device) -> str:
    """Name of the card, or of the processor with its core count."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as file:
            name = next((line.split(':', 1)[1].strip() for line in file if line.startswith('model name')), name)
    return f'{name}, {os.cpu_count()} cores'


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, the device's queue included."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def compare(
    case: str,
    contenders: Dict[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    device: Optional[torch.device] = None,
    dtype: str = 'float32',
    gmacs: Optional[Dict[str, float]] = None,
    peak_mib: Optional[Dict[str, float]] = None,
    packages: tuple = (),
    pause: float = 0.0,
) -> List[dict]:
    """Times the contenders in alternation; the first is the reference of the ratios.

    Args:
        case: Name of the case.
        contenders: Name to a call that does one unit of work.
        rounds: Measured rounds; each runs every contender once, the order turning from round to round.
        warmup: Rounds before that.
        device: Device whose queue is waited for.
        dtype: Reported only.
        gmacs: GMACs of one unit of work, for the ratio per MAC.
        peak_mib: Peak memory of each contender if it was measured.
        packages: Distributions whose versions belong to the result.
        pause: Seconds of rest before each call: idle threads of one runtime spin for a while and slow down the next.

    Returns:
        list: One row (dict of ``COLUMNS``) per contender.
    """
    device = device or torch.device('cpu')
    names = list(contenders)
    times: Dict[str, List[float]] = {name: [] for name in names}
    for i in range(warmup + rounds):
        turned = names[i % len(names) :] + names[: i % len(names)]
        for name in turned:
            time.sleep(pause)
            elapsed = seconds(contenders[name], device)
            if i >= warmup:
                times[name].append(elapsed)
        print(f'\r{case}: round {max(i + 1 - warmup, 0)}/{rounds}', end='', file=sys.stderr, flush=True)
    print(file=sys.stderr)
    reference = names[0]
    versions = ' '.join(f'{name}={importlib.metadata.version(name)}' for name in packages)
    rows = []
    for name in names:
        ratios = sorted(a / b for a, b in zip(times[name], times[reference]))
        ratio = statistics.median(ratios)
        row = dict(
            case=case,
            contender=name,
            reference=reference,
            median_s=f'{statistics.median(times[name]):.7f}',
            reference_median_s=f'{statistics.median(times[reference]):.7f}',
            ratio=f'{ratio:.3f}',
            ratio_low=f'{ratios[len(ratios) // 4]:.3f}',
            ratio_high=f'{ratios[(3 * len(ratios)) // 4]:.3f}',
            rounds=rounds,
            device=device.type,
            dtype=dtype,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            versions=versions,
            machine=machine(device),
            date=datetime.date.today().isoformat(),
            command=shlex.join(['python', *sys.argv]),
        )
        if gmacs:
            row.update(
                gmacs=f'{gmacs[name]:.3f}',
                gmacs_reference=f'{gmacs[reference]:.3f}',
                ratio_per_mac=f'{ratio * gmacs[reference] / gmacs[name]:.3f}',
            )
        if peak_mib:
            row['peak_mib'] = f'{peak_mib[name]:.0f}'
        rows.append(row)
        per_mac = f', {row["ratio_per_mac"]} per MAC' if gmacs else ''
        print(f'  {name:<24} {float(row["median_s"]) * 1e3:9.1f} ms  {row["ratio"]}x{per_mac}', flush=True)
    return rows


def write_csv(path: Path, rows: List[dict], append: bool = False, more: Sequence[str] = ()) -> None:
    """Writes the rows under the common header and ``more``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    append = append and path.exists()
    with open(path, 'a' if append else 'w', newline='') as file:
        writer = csv.DictWriter(file, (*COLUMNS, *more))
        if not append:
            writer.writeheader()
        writer.writerows(rows)
    print(f'results in {path}')


def forward_of(model: nn.Module, *inputs: torch.Tensor) -> Callable[[], object]:
    """One evaluation-mode forward pass without gradients."""
    model.eval()

    def call():
        with torch.inference_mode():
            return model(*inputs)

    return call


def train_step_of(model: nn.Module, *inputs: torch.Tensor) -> Callable[[], object]:
    """Forward and backward pass of the sum of squares of the (first) output."""
    model.train()

    def call():
        model.zero_grad(set_to_none=True)
        out = model(*inputs)
        out = out[0] if isinstance(out, (tuple, list)) else out
        out.float().square().mean().backward()

    return call


def gmacs_of(model: nn.Module, *inputs: torch.Tensor) -> float:
    """GMACs of one forward pass by torch's own counter, on the meta device: it misses the CPU's attention kernel."""
    from torch.utils.flop_counter import FlopCounterMode

    model = copy.deepcopy(model).to('meta').eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*(x.to('meta') for x in inputs))
    return counter.get_total_flops() / 2e9


def peak_mib_of(call: Callable[[], object], device: Optional[torch.device] = None) -> float:
    """Peak MiB that one call holds in tensors, beyond what was there before it (weights, input)."""
    call()
    if device is not None and device.type == 'cuda':
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == '[memory]']
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held, default=0) / 2**20


def arguments(description: str, name: str, gpu: bool = False) -> argparse.ArgumentParser:
    """The options that every workload has, and ``--device`` for those that a GPU can run."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.set_defaults(name=name, device='cpu')
    parser.add_argument('--out', type=Path, help=f'CSV file to write, without it {RESULTS}/{name}_DEVICE.csv')
    parser.add_argument('--append', action='store_true', help='keep the rows that are there')
    parser.add_argument('--rounds', type=int, default=9, help='measured rounds of each case')
    parser.add_argument('--cases', nargs='*', help='only cases whose name contains one of these words')
    parser.add_argument('--threads', type=int, default=0, help="torch's threads, 0 for its default")
    if gpu:
        parser.add_argument('--device', choices=('cpu', 'cuda'), help='where to measure')
    return parser


def results_of(args: argparse.Namespace) -> Path:
    """The CSV file of a workload's options."""
    return args.out or RESULTS / f'{args.name}_{args.device}.csv'


def wanted(case: str, words: Optional[List[str]]) -> bool:
    """Whether ``--cases`` selects the case."""
    return not words or any(word in case for word in words)
