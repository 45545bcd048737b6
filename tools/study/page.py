#!/usr/bin/env python
"""Writes the tables and pictures of docs/study.md from the logs in docs/results/study.

python tools/study/page.py            # writes them
python tools/study/page.py --check    # says whether the page is stale, exit status 1
"""

import argparse
import sys
from types import ModuleType
from typing import Dict, List, Optional

import classification_page
import detection_page
import generation_page
import labels_page
import pretraining_page
from plan import LOGS, PARTS, ROOT

PAGE = ROOT / 'docs' / 'study.md'
BEGIN, END = '<!-- results of {}: written by tools/study/page.py -->', '<!-- end of results -->'
KINDS = dict(
    classification=classification_page,
    detection=detection_page,
    generation=generation_page,
    pretraining=pretraining_page,
)


def sections() -> Dict[str, ModuleType]:
    """What writes the tables and the picture of every section."""
    return {**{name: KINDS[part.kind] for name, part in PARTS.items()}, 'labels': labels_page}


def page(text: str) -> str:
    """The page with every section's results between its marks."""
    for name, module in sections().items():
        begin = BEGIN.format(name)
        if begin not in text:
            raise ValueError(f'{PAGE.name} has no {begin}')
        before, _, rest = text.partition(begin)
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f'{PAGE.name} has no {END} behind {begin}')
        text = f'{before}{begin}\n\n{module.tables(name)}\n\n{END}{after}'
    return text


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description='Write the tables of the study')
    parser.add_argument('--check', action='store_true', help='write nothing, exit with 1 if the page is stale')
    args = parser.parse_args(argv)
    old = PAGE.read_text()
    new = page(old)
    if args.check:
        if new != old:
            print(f'{PAGE} is stale: run python tools/study/page.py', file=sys.stderr)
        return int(new != old)
    PAGE.write_text(new)
    for name, module in sections().items():
        module.draw(name, LOGS / f'{name}.png')
    return 0


if __name__ == '__main__':
    sys.exit(main())
