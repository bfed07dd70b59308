"""`nmtrain clean`: removes what finished runs no longer need. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nmtrain.report.read.folders import find_run_folders
from nmtrain.runs.folder import RunFolder

_TOLD_TO_KEEP = b"keep_after: true"  # as a run writes it into its config.yaml


def clean(folders: Sequence[Path], dry_run: bool) -> None:
    """Remove the checkpoints of finished runs, but of those with `train.keep_after`, and say how much that frees.

    Raises:
        ReportError: if a folder does not exist, cannot be listed, or holds no run.
    """
    freed, runs = 0, 0
    for path in find_run_folders(folders):
        found = _unneeded(RunFolder(path))
        size = sum(file.stat().st_size for file in found)
        if not found:
            continue
        freed, runs = freed + size, runs + 1
        print(f"{path}: {len(found)} checkpoints, {size / 1e6:.1f} MB")
        for file in [] if dry_run else found:
            file.unlink()
    print(f"{'would free' if dry_run else 'freed'} {freed / 1e6:.1f} MB (finished runs: {runs})")


def _unneeded(run: RunFolder) -> list[Path]:
    folder, config = run / "checkpoints", run / "config.yaml"
    if run.state_or_none != "finished" or folder.is_symlink():  # a link may lead out of the run
        return []
    if config.is_file() and _TOLD_TO_KEEP in config.read_bytes():
        return []
    return [file for file in sorted(folder.glob("[0-9]*-*.pt")) if not file.is_symlink()]
