"""Reports as data: sections of text, tables and figures, written as Markdown and as one HTML page."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt


@dataclass(frozen=True)
class Text:
    """A paragraph; ``code`` sets it as it is, ``notice`` so that it is not missed."""

    text: str
    code: bool = False
    notice: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """An image file beside the report, with a caption."""

    file: str
    caption: str


Block = Text | Table | Picture
LINK = re.compile(r"(?<!!)\[([^]]*)\]\([^)]*\)")
"""A link in Markdown; the page, which stands alone, has its text."""


@dataclass
class Section:
    """A part of a report; without blocks it is left out."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Return a report as Markdown."""
    parts = [f"# {title}"]
    for section in sections:
        if section.blocks:
            parts += [f"## {section.title}", *map(markdown_block, section.blocks)]
    return "\n\n".join(parts) + "\n"


def markdown_block(block: Block) -> str:
    """Return a block as Markdown."""
    if isinstance(block, Text):
        plain = f"> **{block.text}**" if block.notice else block.text
        return f"```\n{block.text}\n```" if block.code else plain
    if isinstance(block, Picture):
        return f"![{block.caption}]({block.file})\n\n{block.caption}"
    lines = [block.header, ["---"] * len(block.header), *block.rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{block.caption}\n\n{table}" if block.caption else table


def page(title: str, sections: Sequence[Section], folder: Path) -> str:
    """Return a report as one HTML file, with the images, read from the folder, in it."""

    def embedded(source: re.Match[str]) -> str:
        data = base64.b64encode((folder / source[1]).read_bytes()).decode()
        return f'<img src="data:image/png;base64,{data}"'

    text = LINK.sub(r"\1", markdown(title, sections))
    # this way raw HTML is escaped
    body = re.sub('<img src="([^"]*)"', embedded, MarkdownIt("js-default").render(text))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; display: block; margin: 1rem 0; overflow-x: auto; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; } img { max-width: 100%; }
blockquote { background: #fff3cd; margin: 0; padding: .6rem .8rem; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; }
"""
