"""Hooks of mkdocs: links written for a repository's pages also work on the site.

A page in ``docs/`` may link to files elsewhere in the repository and to folders. Linked files become part of the site,
and a linked folder its README, or a page that lists its files.
"""

import posixpath
import re
from collections import Counter
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
# the target of a Markdown link or picture, and of a picture in HTML: not an address, not a heading of the same page
LINK = re.compile(r'(?<=\]\()(?![a-z]+:|#)([^)#\s]+)')
SOURCE = re.compile(r'(?<=src=")(?![a-z]+:)([^"]+)')


def on_files(files, config):
    """Adds what pages link to outside ``docs/``, and an index for every folder they link to."""
    known = {file.src_uri for file in files}
    waiting = [(f'docs/{file.src_uri}', file.content_string) for file in files.documentation_pages()]
    while waiting:
        page, text = waiting.pop()
        for link in LINK.findall(text) + SOURCE.findall(text):
            target = _target(page, link)
            uri = _site_uri(target)
            if uri in known or not (ROOT / target).exists():
                continue  # a broken link is mkdocs' to report
            known.add(uri)
            if (ROOT / target / 'README.md').exists():
                target = f'{target}/README.md'
            if (ROOT / target).is_dir():
                target, content = f'{target}/index.md', _listing(target)
            else:
                content = (ROOT / target).read_bytes()
            files.append(File.generated(config, uri, content=content))
            if uri.endswith('.md'):
                waiting.append((target, content if isinstance(content, str) else content.decode()))
    places = Counter(file.dest_uri for file in files)
    twice = [place for place, number in places.items() if number > 1]
    if twice:
        raise PluginError(f'several pages would be written to {", ".join(twice)}')
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links at the places that :func:`on_files` gave their targets."""
    source = page.file.src_uri
    path = f'docs/{source}' if (ROOT / 'docs' / source).exists() else source

    def site_link(match):
        target = _target(path, match[1])
        if not (ROOT / target).exists():
            return match[1]
        return posixpath.relpath(_site_uri(target), posixpath.dirname(source) or '.')

    def site_source(match):
        target = _target(path, match[1])
        return posixpath.relpath(_site_uri(target), posixpath.dirname(page.file.dest_uri) or '.')

    return SOURCE.sub(site_source, LINK.sub(site_link, markdown))


def _target(page: str, link: str) -> str:
    """Path in the repository of what a page links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _site_uri(target: str) -> str:
    """Place on the site of a file or folder of the repository: docs/ is the site's root.

    A README beyond it is a page beside the index, in whose place mkdocs would write it.
    """
    if (ROOT / target).is_dir():
        target = f'{target}/{"README.md" if (ROOT / target / "README.md").exists() else "index.md"}'
    if target.startswith('docs/'):
        return target[len('docs/') :]
    folder, name = posixpath.split(target)
    return posixpath.join(folder, 'readme.md') if name == 'README.md' else target


def _listing(folder: str) -> str:
    """Page that lists the files of a folder."""
    names = sorted(path.name for path in (ROOT / folder).iterdir() if path.is_file())
    return f'# {folder}\n\n' + ''.join(f'- [{name}]({name})\n' for name in names)
