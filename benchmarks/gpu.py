"""Everything that is measured on a GPU, in one command: ``make bench-gpu``.

    python benchmarks/gpu.py [--budget SECONDS] [--cases WORD ...] [--tiny --device cpu]

First the peaks of the card (a bf16 matrix product, a copy in its memory), then models under bf16 autocast, attention
kernels at 18 shapes, and what ``torch.compile`` makes of the models. Rows are written after each case; what the budget
does not reach is listed. ``--tiny`` runs every case at a toy size, to show that the script works.
"""

import argparse
import contextlib
import csv
import gc
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
from gpu_cases import Case, cases, images
from harness import COLUMNS, RESULTS, compare, peak_mib_of, wanted
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmvisionllama.errors import OptionError
from mmvisionllama.layers import ATTENTION_BACKENDS, attend, use_kernels

FIELDS = (*COLUMNS, 'peak_fraction')
TABLE_COLUMNS = ['capability', 'dtype', 'head_dim', 'tokens', 'training', 'backend']
#: tokens of the shapes with 12 heads of 64 channels, about 32,768 tokens a batch
TOKENS = (49, 196, 197, 256, 400, 577, 785, 1024, 1025, 1600, 2304, 3136, 4096, 6400, 9216, 16384)
#: (tokens, heads, head dim): those, and windows of the pyramids and other small head dims
SHAPES = (*((tokens, 12, 64) for tokens in TOKENS), (49, 4, 32), (196, 12, 32))
#: seconds of the budget that a compiled case wants to find: it compiles each contender for each work
COMPILING = 150
#: a kernel must be this much faster than torch's own choice to take its place in the table of 'auto'
MARGIN = 0.97


class Report:
    """Rows as they come, in a CSV file and a table in Markdown; those of cases that are not measured stay."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        card = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'
        self.card = card
        name = 'gpu_' + ''.join(c if c.isalnum() else '_' for c in card.lower())
        folder.mkdir(parents=True, exist_ok=True)
        self.csv, self.markdown = folder / f'{name}.csv', folder / f'{name}.md'
        self.rows: List[dict] = []
        self.earlier: List[dict] = []
        with contextlib.suppress(FileNotFoundError), open(self.csv, newline='') as file:
            self.earlier = list(csv.DictReader(file))
        self.peak = 0.0  # TFLOP/s
        self.notes: List[str] = []
        self.fastest: Dict[Tuple[int, int, bool], str] = {}  # (head dim, tokens, training) -> backend

    def add(self, rows: List[dict]) -> None:
        for row in rows:
            if row.get('gmacs') and self.peak:
                row['peak_fraction'] = f'{2e-3 * float(row["gmacs"]) / float(row["median_s"]) / self.peak:.3f}'
        self.rows += rows  # a case may come in several parts
        measured = {row['case'] for row in rows}
        self.earlier = [row for row in self.earlier if row['case'] not in measured]
        self.write()

    def write(self) -> None:
        with open(self.csv, 'w', newline='') as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.earlier + self.rows)
        lines = [f'# {self.card}', '', 'Made by `make bench-gpu`; do not edit.', '']
        runs = {(row['torch'], row['date'], row['command']): None for row in self.earlier + self.rows}
        for torch_version, date, command in runs:
            lines += [f'torch {torch_version}, bf16 autocast, {date}. Command: `{command}`', '']
        lines += [f'- {note}' for note in self.notes]
        lines += ['', '| case | contender | ms | ratio | of the peak | peak memory, MiB |', '|---|---|---|---|---|---|']
        for row in self.earlier + self.rows:
            cells = (
                row['case'],
                row['contender'],
                f'{1e3 * float(row["median_s"]):.2f}',
                f'{row["ratio"]} ({row["ratio_low"]} - {row["ratio_high"]})',
                row.get('peak_fraction', ''),
                row.get('peak_mib', ''),
            )
            lines.append('| ' + ' | '.join(cells) + ' |')
        self.markdown.write_text('\n'.join(lines) + '\n')


def measure_peaks(report: Report, device: torch.device, tiny: bool) -> None:
    """Peaks of matrix products and of memory, as notes."""
    side, size = (64, 2**16) if tiny else (8192, 2**31)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.empty(size, device=device, dtype=torch.uint8) for _ in range(2))
    calls = {'product': lambda: a @ b, 'copy': lambda: target.copy_(source)}
    rows = compare('peaks', calls, rounds=3 if tiny else 20, device=device, dtype='bfloat16')
    report.add(rows)
    product, copy = (float(row['median_s']) or 1e-9 for row in rows)
    report.peak = 2e-12 * side**3 / product
    report.notes += [
        f'Matrix product {side} x {side} x {side} in bf16: {report.peak:.0f} TFLOP/s, the peak of the table.',
        f'Copy in memory, bytes read and written: {2e-9 * size / copy:.0f} GB/s.',
    ]


def call_of(model: nn.Module, inputs: tuple, work: str, device: torch.device) -> Callable[[], object]:
    """One training step (without the optimizer) or one forward pass, under bf16 autocast."""
    training = work == 'training step'

    def call() -> None:
        model.train(training)
        model.zero_grad(set_to_none=True)
        with torch.inference_mode(not training):
            with torch.autocast(device.type, torch.bfloat16):
                out = model(*inputs)
            out = out[0] if isinstance(out, (tuple, list)) else out
            if training:
                out.float().square().mean().backward()

    return call


def gmacs_of(model: nn.Module, inputs: tuple) -> float:
    """GMACs of one forward pass; on CPUs without attention, which torch's counter does not know there."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(*inputs)
    return counter.get_total_flops() / 2e9


def with_formulas(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with use_kernels(False):
            call()

    return run


def run_case(case: Case, report: Report, args, device: torch.device) -> None:
    """Rows of a case, one work after another."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    batch, size = (2, (32, 32)) if args.tiny else (case.batch, case.size)
    inputs = (case.inputs or images)(batch, size, device)
    models = {name: make(args.tiny).to(device) for name, make in case.contenders.items()}
    with torch.autocast(device.type, torch.bfloat16):
        gmacs = {name: gmacs_of(model, inputs) for name, model in models.items()}
    backend = 'eager' if args.tiny else 'inductor'
    run = {name: torch.compile(model, backend=backend) if case.compiled else model for name, model in models.items()}
    for work in case.works:
        calls = {name: call_of(model, inputs, work, device) for name, model in run.items()}
        macs = {name: gmacs[name] * (3 if work == 'training step' else 1) for name in calls}
        if case.formulas and not case.compiled:
            last = list(calls)[-1]
            calls[f'{last}, kernels off'] = with_formulas(calls[last])
            macs[f'{last}, kernels off'] = macs[last]
        peaks = {name: peak_mib_of(call, device) for name, call in calls.items()}
        title = f'{case.name} {size[0]}x{size[1]} batch {batch} {work}{", compiled" if case.compiled else ""}'
        report.add(
            compare(
                title,
                calls,
                rounds=1 if args.tiny else args.rounds,
                warmup=0 if args.tiny else 3,
                device=device,
                dtype='bfloat16',
                gmacs=macs,
                peak_mib=peaks,
            )
        )


def run_attention(shape: Tuple[int, int, int], report: Report, args, device: torch.device) -> None:
    """Every backend at one shape that runs there; ``'auto'`` goes through the search that models go through."""
    tokens, heads, dims = shape
    batch = 1 if args.tiny else max(32768 // tokens, 1)
    tokens = min(tokens, 32) if args.tiny else tokens
    # as attention gets them: (B, N, h, d) behind a transpose
    q, k, v = torch.randn(3, batch, tokens, heads, dims, device=device, dtype=torch.bfloat16).transpose(2, 3).unbind(0)
    q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
    grad = torch.randn_like(q)

    def of(backend: str, training: bool) -> Callable[[], object]:
        def call() -> None:
            with torch.set_grad_enabled(training):
                out = attend(q, k, v, backend=backend)
                if training:
                    torch.autograd.grad(out, (q, k, v), grad)

        return call

    for training in (False, True):
        calls: Dict[str, Callable[[], object]] = {}
        for name in ('sdpa', 'auto', *(name for name in ATTENTION_BACKENDS if name not in ('eager', 'sdpa'))):
            call = of(name, training)
            try:
                call()
            except (OptionError, RuntimeError):  # not installed, or not on this device
                continue
            calls[name] = call
        title = f'attention {batch} x {heads} x {tokens} x {dims} {"forward and backward" if training else "forward"}'
        macs = dict.fromkeys(calls, 2 * batch * heads * tokens**2 * dims / 1e9 * (3.5 if training else 1))
        rounds = 1 if args.tiny else 2 * args.rounds
        rows = compare(title, calls, rounds=rounds, warmup=3, device=device, dtype='bfloat16', gmacs=macs)
        report.add(rows)
        ratios = {row['contender']: float(row['ratio']) for row in rows if row['contender'] != 'auto'}
        best = min(ratios, key=ratios.get)
        report.fastest[dims, shape[0], training] = best if ratios[best] < MARGIN else 'sdpa'


def write_table(path: Path, fastest: Dict[Tuple[int, int, bool], str], device: torch.device) -> None:
    """Replaces this card's rows in the table of ``'auto'``."""
    capability = '.'.join(map(str, torch.cuda.get_device_capability(device) if device.type == 'cuda' else (0, 0)))
    rows = list(csv.reader(path.read_text().splitlines())) if path.exists() else [TABLE_COLUMNS]
    mine = [[capability, 'bfloat16', *map(str, map(int, key)), name] for key, name in fastest.items()]
    replaced = {tuple(row[:-1]) for row in mine}
    with open(path, 'w', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows([row for row in rows if tuple(row[:-1]) not in replaced] + mine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder of the CSV file and the table')
    parser.add_argument('--table', type=Path, help="table of 'auto' whose rows of this card are replaced")
    parser.add_argument(
        '--budget',
        type=float,
        default=540,
        help='seconds after which no case is begun; compiled ones need some of them',
    )
    parser.add_argument('--rounds', type=int, default=9, help='measured rounds of each case')
    parser.add_argument('--cases', nargs='*', help='only cases whose name contains one of these words')
    parser.add_argument('--device', default='cuda', help='cuda, or cpu with --tiny')
    parser.add_argument('--tiny', action='store_true', help='toy sizes')
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        sys.exit(
            'error: no GPU that torch can use: `make doctor` says why; --device cpu --tiny runs toy sizes without one'
        )
    begun = time.monotonic()
    report = Report(args.out, device)
    measure_peaks(report, device, args.tiny)
    work = [(case.name + (' compiled' if case.compiled else ''), run_case, case) for case in cases()]
    eager = sum(not case.compiled for case in cases())
    work[eager:eager] = [(f'attention {shape[0]} x {shape[2]}', run_attention, shape) for shape in SHAPES]
    for name, run, what in work:
        if not wanted(name, args.cases):
            continue
        wants = COMPILING if isinstance(what, Case) and what.compiled else 0
        if time.monotonic() - begun > args.budget - wants:
            report.notes.append(f'Not measured, the time was up: {name}.')
            continue
        try:
            run(what, report, args, device)
        except Exception as error:  # one case, not the rest
            report.notes.append(
                f'Not measured: {name} ({type(error).__name__}: {(str(error).splitlines() or [""])[0]}).'
            )
        if args.table and run is run_attention:  # at once: a run may be killed later
            write_table(args.table, report.fastest, device)
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()
    report.write()
    print('\n'.join(report.notes))
    print(f'{len(report.rows)} rows in {report.csv} and {report.markdown}, {time.monotonic() - begun:.0f} s')


if __name__ == '__main__':
    main()
