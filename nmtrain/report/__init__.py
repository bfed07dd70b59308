"""Tables, figures and pages from run folders. Reads folders only: no training code, no torch.

Names are loaded on first use: what draws and computes is paid for only by the command that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmtrain.errors import ReportError
    from nmtrain.report.write.closing import closing_table
    from nmtrain.report.write.writing import ReportResult, write_report

__all__ = ["ReportError", "ReportResult", "closing_table", "write_report"]

_HOME = {
    "ReportError": "nmtrain.errors",
    "ReportResult": "nmtrain.report.write.writing",
    "closing_table": "nmtrain.report.write.closing",
    "write_report": "nmtrain.report.write.writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
