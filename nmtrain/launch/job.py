"""One job of the `train` command: a config checked, then planned or trained, and shown."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtrain.config.check import Config, check_config
from nmtrain.config.faults import written
from nmtrain.data import options_of_model
from nmtrain.errors import ConfigError, RunFolderError, Stopped
from nmtrain.launch.ranks import require_started, start_ranks
from nmtrain.launch.requeue import put_back_in_line
from nmtrain.runs.folder import RunFolder, why_not_writable
from nmtrain.runs.starts import this_process

if TYPE_CHECKING:
    from nmtrain.training.distribution.ranks import Ranks


def checked(values: dict[str, Any]) -> Config:
    """The checked config; whether the results folder can be written is among the checks."""
    faults, results_dir = [], values.get("results_dir")
    if isinstance(results_dir, str) and (reason := why_not_writable(Path(os.path.expanduser(results_dir)))):
        faults = [f"results_dir={results_dir}: cannot be written ({reason}); name a folder that can"]
    try:
        config = check_config(_with_model_input(values))
    except ConfigError as error:
        faults = error.faults + faults
    if faults:
        raise ConfigError(faults)
    return config


def _with_model_input(values: dict[str, Any]) -> dict[str, Any]:
    """What config.yaml says of images that the model is to say how it is given: their size, levels and cropping."""
    data, model = values.get("data"), values.get("model")
    if not isinstance(data, dict) or not isinstance(model, dict):
        return values
    unsaid = [option for option in options_of_model(str(data.get("name"))) if data.get(option) is None]
    if not unsaid:
        return values
    from nmtrain.models.vision import preprocessing

    name, channels = str(model.get("name")), 1 if data.get("channels") == 1 else 3
    options = model["options"] if isinstance(model.get("options"), dict) else {}
    pretrained = model.get("pretrained") if model.get("kind") == "image_classifier" else None
    try:
        said = preprocessing(name, options, str(pretrained) if pretrained else None, channels)
    except ValueError:  # of weights that are not there, which planning tells
        said = preprocessing(name, options, None, channels)
    return values | {"data": data | {option: said[option] for option in unsaid}}


def require_measured(configs: Sequence[Config]) -> None:
    """Raises ConfigError if ``measure.patterns`` is given for sparse runs alone, which have a mask in force."""
    if all(config.measure.patterns and not config.is_dense for config in configs):
        config = configs[0]
        patterns = written(config.values["measure"]["patterns"])
        raise ConfigError(
            [f"measure.patterns={patterns}: has no effect with recipe={config.recipe.name}; dense runs read it"]
        )


def require_single(config: Config) -> None:
    """Raises ConfigError, listing what only sweeps can do."""
    faults = []
    if (tune := config.values.get("tune")) is not None:
        faults.append(f"tune={written(tune)}: is done by a sweep; add -m")
    if config.cluster.name != "none":
        faults.append(f"cluster={config.cluster.name}: is for sweeps; add -m")
    if faults:
        raise ConfigError(faults)


def run_job(config: Config) -> None:
    """One run, or its dry run, and what the terminal shows of it."""
    with _back_in_line():
        config = _as_repeated(config)
        if config.launch.world > 1 and not config.dry_run and not _is_finished(config):
            start_ranks(config)
        else:
            _run(config, None)


def run_as_rank(config: Config, ranks: Ranks) -> None:
    """`run_job` by one of several processes that do it together, which `start_ranks` has started."""
    require_started(config, ranks.world)
    _run(config, ranks)


def run_under_launcher(config: Config, ranks: Ranks) -> None:
    """The same by one that torchrun or its like has started."""
    with _back_in_line() if ranks.is_first else nullcontext():
        run_as_rank(_as_repeated(config), ranks)


@contextmanager
def _back_in_line() -> Iterator[None]:
    """A run that is stopped inside puts the job of a cluster back in line."""
    try:
        yield
    except Stopped as stopped:
        put_back_in_line(stopped)
        raise


def _as_repeated(config: Config) -> Config:
    """A job that was put back in line goes on with what it repeated before."""
    return replace(config, force=False) if this_process().restart else config


def _is_finished(config: Config) -> bool:
    return not config.force and RunFolder(config.run_folder).state == "finished"


def _run(config: Config, ranks: Ranks | None) -> None:
    if config.dry_run:
        from nmtrain.launch.terminal import show_plan
        from nmtrain.training.plan import make_plan

        plan = make_plan(config)
        if ranks is None or ranks.is_first:
            show_plan(plan)
        return
    from nmtrain.launch.terminal import show_summary, show_waiting
    from nmtrain.training.run import run

    summary = run(config) if ranks is None else run(config, ranks)
    if ranks is not None and not ranks.is_first:
        return
    try:
        show_summary(summary, config.run_folder, config.split)
        show_waiting(summary["seconds"], config.data)
    except (KeyError, TypeError) as error:  # of a run that finished before
        file = config.run_folder / "summary.json"
        raise RunFolderError(f"{file}: is damaged (no {error}); force=true repeats the run") from error


class _Terminal(logging.Handler):
    """Prints to what is standard output at the moment: a progress bar on the screen then makes room for the line."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


def log_to_terminal(rank: int = 0) -> None:
    """Show what is logged; a launcher's worker process starts without it. Ranks but the first show warnings alone."""
    logger = logging.getLogger("nmtrain")
    logger.setLevel(logging.DEBUG)
    if not any(isinstance(handler, _Terminal) for handler in logger.handlers):
        terminal = _Terminal(logging.WARNING if rank else logging.INFO)
        terminal.setFormatter(logging.Formatter(f"rank {rank}: %(message)s" if rank else "%(message)s"))
        logger.addHandler(terminal)
