"""The one entrypoint. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nmtrain
from nmtrain.choices import groups, near

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
  nmtrain --config-dir DIR experiment=NAME           use DIR/experiment/NAME.yaml of your own

Settings are key=value; every key stands with its comment in conf/ (nmtrain --cfg job prints them all):
  model=vit data=glyphs recipe=sdgf optim=adamw experiment=smoke
  sparsity=1:32 seed=0 mask.roles=[ff,q,k] mask.patterns.q=1:4 recipe.finetune_fraction=0.2 train.epochs=5
The same command resumes a run that was interrupted, and does nothing if it is finished (force=true repeats it).
Shell completion: eval "$(nmtrain -sc install=bash)"
"""


class UsageError(Exception):
    """A command line that cannot be understood."""


class SweepError(Exception):
    """A sweep of which some runs did not finish; the others did."""


def main() -> None:
    try:
        status = _main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # nmtrain list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def _main(arguments: list[str]) -> int:
    """Run one command; returns the exit status: 0, 1 for a failure while working, 2 for wrong input."""
    commands = {"eval": _eval, "export": _export, "list": _list, "train": _train}
    first = arguments[0] if arguments else "train"
    if first == "help" or {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    if first == "--version":
        print(nmtrain.__version__)
        return 0
    try:
        _log_to_terminal(logging.getLogger("nmtrain"))
        if first in commands:
            commands[first](arguments[1:])
        elif "=" in first or first.startswith(("-", "~")):
            _train(arguments)
        else:
            raise UsageError(
                f"{first}: is neither a command nor of the form key=value (nmtrain --help)."
                f" Commands: {list(commands)}{near(first, commands)}"
            )
    except KeyboardInterrupt as interrupt:  # before or after the updates, or in a sweep, which stops as a whole
        print(f"stopped: {str(interrupt) or 'SIGINT'}; the same command resumes", file=sys.stderr)
        return 130
    except Exception as error:
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    """One plain message for a failure that we understand; anything else is a bug and keeps its traceback."""
    loaded = {name: sys.modules.get(f"nmtrain.{name}") for name in ("faults", "training.folder", "training.loop")}
    config_error = getattr(loaded["faults"], "ConfigError", UsageError)
    folder_error = getattr(loaded["training.folder"], "RunFolderError", UsageError)
    training_error = getattr(loaded["training.loop"], "TrainingError", SweepError)
    if isinstance(error, (UsageError, config_error, folder_error)):
        print(error, file=sys.stderr)
        return 2
    if isinstance(error, (SweepError, training_error)):
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if _is_stop(error):
        print(f"stopped: {error}; the same command resumes", file=sys.stderr)
        return 130
    raise error


def _is_stop(error: Exception) -> bool:
    loop = sys.modules.get("nmtrain.training.loop")
    return loop is not None and isinstance(error, loop.Stopped)


def _log_to_terminal(logger: logging.Logger) -> None:
    logger.setLevel(logging.DEBUG)
    handler = next((handler for handler in logger.handlers if type(handler) is logging.StreamHandler), None)
    if handler is None:
        handler = logging.StreamHandler()
        handler.setLevel(logging.INFO)
        logger.addHandler(handler)
    handler.setStream(sys.stdout)


# Flags of Hydra that show something and run nothing.
_SHOWING = ("--cfg", "-c", "--package", "-p", "--resolve", "--info", "-i", "--shell-completion", "-sc", "--hydra-help")
_FLAGS = ("-m", "--multirun", "--dry-run", "--config-dir", "--help", "--version", *_SHOWING)


def _train(arguments: list[str]) -> None:
    from nmtrain.compose import compose_values, prepare_overrides, search_path_override

    settings, folders, flags = _split(arguments)
    show = bool(flags & set(_SHOWING))
    if show and not flags & {"--cfg", "-c"}:
        _show(arguments)
        return
    sweep = bool(flags & {"-m", "--multirun"})
    search = search_path_override(folders)
    overrides = search + prepare_overrides([*search, *settings], sweep or show)[len(search) :]
    if "--dry-run" in flags:
        overrides.append("++dry_run=true")
    if show:
        _checked(compose_values(overrides))
        shown = [argument for argument in arguments if argument.startswith("-") or "=" not in argument]
        _show([*shown, *overrides])
    elif sweep:
        _sweep(overrides)
    else:
        _job(_checked(compose_values(overrides)))


def _split(arguments: list[str]) -> tuple[list[str], list[Path], set[str]]:
    """Settings, the folders of --config-dir, and flags; the values of Hydra's flags are neither."""
    settings, folders, flags = [], [], set()
    rest = iter(arguments)
    for argument in rest:
        flag, given, value = argument.partition("=")
        if not argument.startswith("-"):
            settings.append(argument)
        elif flag not in _FLAGS or (given and not flag.startswith("--")):
            raise UsageError(f"{argument}: there is no such option. Available: {list(_FLAGS)}{near(flag, _FLAGS)}")
        elif flag == "--config-dir":
            value = value if given else next(rest, "")
            if not value or value.startswith("-"):
                raise UsageError("--config-dir: name a folder")
            folders.append(Path(value).expanduser())
        else:
            flags.add(flag)
            if flag in ("--cfg", "-c", "--package", "-p") and not given:
                next(rest, None)
    return settings, folders, flags


def _show(arguments: list[str]) -> None:
    """What Hydra shows by itself: configuration, its own settings, completion."""
    from nmtrain.compose import run_hydra

    try:
        run_hydra(arguments, lambda values, number: None)
    except ValueError as error:  # flags that do not go together
        raise UsageError(str(error)) from error


def _checked(values: dict[str, Any]) -> Config:
    """The checked config; whether the results folder can be written is among the checks."""
    from nmtrain.config import ConfigError, check_config
    from nmtrain.training.folder import why_not_writable

    faults, results_dir = [], values.get("results_dir")
    if isinstance(results_dir, str) and (reason := why_not_writable(Path(os.path.expanduser(results_dir)))):
        faults = [f"results_dir={results_dir}: cannot be written ({reason}); name a folder that can"]
    try:
        config = check_config(values)
    except ConfigError as error:
        faults = error.faults + faults
    if faults:
        raise ConfigError(faults)
    return config


def _job(config: Config) -> None:
    """One run, or its dry run, and what the terminal shows of it."""
    if config.dry_run:
        from nmtrain.report.terminal import show_plan
        from nmtrain.training.plan import make_plan

        show_plan(make_plan(config))
        return
    from nmtrain.report.terminal import show_summary
    from nmtrain.training.folder import RunFolderError
    from nmtrain.training.run import run

    summary = run(config)
    try:
        show_summary(summary, config.run_folder)
    except (KeyError, TypeError) as error:  # of a run that finished before
        file = config.run_folder / "summary.json"
        raise RunFolderError(f"{file}: is damaged (no {error}); force=true repeats the run") from error


def _sweep(overrides: list[str]) -> None:
    """Check every combination, then train one after the other, or as the launcher does it.

    Combinations of one run folder are one run: only the first of them trains.
    """
    from nmtrain.compose import compose_values, run_hydra, sweep_combinations
    from nmtrain.config import ConfigError

    faults: list[str] = []
    configs: list[Config] = []
    for combination in sweep_combinations(overrides):
        try:
            configs.append(_checked(compose_values(combination)))
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if not faults:
        from nmtrain.training.plan import shape_faults

        faults = shape_faults(configs)
    if faults:
        raise ConfigError(faults)
    first: dict[Path, int] = {}
    for number, config in enumerate(configs):
        first.setdefault(config.run_folder, number)
    if all(config.dry_run for config in configs):  # nothing to hand to a launcher
        for number in first.values():
            _job(configs[number])
        return
    print(f"{len(first)} runs" + (f" ({len(configs)} combinations)" if len(configs) > len(first) else ""))
    repeats = {number: config.values for number, config in enumerate(configs) if first[config.run_folder] != number}
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # the exception itself instead of Hydra's report of it
    try:
        run_hydra(["-m", *overrides], partial(_sweep_job, repeats))
    except Exception as error:
        unfinished = [line for number in first.values() for line in _why_unfinished(configs[number])]
        if not unfinished:
            raise
        count = f"{len(unfinished)} of {len(first)} runs did not finish"
        raise SweepError("\n".join([count, *unfinished])) from error


def _sweep_job(repeats: dict[int, dict[str, Any]], values: dict[str, Any], number: int | None) -> None:
    """A failed run of a sweep says so at once; Hydra goes on and raises its exception in the end."""
    if number is not None and repeats.get(number) == values:
        return
    logger = logging.getLogger("nmtrain")
    _log_to_terminal(logger)  # a launcher's worker process starts without it
    config = _checked(values)
    logger.info("\nrun %s: %s", number, config.run_name)
    try:
        _job(config)
    except Exception as error:
        if _is_stop(error):
            raise KeyboardInterrupt(str(error)) from error  # Hydra takes any other exception for one run's failure
        logger.error("%s did not finish: %s", config.run_name, error)
        raise


def _why_unfinished(config: Config) -> list[str]:
    from nmtrain.training.folder import RunFolder

    folder = RunFolder(config.run_folder)
    status = folder.read_json("status.json") if (folder / "status.json").exists() else {"state": "not started"}
    if status["state"] == "finished":
        return []
    return [f"  {folder.path}: {status['state']}" + (f", {status['reason']}" if status.get("reason") else "")]


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
    found = groups()
    for group in arguments:
        if group not in found:
            raise UsageError(f"list {group}: there is no such group. Available: {list(found)}{near(group, found)}")
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
