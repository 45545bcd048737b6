#!/usr/bin/env python
"""Writes the model zoo's files: README.md and metafile.yml of every folder of configs, and model-index.yml.

python tools/model_zoo/make_index.py            # writes them
python tools/model_zoo/make_index.py --check    # says which are stale, exit status 1

Everything comes from the heads of the configs and from ``methods.yml`` beside this file. The format is OpenMMLab's
(``mim``, mmpretrain's ``ModelHub``), where "FLOPs" are multiply-accumulates. Accuracies are the papers', and say so.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional

import yaml

ROOT = Path(__file__).parents[2]
TEXTS = yaml.safe_load((Path(__file__).parent / 'methods.yml').read_text())
METHODS, PAPERS, PUBLISHED = TEXTS['methods'], TEXTS['papers'], TEXTS['published']
CODE = 'https://github.com/Meituan-AutoML/VisionLLaMA'
NOT_OURS = "the paper's, not reproduced"
#: written by add_weights.py
WEIGHTS = 'weights/metafile.yml'
QUICKSTARTS = ('mmpretrain/quickstart', 'mmseg/quickstart', 'mmdet/quickstart', 'generation/quickstart')
#: title and what is said of all configs, where they are no paper's recipes
SMALL = {
    **dict.fromkeys(
        QUICKSTARTS, ('Quickstart', 'Small trainings on data that one command makes: no download, no GPU.')
    ),
    'generation/study': ('Study', 'Arms of the study on CIFAR-10 (`docs/study.md`), small enough for a CPU.'),
    'mmdet/study': ('Study', 'Arms of the study on cell nuclei (`docs/study.md`), small enough for a CPU.'),
    'mmpretrain/study': (
        'Study',
        'Arms of the study (`docs/study.md`) and models for weights, small enough for a CPU, and `*-tiny*` for a GPU.',
    ),
}

#: what writes a small config's data, in its docstring or comment
DATA_COMMAND = r'Data: +(python .*?)(?:  |$)'
#: end of a config's name -> what it trains on
DATA = {
    'in1k': 'ImageNet-1k',
    'in21k': 'ImageNet-21k',
    'cifar10': 'CIFAR-10',
    'cifar100': 'CIFAR-100',
    'ade20k': 'ADE20K',
    'coco': 'COCO',
    'imagenet-256': 'ImageNet-1k',
}
#: what a head says right behind "Paper (...):" -> (task, metric) of each number
RESULTS = (
    (r'top-1 (\d+\.\d+) %(?! after)', [('Image Classification', 'Top 1 Accuracy')]),
    (r'mIoU (\d+\.\d+) % multi-scale', [('Semantic Segmentation', 'mIoU(ms+flip)')]),
    (r'mIoU (\d+\.\d+) %', [('Semantic Segmentation', 'mIoU')]),
    (r'box AP (\d+\.\d+), mask AP (\d+\.\d+)', [('Object Detection', 'box AP'), ('Instance Segmentation', 'mask AP')]),
    (
        r'FID (\d+\.\d+) without guidance(?:, (\d+\.\d+) with 1\.5)?',
        [('Image Generation', 'FID'), ('Image Generation', 'FID with guidance 1.5')],
    ),
    (
        r'FID (\d+\.\d+) with the SDE \(Table 8\), (\d+\.\d+) with the ODE',
        [('Image Generation', 'FID by the SDE'), ('Image Generation', 'FID by the ODE')],
    ),
)


@dataclass
class Recipe:
    """What the head of a config says.

    ``results`` holds (task, metric, number as printed); it is empty where the paper has no such row, and for
    pre-training and first stages, whose numbers are those of the configs that train on from them.
    """

    path: Path
    params: float  # millions
    macs: float  # giga
    size: str  # pixels
    batch: int
    length: str  # '300 epochs', '400,000 iterations', both of ``batch`` images
    results: List[tuple]
    command: str

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def data(self) -> str:
        return next(data for key, data in DATA.items() if re.search(rf'_{key}(_|-\d+px|-\d+x|$)', self.name))


def read_head(path: Path) -> Recipe:
    """The comment on top of a config.

    Raises:
        ValueError: If it lacks one of its parts; the message names the file and the part.
    """
    head = ' '.join(line.lstrip('# ') for line in path.read_text().split('_base_ =')[0].splitlines())

    def find(pattern: str, what: str) -> 're.Match':
        match = re.search(pattern, head)
        if match is None:
            raise ValueError(f'{path}: the comment on top gives no {what} (tests/test_configs says how)')
        return match

    paper = find(r'Paper[^:]*: (.*?)(?= Model:)', "paper's number").group(1)
    params, macs, size = find(
        r'Model: ([\d.]+) M parameters, ([\d.]+) GMACs at (\d+(?: x \d+)?)', "model's size"
    ).groups()
    schedule = find(r'Schedule[^:]*: (.*?= (\d+) images.*)', 'schedule')
    schedule, batch = schedule.groups()
    length = re.search(r'(\d+ epochs)', schedule) if ' iterations x ' in schedule else None
    # the optimizer's, where an iteration of the Runner is a part of its batch
    length = length or re.search(r'accumulated = .*?([\d,]+ steps) of the optimizer', schedule)
    length = length or re.search(r'([\d,]+ iterations)', schedule)
    if length is None:
        raise ValueError(f'{path}: the schedule in the comment on top gives no epochs or iterations')
    return Recipe(
        path=path,
        params=float(params),
        macs=float(macs),
        size=size,
        batch=int(batch),
        length=length.group(1).replace('steps', 'iterations'),
        results=read_results(paper),
        command=find(r'(tools/dist_train\.sh configs/\S+ \d+(?: --\w+)*)', 'command').group(1),
    )


def read_results(paper: str) -> List[tuple]:
    """(task, metric, number) of each number of the paper for this very config."""
    for pattern, kinds in RESULTS:
        match = re.match(pattern, paper)
        if match:
            return [(*kind, number) for kind, number in zip(kinds, match.groups()) if number]
    return []


def metafile(folder: str, recipes: List[Recipe]) -> str:
    """``metafile.yml`` of a folder."""
    method = METHODS[folder]
    collection = {
        'Name': method['name'],
        'Metadata': {'Architecture': method['architecture']},
        'Paper': PAPERS[method['paper']],
        'README': f'configs/{folder}/README.md',
    }
    models = []
    for recipe in recipes:
        number, unit = recipe.length.replace(',', '').split()
        metadata = {
            'FLOPs': round(recipe.macs * 1e9),
            'Parameters': round(recipe.params * 1e6),
            unit.capitalize(): int(number),
            'Batch Size': recipe.batch,
            'Training Data': recipe.data,
        }
        results: Dict[str, dict] = {}
        for task, metric, value in recipe.results:
            results.setdefault(task, {})[f'{metric} ({NOT_OURS})'] = float(value)
        model = {'Name': recipe.name, 'In Collection': method['name'], 'Metadata': metadata}
        if results:
            model['Results'] = [
                {'Task': task, 'Dataset': recipe.data, 'Metrics': metrics} for task, metrics in results.items()
            ]
        model['Config'] = f'configs/{folder}/{recipe.path.name}'
        model['Command'] = recipe.command
        if recipe.name in PUBLISHED:
            model['Converted From'] = {'Weights': PUBLISHED[recipe.name], 'Code': CODE}
        models.append(model)
    return yaml.safe_dump({'Collections': [collection], 'Models': models}, sort_keys=False, width=1000)


NOTE = (
    '<!-- Written by tools/model_zoo/make_index.py from the heads of the configs: change those, or the texts there. -->'
)


def readme(folder: str, recipes: List[Recipe]) -> str:
    """``README.md`` of a folder."""
    method = METHODS[folder]
    paper = PAPERS[method['paper']]
    metrics = list(dict.fromkeys(metric for recipe in recipes for _, metric, _ in recipe.results))
    lines = [f'# {method["name"]}', '', NOTE, '', f'> [{paper["Title"]}]({paper["URL"]})', '', method['text'], '']
    documents = dict.fromkeys([method['document'], 'docs/tables.md'])
    lines += [
        f'More: {", ".join(f"`{document}`" for document in documents)} (every row of the papers, as a command).',
        '',
    ]
    if any(recipe.name.endswith('_released') for recipe in recipes):
        lines += [
            'A config ending in `_released` does what the published code does where that differs from the paper',
            '(`docs/paper_vs_release.md`).',
            '',
        ]
    weights = ', and no weights come with them'
    if any(recipe.name in PUBLISHED for recipe in recipes):
        weights = '. `get_model(name, pretrained=True)` fetches and converts the weights that the authors published'
    lines += [
        '## Configs',
        '',
        f"The numbers of accuracy are **the paper's; none was reproduced here**{weights}.",
        '',
        '| ' + ' | '.join(['config', 'parameters (M)', 'GMACs', 'schedule', *(f'paper: {m}' for m in metrics)]) + ' |',
        '|' + '---|' * (4 + len(metrics)),
    ]
    for recipe in recipes:
        found = {metric: value for _, metric, value in recipe.results}
        cells = [
            f'[{recipe.name}]({recipe.path.name})',
            f'{recipe.params:.2f}',
            f'{recipe.macs:.2f} at {recipe.size}',
            f'{recipe.length}, batch {recipe.batch}',
            *(found.get(metric, '–') for metric in metrics),
        ]
        if recipe.name in PUBLISHED:
            cells[0] += f' ([weights]({PUBLISHED[recipe.name]}))'
        lines.append('| ' + ' | '.join(cells) + ' |')
    lines += ['', '## Commands', '', '```bash', *(recipe.command for recipe in recipes), '```', '']
    return '\n'.join(lines)


def command(text: str) -> str:
    """The command in the docstring of a small config, continued lines included; '' without one."""
    found = re.search(r'Command: +(python (?:.*\\\\\n)*.*)', text)
    return re.sub(r'\\\\\n *', r'\\\n    ', found.group(1)) if found else ''


def quickstart_readme(folder: str, paths: List[Path]) -> str:
    """``README.md`` of small configs that train on a CPU; what they are stands in their docstrings or comments."""
    title, text = SMALL[folder]
    lines = [f'# {title}', '', NOTE, '', text, '']
    lines += ['| config | what |', '|---|---|']
    before: Dict[str, None] = {}  # commands that write the data, and trainings to start from, once each
    trainings = []
    for path in paths:
        text = path.read_text()
        before.update(dict.fromkeys(re.findall(DATA_COMMAND, text, re.MULTILINE)))
        training = command(text) or f'python tools/train.py configs/{folder}/{path.name}'
        for name in re.findall(r'work_dirs/(\w+)/', training):
            (first_text,) = (other.read_text() for other in (ROOT / 'configs').glob(f'*/*/{name}.py'))
            before.update(dict.fromkeys([*re.findall(DATA_COMMAND, first_text, re.MULTILINE), command(first_text)]))
        trainings.append(training)
        first = text.split('"""')[1] if text.startswith('"""') else text.replace('#', '')
        sentence = re.split(r'(?<=\w)[.:](?=\s)', ' '.join(first.split('\n\n')[0].split()).rstrip('.'))[0]
        lines.append(f'| [{path.stem}]({path.name}) | {sentence} |')
    lines += ['', '```bash', *before, *trainings, '```', '']
    return '\n'.join(lines)


def generate(root: Path = ROOT) -> Dict[Path, str]:
    """Path to contents of every file."""
    folders = {
        str(path.relative_to(root / 'configs')): path
        for path in sorted((root / 'configs').glob('*/*'))
        if path.is_dir() and path.parent.name != '_base_' and list(path.glob('*.py'))
    }
    unknown = set(folders) - set(METHODS) - set(SMALL)
    if unknown:
        raise ValueError(f'say in tools/model_zoo/methods.yml what is in {", ".join(sorted(unknown))}')
    files, imports = {}, []
    for folder, path in folders.items():
        configs = sorted(path.glob('*.py'))
        if folder in SMALL:
            files[path / 'README.md'] = quickstart_readme(folder, configs)
            continue
        recipes = [read_head(config) for config in configs]
        files[path / 'README.md'] = readme(folder, recipes)
        files[path / 'metafile.yml'] = metafile(folder, recipes)
        imports.append(f'configs/{folder}/metafile.yml')
    if (root / WEIGHTS).exists():
        imports.append(WEIGHTS)
    files[root / 'model-index.yml'] = yaml.safe_dump({'Import': imports}, sort_keys=False)
    return files


def stale(root: Path = ROOT) -> List[Path]:
    """Files that are missing, differ from what would be written, or belong to no folder of configs any more."""
    files = generate(root)
    wrong = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    left = [path for name in ('README.md', 'metafile.yml') for path in (root / 'configs').glob(f'*/*/{name}')]
    return wrong + [path for path in left if path not in files]


def main(args: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the model zoo's files")
    parser.add_argument('--check', action='store_true', help='write nothing, exit with 1 if a file is stale')
    if parser.parse_args(args).check:
        wrong = stale()
        for path in wrong:
            print(f'{path.relative_to(ROOT)} is stale: run python tools/model_zoo/make_index.py', file=sys.stderr)
        return int(bool(wrong))
    for path, text in generate().items():
        path.write_text(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
