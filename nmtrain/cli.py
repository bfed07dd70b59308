"""The one entrypoint. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmtrain.config import Config

HELP = """\
nmtrain: train N:M structured-sparse networks

  nmtrain model=vit sparsity=1:32 recipe=sdgf        train one run (the word `train` is optional)
  nmtrain ... --dry-run                              check everything, show phases, tensors, cost; train nothing
  nmtrain -m recipe=dense,sr_ste,mdgf,sdgf sparsity=1:8,1:32 seed=0,1,2     sweep, one run after the other
  nmtrain eval RUN                                   evaluate a finished run's model again
  nmtrain export RUN [--out DIR]                     write its model for plain timm
  nmtrain list [GROUP]                               what there is to choose
  nmtrain --cfg job                                  print the whole configuration

Settings are key=value; every key stands with its comment in conf/ (nmtrain --cfg job prints them all):
  model=vit data=glyphs recipe=sdgf optim=adamw experiment=smoke
  sparsity=1:32 seed=0 mask.roles=[ff,q,k] mask.patterns.q=1:4 recipe.finetune_fraction=0.2 train.epochs=5
The same command resumes a run that was interrupted, and does nothing if it is finished (force=true repeats it).
Shell completion: eval "$(nmtrain -sc install=bash)"
"""


class UsageError(Exception):
    """A command line that cannot be understood."""


def main() -> None:
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    """Run one command; returns the exit status: 0, 1 for a failure while working, 2 for wrong input."""
    commands = {"eval": _eval, "export": _export, "list": _list, "train": _train}
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    command = commands.get(arguments[0], _train) if arguments else _train
    if arguments and arguments[0] in commands:
        arguments = arguments[1:]
    logger = logging.getLogger("nmtrain")
    try:
        _log_to_terminal(logger)
        command(arguments)
    except Exception as error:
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    """One plain message for a failure that we understand; anything else is a bug and keeps its traceback."""
    from nmtrain.config import ConfigError

    if isinstance(error, (ConfigError, UsageError)):
        print(error, file=sys.stderr)
        return 2
    folder = sys.modules.get("nmtrain.training.folder")
    if folder and isinstance(error, folder.RunFolderError):
        print(error, file=sys.stderr)
        return 2
    loop = sys.modules.get("nmtrain.training.loop")
    if loop and isinstance(error, loop.TrainingError):
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if loop and isinstance(error, loop.Stopped):
        print(f"stopped: {error}; the same command resumes", file=sys.stderr)
        return 130
    raise error


def _log_to_terminal(logger: logging.Logger) -> None:
    logger.setLevel(logging.DEBUG)
    if not any(type(handler) is logging.StreamHandler for handler in logger.handlers):
        handler = logging.StreamHandler(sys.stdout)
        handler.setLevel(logging.INFO)
        logger.addHandler(handler)


def _train(arguments: list[str]) -> None:
    from nmtrain.compose import compose_values, prepare_overrides, run_hydra, sweep_combinations
    from nmtrain.config import ConfigError, check_config

    flags = [argument for argument in arguments if argument.startswith("-")]
    hydra_flags = [flag for flag in flags if flag != "--dry-run"]
    if any(flag not in ("-m", "--multirun") for flag in hydra_flags):  # --cfg, -sc, --info: all Hydra's
        run_hydra(arguments, lambda values: None)
        return
    overrides = prepare_overrides([argument for argument in arguments if not argument.startswith("-")])
    if "--dry-run" in flags:
        overrides.append("++dry_run=true")
    if not hydra_flags:
        _job(compose_values(overrides))
        return
    faults = []
    for combination in sweep_combinations(overrides):  # all of them before the first run starts
        try:
            check_config(compose_values(combination))
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise ConfigError(faults)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # the exception itself instead of Hydra's report of it
    run_hydra(["-m", *overrides], _sweep_job)


def _job(values: dict[str, Any]) -> Config:
    """One run, or its dry run, and what the terminal shows of it."""
    from nmtrain.config import check_config

    config = check_config(values)
    if config.dry_run:
        from nmtrain.report.terminal import show_plan
        from nmtrain.training.plan import make_plan

        show_plan(make_plan(config))
    else:
        from nmtrain.report.terminal import show_summary
        from nmtrain.training.run import run

        show_summary(run(config), config.run_folder)
    return config


def _sweep_job(values: dict[str, Any]) -> None:
    """A failed run of a sweep says so at once; Hydra goes on and raises its exception in the end."""
    _log_to_terminal(logging.getLogger("nmtrain"))  # a launcher's worker process starts without it
    try:
        _job(values)
    except Exception as error:
        logging.getLogger("nmtrain").error("this run did not finish: %s", error)
        raise


def _eval(arguments: list[str]) -> None:
    (run,) = _positional(arguments, "eval RUN")
    from nmtrain.training.export import evaluate_run

    for name, value in evaluate_run(Path(run)).items():
        print(f"val/{name}: {value:.6f}")


def _export(arguments: list[str]) -> None:
    out = None
    if "--out" in arguments:
        at = arguments.index("--out")
        if at + 1 == len(arguments):
            raise UsageError("--out: name a folder")
        out = arguments[at + 1]
        arguments = arguments[:at] + arguments[at + 2 :]
    (run,) = _positional(arguments, "export RUN [--out DIR]")
    from nmtrain.training.export import export_run

    folder = export_run(Path(run), Path(out) if out else Path(run) / "export")
    print(f'{folder}: load it with timm.create_model("local-dir:{folder}", pretrained=True)')


def _list(arguments: list[str]) -> None:
    from nmtrain.compose import groups

    found = groups()
    for group in arguments:
        if group not in found:
            raise UsageError(f"list {group}: there is no such group. Available: {list(found)}")
    for group in arguments or found:
        print(group)
        for name, description in found[group].items():
            print(f"  {name:18} {description}")


def _positional(arguments: list[str], usage: str) -> list[str]:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UsageError(f"usage: nmtrain {usage}")
    return arguments


if __name__ == "__main__":
    main()
