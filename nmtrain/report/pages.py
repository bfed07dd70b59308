"""The report as one HTML file and as Markdown, from the templates beside this file."""

from __future__ import annotations

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined

from nmtrain.report.chapters import Chapter
from nmtrain.report.run_list import RunList
from nmtrain.report.table import Cell


def html_page(chapters: list[Chapter], notices: list[str], runs: RunList) -> str:
    """One file that opens offline: styles, script, figures and their data are inside it."""
    environment = _environment(autoescape=True)
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("report.html.j2").render(chapters=chapters, notices=notices, runs=runs)


def markdown_page(chapters: list[Chapter], notices: list[str], runs: RunList) -> str:
    """The same for a README or a pull request; figures are linked from ``figures/``."""
    environment = _environment(autoescape=False)
    environment.filters["markdown_cell"] = _markdown_cell
    return environment.get_template("report.md.j2").render(chapters=chapters, notices=notices, runs=runs)


def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("nmtrain.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _data_uri(content: bytes | str, kind: str) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    text += f" {cell.marks}" if cell.marks else ""
    text += f" ({cell.detail.strip('()')})" if cell.detail else ""
    return text.replace("|", "\\|")
