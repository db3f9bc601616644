"""What the documentation's build does beyond its plugins (mkdocs.yml names this file twice).

As mkdocs hook: links that leave ``docs`` work where the files are read in a checkout; the site names
the path instead, takes figures along, and a path that does not exist stops the build. As griffe
extension: docstrings keep Sphinx's roles, which editors and other tools read; here they become links,
and what the fields of a dataclass say of themselves becomes the list of its parameters.
"""

import ast
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LOG = logging.getLogger("mkdocs.hooks")

_OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")
_ROLE = re.compile(r":(?:func|class|meth|attr):`([\w.]+)`")
_PUBLIC = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Take the figures outside ``docs`` that pages show into the site, under their paths."""
    for page in list(files.documentation_pages()):
        folder = (ROOT / "docs" / page.src_uri).parent
        for image, _text, link in _OUTSIDE.findall(page.content_string):
            target = (folder / link).resolve()
            path = target.relative_to(ROOT).as_posix()
            new = not path.startswith("docs/") and files.get_file_from_path(path) is None
            if image and new and target.exists():
                files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Name the path of a file outside ``docs`` where a page links to it, or show a figure there."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def named(match: re.Match[str]) -> str:
        image, text, link = match.groups()
        target = (folder / link).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        if not target.exists():
            LOG.warning("%s links to %s, which does not exist", page.file.src_uri, link)
        path = target.relative_to(ROOT).as_posix()
        if image:
            return f"![{text}]({os.path.relpath(path, Path(page.file.src_uri).parent)})"
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return _OUTSIDE.sub(named, markdown)


class Docstrings(griffe.Extension):
    """Turns Sphinx's roles into links, ``::`` before a block into ``:``, and fields into parameters."""

    def __init__(self) -> None:
        pages = (ROOT / "docs" / "reference").glob("*.md")
        paths = [path for page in pages for path in _PUBLIC.findall(page.read_text())]
        self.paths = {path.rpartition(".")[2]: path for path in paths}

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Rewrite the docstring of an object (griffe's hook)."""
        if obj.docstring is not None:
            text = _ROLE.sub(self._link, obj.docstring.value)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)

    def on_class_members(self, *, node: Any, cls: griffe.Class, **kwargs: Any) -> None:
        """List what fields say of themselves in the docstring; their types stay (griffe's hook)."""
        names = cls.module.attributes
        lines = []
        for field in node.body:
            match field:
                case ast.AnnAssign(ast.Name(name), annotation, value):
                    about = _about(annotation, names) or _about(value, names)
                    if about is not None:
                        lines.append(f"    {name}: {about}")
                        attribute = cls.attributes[name]
                        attribute.annotation = _kind(attribute.annotation, names)
                        attribute.value = _default(attribute.value)
        if lines and cls.docstring is not None:
            text, raises, errors = cls.docstring.value.partition("Raises:")
            listed = "\n".join(["Args:", *lines])
            cls.docstring.value = f"{text.rstrip()}\n\n{listed}\n\n{raises}{errors}"

    def _link(self, match: re.Match[str]) -> str:
        name = match[1].rpartition(".")[2]
        path = self.paths.get(name)
        return f"`{match[1]}`" if path is None else f"[`{name}`][{path}]"


def _about(node: ast.AST | None, names: Mapping[str, griffe.Attribute]) -> str | None:
    """Return the text in ``Annotated[type, Setting(text, ...)]`` or ``option(text, ...)``."""
    match node:
        case ast.Name(name) if name in names:
            return _about(ast.parse(str(names[name].value), mode="eval").body, names)
        case ast.Subscript(
            ast.Name("Annotated"), ast.Tuple([_, ast.Call(_, [text, *_])])
        ) | ast.Call(ast.Name("option"), [text, *_]):
            return ast.literal_eval(
                str(names[text.id].value) if isinstance(text, ast.Name) else text
            )
    return None


def _kind(annotation: Any, names: Mapping[str, griffe.Attribute]) -> Any:
    """Return the type in ``Annotated[type, ...]``, or in what a name of a type stands for."""
    name = str(annotation)
    annotation = names[name].value if name in names else annotation
    match annotation:
        case griffe.ExprSubscript(slice=griffe.ExprTuple(elements=[kind, griffe.ExprCall()])):
            return kind
    return annotation


def _default(value: Any) -> Any:
    """Return the default in ``option(text, default=...)``, None where there is none, or the value."""
    match value:
        case griffe.ExprCall(function=griffe.ExprName(name="option"), arguments=given):
            named = {
                each.name: each.value for each in given if isinstance(each, griffe.ExprKeyword)
            }
            factory = named.get("default_factory")
            return named.get("default", getattr(factory, "body", factory))
    return value
