"""The backbone of ViTDet-B on one image of 1024 x 1024 on the CPU: time and peak memory of a forward pass and of a
training step, against a literal implementation that writes its softmax out, without and with activation checkpointing.
"""

from functools import partial

import torch
from harness import arguments, compare, forward_of, gmacs_of, peak_mib_of, results_of, train_step_of, wanted, write_csv
from literal_vitdet import LiteralViTDet

from mmvisionllama.backbones import VisionLLaMA

WINDOWED = (0, 1, 3, 4, 6, 7, 9, 10)

backbone = partial(
    VisionLLaMA,
    'base',
    out_type='featmap',
    final_norm=False,
    with_cls_token=False,
    layer_scale_init_value=0.0,
    window_size=14,
    window_block_indexes=WINDOWED,
)
CONTENDERS = {
    'literal': partial(LiteralViTDet, 768, 12, 12, 2048, WINDOWED),
    'mmvisionllama': backbone,
    'mmvisionllama, checkpointing': partial(backbone, with_cp=True),
}
#: case -> (contenders, call)
CASES = {
    'forward': (('literal', 'mmvisionllama'), forward_of),
    'train step': (('literal', 'mmvisionllama', 'mmvisionllama, checkpointing'), train_step_of),
}


def run(args, case: str) -> list:
    """Rows of one case; memory is what a call holds in tensors beyond weights and input."""
    names, make = CASES[case]
    images = torch.randn(1, 3, args.size, args.size)
    calls = {name: make(CONTENDERS[name](), images) for name in names}
    peaks = {name: peak_mib_of(call) for name, call in calls.items()}  # warms up, too
    gmacs = dict.fromkeys(names, gmacs_of(backbone(), images)) if case == 'forward' else None
    title = f'ViTDet base backbone {args.size} batch 1 {case}'
    return compare(title, calls, rounds=args.rounds, warmup=0, peak_mib=peaks, gmacs=gmacs)


if __name__ == '__main__':
    parser = arguments(__doc__, 'vitdet')
    parser.add_argument('--size', type=int, default=1024, help='side of the image, pixels')
    parser.set_defaults(rounds=3)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [row for case in CASES if wanted(case, args.cases) for row in run(args, case)]
    write_csv(results_of(args), rows, args.append)
