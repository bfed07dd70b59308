"""The one entrypoint. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nmtrain
from nmtrain.config.choices import described, near
from nmtrain.errors import NmtrainError, PluginError, UsageError
from nmtrain.launch.plugins import conf_folders, load_plugins, origin, without_yaml
from nmtrain.launch.requeue import heed_outside_training
from nmtrain.runs.loaded import place
from nmtrain.runs.weights import BEST, EMA, LAST, Weights
from nmtrain.training.distribution.place import Place, place_among_ranks

if TYPE_CHECKING:
    from nmtrain.training.distribution.ranks import Ranks

HELP = """\
nmtrain: train N:M structured-sparse networks

  nmtrain model=vit sparsity=1:32 recipe=sdgf        train one run (the word `train` is optional)
  nmtrain ... --dry-run                              check everything, show phases, tensors, cost; train nothing
  nmtrain -m recipe=dense,sr_ste,mdgf,sdgf sparsity=1:8,1:32 seed=0,1,2     sweep, one run after the other
  nmtrain -m experiment=paper/table_ff_mini          a sweep by name (nmtrain list paper)
  nmtrain eval RUN [data.path=NEW ...]               score a finished run's model again, also on data that moved
  nmtrain eval RUN data.evaluate=test                score it on the test split; RUN/test/metrics.json keeps it
  nmtrain export RUN [--out DIR]                     write its model for plain timm or transformers
  nmtrain eval|export RUN --ema | --best             averaged weights, or the best (train.ema, train.keep_best)
  nmtrain report [FOLDERS] [--out DIR]               tables, plots and a page from run folders
  nmtrain status [FOLDERS] [--watch]                 a line a run: how far, how fast, where, what is planned
  nmtrain clean [FOLDERS] [--dry-run]                remove the checkpoints of finished runs
  nmtrain list [GROUP]                               what there is to choose
  nmtrain --cfg job                                  print the whole configuration
  nmtrain --config-dir DIR experiment=NAME           use DIR/experiment/NAME.yaml of your own
  nmtrain --plugins DIR ...                          recipes, models and data of your own, with any command

Settings are key=value; every key stands with its comment in conf/ (nmtrain --cfg job prints them all):
  model=vit data=glyphs recipe=sdgf optim=adamw experiment=smoke
  sparsity=1:32 seed=0 mask.roles=[ff,q,k] mask.patterns.q=1:4 recipe.finetune_fraction=0.2 train.epochs=5
The same command resumes a run that was interrupted, and does nothing if it is finished (force=true repeats it).
Shell completion: eval "$(nmtrain -sc install=bash)"
"""


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
    commands = {
        "clean": _clean,
        "eval": _eval,
        "export": _export,
        "list": _list,
        "report": _report,
        "status": _status,
        "train": _train,
    }
    try:
        arguments, plugins = _take("--plugins", arguments)
        first = arguments[0] if arguments else "train"
        if first == "help" or {"-h", "--help"} & set(arguments):
            print(HELP, end="")
            return 0
        if first == "--version":
            print(nmtrain.__version__)
            return 0
        if (stand := place_among_ranks()) is not None:
            return _train_together(stand, arguments, plugins)
        load_plugins(plugins)
        if first in commands:
            commands[first](arguments[1:])
        elif _is_training(first):
            _train(arguments)
        else:
            raise UsageError(
                f"{first}: is neither a command nor of the form key=value (nmtrain --help)."
                f" Commands: {list(commands)}{near(first, commands)}"
            )
    except KeyboardInterrupt as interrupt:  # before or after the updates, or in a sweep, which stops as a whole
        print(f"stopped: {str(interrupt) or 'SIGINT'}; the same command resumes", file=sys.stderr)
        return 130
    except NmtrainError as error:
        print(error.told(), file=sys.stderr)
        return error.exit_status
    except Exception as error:
        if (where := place(error)) is None:
            raise
        print(f"{where}: {type(error).__name__}: {error}", file=sys.stderr)  # of a plug-in's own code
        return PluginError.exit_status
    return 0


def _is_training(first: str) -> bool:
    """Whether a first argument is a setting or a flag."""
    return "=" in first or first.startswith(("-", "~"))


def _train_together(stand: Place, arguments: list[str], plugins: list[str]) -> int:
    """The `train` command in one of several processes that a launcher has started."""
    from nmtrain.launch.job import log_to_terminal
    from nmtrain.launch.ranks import together

    def work(ranks: Ranks) -> None:
        load_plugins(plugins)
        if arguments and not _is_training(arguments[0]) and arguments[0] != "train":
            raise UsageError(f"{arguments[0]}: is done by one process, and WORLD_SIZE={stand.world} were started")
        _train(arguments[1:] if arguments[:1] == ["train"] else arguments, ranks)

    log_to_terminal(stand.rank)
    together(stand, work, lambda error: print(error.told(), file=sys.stderr))
    return 0


# Flags of Hydra that show something and run nothing.
_SHOWING = ("--cfg", "-c", "--package", "-p", "--resolve", "--info", "-i", "--shell-completion", "-sc", "--hydra-help")
_FLAGS = ("-m", "--multirun", "--dry-run", "--config-dir", "--plugins", "--help", "--version", *_SHOWING)
_BARE = ("--multirun", "--dry-run", "--resolve", "--help", "--version", "--hydra-help")


def _train(arguments: list[str], ranks: Ranks | None = None) -> None:
    from nmtrain.config.compose import (
        compose_values,
        prepare_overrides,
        require_no_axes,
        search_in_everything,
        search_path_override,
        with_axes,
    )
    from nmtrain.launch.job import (
        checked,
        log_to_terminal,
        require_measured,
        require_single,
        run_job,
        run_under_launcher,
    )

    heed_outside_training()
    settings, folders, flags, shown = _split(arguments)
    show_config = bool(flags & {"--cfg", "-c"})
    if flags & set(_SHOWING) and not show_config:
        search_in_everything(conf_folders())
        _show(arguments)
        return
    sweep = bool(flags & {"-m", "--multirun"})
    if show_config and sweep:
        raise UsageError("--cfg shows one configuration: leave -m out")
    if sweep and ranks is not None:
        told = "a sweep starts the processes of each run itself: nmtrain -m ... launch.processes="
        raise UsageError(f"-m: {told}{ranks.world}, or launch.gpus={ranks.world}, without another launcher")
    search = search_path_override([*conf_folders(), *folders])
    overrides = search + prepare_overrides([*search, *settings], sweep or show_config)[len(search) :]
    if "--dry-run" in flags:
        overrides.append("++dry_run=true")
    if show_config:
        checked(compose_values(overrides))
        _show([*shown, *overrides])
    elif sweep:
        from nmtrain.launch.sweep import run_sweep

        run_sweep(with_axes(overrides))
    else:
        require_no_axes(overrides)
        if ranks is None:
            log_to_terminal()
        config = checked(compose_values(overrides))
        require_single(config)
        require_measured([config])
        if ranks is None:
            run_job(config)
        else:
            run_under_launcher(config, ranks)


def _split(arguments: list[str]) -> tuple[list[str], list[Path], set[str], list[str]]:
    """Settings, the folders of --config-dir, the flags, and those among them that are Hydra's, with their values."""
    settings: list[str] = []
    folders: list[Path] = []
    flags: set[str] = set()
    shown: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, given, value = argument.partition("=")
        if not argument.startswith("-"):
            settings.append(argument)
        elif flag not in _FLAGS or (given and not flag.startswith("--")):
            raise UsageError(f"{argument}: there is no such option. Available: {list(_FLAGS)}{near(flag, _FLAGS)}")
        elif given and flag in _BARE:
            raise UsageError(f"{argument}: takes no value; it is given or left out")
        elif flag == "--config-dir":
            value = value if given else next(rest, "")
            if not value or value.startswith("-"):
                raise UsageError("--config-dir: name a folder")
            folders.append(Path(value).expanduser())
        else:
            flags.add(flag)
            if flag in _SHOWING:
                shown.append(argument)
            if flag in ("--cfg", "-c", "--package", "-p") and not given:
                shown += [next(rest, "")]
    return settings, folders, flags, shown


def _show(arguments: list[str]) -> None:
    """What Hydra shows by itself: configuration, its own settings, completion."""
    from nmtrain.config.compose import run_hydra

    try:
        run_hydra(arguments)
    except ValueError as error:  # flags that do not go together
        raise UsageError(str(error)) from error


# A key has no slash, and so is no folder's path.
_SETTING = re.compile(r"\+{0,2}[\w.]+=")


def _eval(arguments: list[str]) -> None:
    arguments, weights = _take_weights(arguments)
    settings = [argument for argument in arguments if _SETTING.match(argument)]
    paths = [argument for argument in arguments if argument not in settings]
    run = _finished_run(paths, "eval RUN [data.KEY=VALUE ...]", weights)
    from nmtrain.config.compose import evaluation_overrides

    overrides = evaluation_overrides(settings, conf_folders())
    from nmtrain.training.evaluation import evaluate_run, write_evaluation

    evaluation = evaluate_run(run, overrides, weights)
    for name, value in evaluation["metrics"].items():
        print(f"{name}: {value:.6f}")
    if evaluation["split"] == "test" and (earlier := write_evaluation(run, evaluation, weights)):
        print(f"other metrics or data stood there before: {earlier} keeps them")


def _export(arguments: list[str]) -> None:
    arguments, weights = _take_weights(arguments)
    paths, outs = _take("--out", arguments)
    run = _finished_run(paths, "export RUN [--out DIR]", weights)
    from nmtrain.training.export import export_run

    out = Path(outs[-1]).expanduser() if outs else run / weights.named("export")
    print(f"{out}: load it with {export_run(run, out, weights)}")


def _report(arguments: list[str]) -> None:
    paths, outs = _take("--out", arguments)
    if any(path.startswith("-") for path in paths):
        raise UsageError("usage: nmtrain report [FOLDERS] [--out DIR]")
    from nmtrain.report.draw.processes import start_server

    start_server()  # it imports what draws while this process imports what reads
    from nmtrain.report import write_report

    result = write_report(
        [Path(path).expanduser() for path in paths or ["results/runs"]],
        Path(outs[-1] if outs else "results/report").expanduser(),
    )
    print(result.table)
    print(f"\nreport: {result.paths[0]}")


def _clean(arguments: list[str]) -> None:
    paths = [argument for argument in arguments if argument != "--dry-run"]
    if any(path.startswith("-") for path in paths):
        raise UsageError("usage: nmtrain clean [FOLDERS] [--dry-run]")
    from nmtrain.launch.clean import clean

    clean([Path(path).expanduser() for path in paths or ["results/runs"]], dry_run="--dry-run" in arguments)


def _status(arguments: list[str]) -> None:
    paths = [argument for argument in arguments if argument != "--watch"]
    if any(path.startswith("-") for path in paths):
        raise UsageError("usage: nmtrain status [FOLDERS] [--watch]")
    from nmtrain.launch.status import show_status

    show_status([Path(path).expanduser() for path in paths or ["results/runs"]], watch="--watch" in arguments)


def _take(option: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without ``option FOLDER`` and ``option=FOLDER``, and the folders."""
    rest: list[str] = []
    folders: list[str] = []
    given = iter(arguments)
    for argument in given:
        flag, equals, value = argument.partition("=")
        if flag != option:
            rest.append(argument)
            continue
        value = value if equals else next(given, "")
        if not value or value.startswith("-"):
            raise UsageError(f"{option}: name a folder")
        folders.append(value)
    return rest, folders


def _take_weights(arguments: list[str]) -> tuple[list[str], Weights]:
    """The arguments without ``--ema`` and ``--best``, and the weights that they choose."""
    flags = {"--ema": EMA, "--best": BEST}
    chosen = {flag for flag in flags if flag in arguments}
    if len(chosen) > 1:
        raise UsageError("--ema and --best: are two kinds of weights; name one")
    rest = [argument for argument in arguments if argument not in chosen]
    return rest, next((flags[flag] for flag in chosen), LAST)


def _list(arguments: list[str]) -> None:
    found = described(conf_folders())
    for group, name, plugin in list(without_yaml(found)):
        found[group][name] = f"no choice yet: it needs the file {plugin.yaml(group, name)}"
    folders: dict[str, dict[str, str]] = {}
    for name, description in found["experiment"].items():
        if "/" in name:  # experiment=paper/table_ff
            folders.setdefault(name.partition("/")[0], {})[name] = description
    shown = {name: ("experiment", options) for name, options in folders.items()}
    shown = {group: (group, options) for group, options in found.items()} | shown
    for given in arguments:
        if given not in shown:
            raise UsageError(f"list {given}: there is no such group. Available: {list(shown)}{near(given, shown)}")
    for given in arguments or found:
        group, options = shown[given]
        print(given)
        width = max(18, *map(len, options))
        for name, description in options.items():
            source = origin(group, name)
            print(f"  {name:{width}} {description}" + (f" ({source})" if source else ""))


def _finished_run(arguments: list[str], usage: str, weights: Weights) -> Path:
    """The one argument of a command, checked before anything heavy is imported."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UsageError(f"usage: nmtrain {usage}")
    from nmtrain.runs.folder import RunFolder

    run = Path(arguments[0]).expanduser()
    RunFolder(run).require_finished()
    weights.require(RunFolder(run))
    return run


if __name__ == "__main__":
    main()
