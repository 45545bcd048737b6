"""What the study runs: arms, seeds, rates and sizes. docs/study.md says why; it was written before any of its runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'mmpretrain' / 'study'
LOGS = ROOT / 'docs' / 'results' / 'study'


@dataclass(frozen=True)
class Arm:
    """A config, and the variants of its positions that its weights are tested with (see resolution_transfer).

    Pre-trained weights are fine-tuned as ``fine_tuned``, an arm of CIFAR-10, is trained from scratch.
    """

    config: str
    variants: Tuple[str, ...] = ()
    fine_tuned: Optional[str] = None


@dataclass(frozen=True)
class Part:
    """A data set, and what is trained on it.

    ``options`` go to every run's config, ``tuning`` to those that choose the learning rate as well. The first
    ``train_tenths`` of every ten images are trained on; every ``test_every``-th serves during training and at other
    sizes. ``prepare`` names the function of files.py that makes the files which trainings read.
    """

    arms: Dict[str, Arm]
    reference: str
    seeds: Tuple[int, ...]
    rates: Tuple[float, ...]
    sizes: Tuple[object, ...]
    options: Dict[str, object] = field(default_factory=dict)
    tuning: Dict[str, object] = field(default_factory=dict)
    train_tenths: int = 10
    test_every: int = 1
    prepare: Optional[str] = None
    kind: str = 'classification'  # or 'detection', 'generation', 'pretraining'
    gpu: bool = False  # not run unless it is named; the others never see a GPU


#: one thread and no workers: the same machine gives the same numbers, and random streams do not depend on the arm
SERIAL = {
    f'{split}_dataloader.{key}': value
    for split in ('train', 'val', 'test')
    for key, value in (('num_workers', 0), ('persistent_workers', False))
}


def epochs(number: int, warmup: float, val_interval: int) -> Dict[str, object]:
    """The schedule of another length."""
    return {
        'train_cfg.max_epochs': number,
        'train_cfg.val_interval': val_interval,
        'param_scheduler.0.end': warmup,
        'param_scheduler.1.begin': warmup,
        'param_scheduler.1.end': number,
    }


def more_labels(tenths: int, options: Dict[str, object], tuning: Dict[str, object]) -> Part:
    """Few labels' comparison with more of them, against the ViT that tuning found the better there."""
    return Part(
        arms={
            'visionllama': Arm('visionllama-micro_cifar10.py', ('as2d', '2d')),
            'vit_deit_init': Arm('vit-micro-deit-init_cifar10.py', ('config',)),
        },
        reference='vit_deit_init',
        seeds=(0, 1, 2),
        rates=(3e-4, 1e-3, 3e-3),
        sizes=(24, 32, 48, 64),
        options={**SERIAL, **options, 'default_hooks.checkpoint.interval': 1},
        tuning=tuning,
        train_tenths=tenths,
        test_every=5,
    )


#: what the two parts on generation share
GENERATION = dict(
    kind='generation',
    seeds=(0, 1, 2),
    rates=(5e-4, 1e-3, 2e-3),
    sizes=(),
    options={
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_cfg.max_iters': 2000,
        'default_hooks.checkpoint.interval': 250,
    },
    tuning={'train_cfg.max_iters': 500, 'default_hooks.checkpoint.interval': 500},
    test_every=5,
    prepare='split_cifar10',
)

PARTS = {
    'grocery': Part(
        arms={
            'axial': Arm(
                'visionllama-micro_grocery.py',
                ('as2d', '2d', 'as2d+log_n', 'as2d+inverse_log_n'),
            ),
            'vit': Arm('vit-micro_grocery.py', ('config',)),
            'golden': Arm('visionllama-micro-golden_grocery.py', ('as2d',)),
            'mixed': Arm('visionllama-micro-mixed_grocery.py', ('as2d',)),
            'augmented': Arm('visionllama-micro-augmented_grocery.py', ('as2d',)),
        },
        reference='axial',
        seeds=(0, 1, 2),
        rates=(1e-3, 3e-3),
        sizes=(36, 72, 108, 144, 216, 348, (72, 144), (144, 72)),
        options={
            **SERIAL,
            **epochs(24, 2, 8),
            'train_dataloader.dataset.data_prefix': 'train_128',
            'default_hooks.checkpoint.interval': 4,
        },
        tuning=epochs(8, 1, 8),
        test_every=4,
        prepare='reduce_grocery',
    ),
    'digits': Part(
        arms={
            'axial': Arm(
                '../quickstart/vision_llama_digits.py',
                ('as2d', '2d', 'as2d+log_n', 'as2d+inverse_log_n'),
            ),
            'vit': Arm('vit_digits.py', ('config',)),
            'golden': Arm('vision_llama_digits_golden.py', ('as2d',)),
            'mixed': Arm('vision_llama_digits_mixed.py', ('as2d',)),
            'augmented': Arm('vision_llama_digits_augmented.py', ('as2d',)),
        },
        reference='axial',
        seeds=(0, 1, 2),
        rates=(1e-3, 2e-3, 4e-3),
        sizes=(16, 24, 32, 48, 64, 96, 144, (32, 64), (64, 32)),
        options={**SERIAL, 'train_cfg.max_epochs': 18, 'train_cfg.val_interval': 3},
        tuning=epochs(9, 2, 9),
        prepare='make_digits',
    ),
    'pyramid': Part(
        arms={
            'calibrated': Arm('pyramid-visionllama-micro_grocery.py', ('as2d', '2d')),
            # its as2d would be the release's, which scales by 14 / H
            'flat_index': Arm('pyramid-visionllama-micro-flat-index_grocery.py', ('config', '2d')),
            'twins': Arm('twins-micro_grocery.py', ('config',)),
        },
        reference='calibrated',
        seeds=(0, 1, 2),
        rates=(1e-3, 3e-3, 6e-3),
        sizes=(36, 72, 108, 144, 216, 348, (72, 144), (144, 72)),
        options={
            **SERIAL,
            **epochs(24, 2, 4),
            'train_dataloader.dataset.data_prefix': 'train_128',
            'default_hooks.checkpoint.interval': 4,
        },
        tuning=epochs(8, 1, 8),
        test_every=4,
        prepare='reduce_grocery',
    ),
    'cifar10': Part(
        arms={
            'visionllama': Arm('visionllama-micro_cifar10.py', ('as2d', '2d')),
            'vit': Arm('vit-micro_cifar10.py', ('config',)),
            'vit_deit_init': Arm('vit-micro-deit-init_cifar10.py', ('config',)),
        },
        reference='vit',
        seeds=(0, 1, 2),
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 6e-3),
        sizes=(24, 32, 48, 64),
        options={**SERIAL, **epochs(20, 2, 2), 'default_hooks.checkpoint.interval': 4},
        tuning=epochs(6, 1, 6),
        train_tenths=1,
        test_every=5,
    ),
    'cifar10_30': more_labels(3, epochs(20, 2, 2), epochs(6, 1, 6)),
    'cifar10_100': more_labels(10, epochs(10, 1, 1), epochs(2, 0.5, 2)),
    'cifar10_gpu': Part(
        arms={
            'visionllama': Arm('visionllama-tiny_cifar10.py', ('as2d', '2d')),
            'vit': Arm('vit-tiny_cifar10.py', ('config',)),
        },
        reference='vit',
        seeds=(0, 1, 2),
        rates=(5e-4, 1e-3, 2e-3),
        sizes=(24, 32, 48, 64),
        options={'train_dataloader.num_workers': 5},  # of 16 cores, for three jobs at once
        tuning=epochs(8, 1, 8),
        test_every=5,
        gpu=True,
    ),
    'nuclei': Part(
        arms={
            'pyramid': Arm('../../mmdet/study/mask-rcnn_pyramid-visionllama-micro_nuclei.py', ('as2d', '2d')),
            'swin': Arm('../../mmdet/study/mask-rcnn_swin-micro_nuclei.py', ('config',)),
            'resnet': Arm('../../mmdet/study/mask-rcnn_resnet18-micro_nuclei.py', ('config',)),
        },
        reference='pyramid',
        seeds=(0, 1, 2),
        rates=(5e-4, 1e-3, 2e-3, 4e-3),
        sizes=(0.5, 1, 1.5, 2),
        options=SERIAL,
        tuning=epochs(4, 1, 4),
        prepare='split_nuclei',
        kind='detection',
    ),
    'mae': Part(
        arms={
            'paper': Arm('mae_visionllama-micro_cifar10.py', fine_tuned='visionllama'),
            'wide_2_blocks': Arm('mae_visionllama-micro-wide-2-blocks_cifar10.py', fine_tuned='visionllama'),
            'vit': Arm('mae_vit-micro_cifar10.py', fine_tuned='vit_deit_init'),
        },
        reference='paper',
        seeds=(0, 1, 2),
        rates=(1e-3, 2e-3, 4e-3, 8e-3),
        sizes=(),
        options={'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False},
        tuning={
            'train_cfg.max_epochs': 2,
            'param_scheduler.0.end': 0.5,
            'param_scheduler.1.begin': 0.5,
            'param_scheduler.1.end': 2,
        },
        kind='pretraining',
    ),
    'dit': Part(
        arms={
            'dit': Arm('../../generation/study/dit-micro_cifar10.py'),
            'dit_llama': Arm('../../generation/study/dit-llama-micro_cifar10.py'),
        },
        reference='dit',
        **GENERATION,
    ),
    'sit': Part(
        arms={
            'sit': Arm('../../generation/study/sit-micro_cifar10.py'),
            'sit_llama': Arm('../../generation/study/sit-llama-micro_cifar10.py'),
        },
        reference='sit',
        **GENERATION,
    ),
}


@dataclass(frozen=True)
class Job:
    """One training, and the file of its log."""

    part: str
    arm: str
    seed: int
    rate: Optional[float] = None  # None: the one that tuning chose

    @property
    def name(self) -> str:
        what = f'seed{self.seed}' if self.rate is None else f'lr{self.rate:g}'
        return f'{self.part}/{"tuning/" if self.rate is not None else ""}{self.arm}_{what}'

    @property
    def log(self) -> Path:
        return LOGS / f'{self.name}.jsonl'

    @property
    def cost(self) -> float:
        """Time against that of other jobs; measured once on a 2-core machine, for the time left alone."""
        return 1.0 if self.rate is not None else 3.0 + 0.7 * len(PARTS[self.part].arms[self.arm].variants)


#: seed of the runs that choose the learning rate, and what part of the training images they are tested on
TUNING_SEED = 100
HELD_OUT = 5
#: the part that pre-trained weights are fine-tuned as
SCRATCH = 'cifar10'
#: the parts that differ in the number of labels
LABELS = ('cifar10', 'cifar10_30', 'cifar10_100')


def jobs(parts: Optional[List[str]] = None) -> Iterator[Job]:
    """All jobs in their order: rates first, then seed by seed, so that a study cut short has whole pairs."""
    for part in parts or [name for name in PARTS if not PARTS[name].gpu]:
        plan = PARTS[part]
        for arm in plan.arms:
            yield from (Job(part, arm, TUNING_SEED, rate) for rate in plan.rates)
        for seed in plan.seeds:
            yield from (Job(part, arm, seed) for arm in plan.arms)
