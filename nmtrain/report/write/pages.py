"""The report as one HTML file and as Markdown, from the templates beside this file."""

from __future__ import annotations

import base64
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nmtrain.report.compare.advice import Advice
from nmtrain.report.compare.run_list import RunList
from nmtrain.report.compare.table import Cell
from nmtrain.report.write.chapters import Chapter


def html_page(chapters: list[Chapter], notices: list[str], runs: RunList) -> str:
    """One file that opens offline: styles, script, figures and their data are inside it."""
    environment = _environment(autoescape=True)
    environment.filters["data_uri"] = _data_uri
    environment.filters["linked"] = _linked
    return environment.get_template("report.html.j2").render(chapters=chapters, notices=notices, runs=runs)


def markdown_page(chapters: list[Chapter], notices: list[str], runs: RunList) -> str:
    """The same for a README or a pull request; figures are linked from ``figures/``."""
    environment = _environment(autoescape=False)
    environment.filters["cell"] = _markdown_cell
    environment.filters["text"] = _markdown_text
    return environment.get_template("report.md.j2").render(chapters=chapters, notices=notices, runs=runs)


def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("nmtrain.report.write"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _linked(said: Advice) -> Markup:
    text = escape(said.text)
    for phrase, anchor in said.links.items():
        text = text.replace(escape(phrase), Markup('<a href="#{}">{}</a>').format(anchor, phrase))
    return text


def _data_uri(content: bytes | str, kind: str) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def _markdown_cell(cell: Cell) -> str:
    text = _markdown_text(cell.text)
    text = f"**{text}**" if cell.best else text
    text += f" {cell.marks}" if cell.marks else ""
    return text + (f" ({_markdown_text(cell.detail.strip('()'))})" if cell.detail else "")


# An underscore inside a word is no markup, and names are full of them.
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def _markdown_text(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", text)
