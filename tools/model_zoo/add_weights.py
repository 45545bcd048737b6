#!/usr/bin/env python
"""Puts the weights of a finished training into ``weights/``, with their log, a card and an entry of the index.

python tools/model_zoo/add_weights.py CONFIG WORK_DIR --data TEXT --trained-on TEXT --score METRIC=NAME [...]

The newest checkpoint of WORK_DIR is stored as safetensors under the name that the zoo gives the config. The score is
the last one in the log, which is copied beside the weights. ``get_model(NAME, pretrained=True)`` checks the hash.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import List, Optional

import yaml
from make_index import WEIGHTS
from make_index import main as write_index
from mmengine.config import Config

from mmvisionllama import zoo
from mmvisionllama.checkpoints import find_state_dict, load_strictly, read_checkpoint
from mmvisionllama.checkpoints.reading import dataset_meta
from mmvisionllama.checkpoints.writing import safetensors_metadata, write_atomically
from mmvisionllama.errors import LaunchError
from mmvisionllama.launch import run_cli
from mmvisionllama.visualization.training import curves, read_scalars

ROOT = Path(__file__).parents[2]
COLLECTION = {
    'Name': 'Weights of small models',
    'Metadata': {'Architecture': ['VisionLLaMA']},
    'Paper': {
        'Title': 'VisionLLaMA: A Unified LLaMA Backbone for Vision Tasks',
        'URL': 'https://arxiv.org/abs/2403.00522',
    },
    'README': 'weights/README.md',
}
CARD = """\
# {name}

{score_name} **{score}**: {data}. One training with seed {seed}; what another seed gives is not known from it.

| | |
|---|---|
| config | `{config}` |
| command | `{command}` |
| log | [log.jsonl](log.jsonl), one line for each record |
| parameters | {parameters:,} |
| SHA-256 | `{sha256}` |
| licence | Apache-2.0, like the code; the data have their own |

```python
import mmvisionllama

model = mmvisionllama.get_model('{name}', pretrained=True)
```
"""


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Add the weights of a training to the zoo')
    parser.add_argument('config', help='config below configs/')
    parser.add_argument('work_dir', type=Path, help='where it was trained')
    parser.add_argument('--data', required=True, help='what the score was measured on, as the end of a sentence')
    parser.add_argument('--trained-on', required=True, help='what it was trained on, for the index')
    parser.add_argument('--score', required=True, metavar='METRIC=NAME', help='metric of the log and what to call it')
    parser.add_argument('--factor', type=float, default=1.0, help='of the score, 100 for those logged as fractions')
    parser.add_argument('--options', default='', help='what the command had behind the config')
    parser.add_argument('--task', default='Image Classification')
    parser.add_argument('--root', type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    import safetensors.torch

    args = parse_args(argv)
    config = Path(args.config).resolve().relative_to(ROOT / 'configs').as_posix()
    (name,) = (name for name, own in zoo._configs().items() if own == config)
    metric, _, score_name = args.score.partition('=')
    records = read_scalars(args.work_dir)
    values = curves(records, metric)[1][1]
    if not values:
        raise LaunchError(f'{args.work_dir}: its log has no {metric}')
    score = round(args.factor * values[-1], 2)

    model = zoo.get_model(name)
    checkpoint = (args.work_dir / 'last_checkpoint').read_text().strip()
    trained = read_checkpoint(checkpoint)
    load_strictly(model, find_state_dict(trained), checkpoint)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    data = safetensors.torch.save(weights, metadata=safetensors_metadata(dataset_meta(trained)))
    folder = args.root / 'weights' / name
    write_atomically(data, folder / 'model.safetensors')
    (folder / 'log.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    sha256 = hashlib.sha256(data).hexdigest()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    command = f'python tools/train.py configs/{config} {args.options}'.strip()
    # as it was run, with the command's options
    used = max(args.work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime, default=args.config)
    seed = Config.fromfile(used).get('randomness', {}).get('seed')
    card = CARD.format(
        name=name,
        score_name=score_name,
        score=score,
        data=args.data,
        seed=seed,
        config=f'configs/{config}',
        command=command,
        parameters=parameters,
        sha256=sha256,
    )
    (folder / 'README.md').write_text(card)

    file = args.root / WEIGHTS
    models = yaml.safe_load(file.read_text())['Models'] if file.exists() else []
    entry = {
        'Name': name,
        'In Collection': COLLECTION['Name'],
        'Metadata': {'Parameters': parameters, 'Training Data': args.trained_on, 'Seed': seed},
        'Results': [{'Task': args.task, 'Dataset': args.data, 'Metrics': {score_name: score}}],
        'Config': f'configs/{config}',
        'Weights': f'weights/{name}/model.safetensors',
        'SHA256': sha256,
        'Metric': {'Name': metric, 'Factor': args.factor},
        'Command': command,
    }
    models = sorted([*(other for other in models if other['Name'] != name), entry], key=lambda model: model['Name'])
    file.write_text(yaml.safe_dump({'Collections': [COLLECTION], 'Models': models}, sort_keys=False, width=1000))
    print(f'{folder}: {parameters:,} parameters, {len(data) / 1e6:.1f} MB, {score_name} {score}')
    if args.root == ROOT:
        write_index([])


if __name__ == '__main__':
    sys.exit(run_cli(main))
