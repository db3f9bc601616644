"""What the documentation's build does beyond its plugins (mkdocs.yml names this file twice).

As mkdocs hook: links that leave ``docs`` work where the files are read in a checkout; the site names
the path instead, and a path that does not exist stops the build. As griffe extension: docstrings
keep Sphinx's roles, which editors and other tools read; here they become links.
"""

import logging
import re
from pathlib import Path
from typing import Any

from griffe import Extension, GriffeLoader, Object

ROOT = Path(__file__).parents[1]
LOG = logging.getLogger("mkdocs.hooks")

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")
_ROLE = re.compile(r":(?:func|class|meth|attr):`([\w.]+)`")
_PUBLIC = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Name the path of a file outside ``docs`` where a page links to it."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def named(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        if not target.exists():
            LOG.warning("%s links to %s, which does not exist", page.file.src_uri, match[2])
        path = target.relative_to(ROOT).as_posix()
        return f"`{path}`" if match[1] == path else f"{match[1]} (`{path}`)"

    return _OUTSIDE.sub(named, markdown)


class SphinxRoles(Extension):
    """Turns roles such as ``:func:`softmax_era` `` into links, and ``::`` before a block into ``:``."""

    def __init__(self) -> None:
        pages = (ROOT / "docs" / "reference").glob("*.md")
        paths = [path for page in pages for path in _PUBLIC.findall(page.read_text())]
        self.paths = {path.rpartition(".")[2]: path for path in paths}

    def on_object(self, *, obj: Object, loader: GriffeLoader, **kwargs: Any) -> None:
        """Rewrite the docstring of an object (griffe's hook)."""
        if obj.docstring is not None:
            text = _ROLE.sub(self._link, obj.docstring.value)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)

    def _link(self, match: re.Match[str]) -> str:
        name = match[1].rpartition(".")[2]
        path = self.paths.get(name)
        return f"`{match[1]}`" if path is None else f"[`{name}`][{path}]"
