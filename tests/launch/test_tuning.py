"""Tuning: what is tried, what is refused, what is chosen, and that the same command goes on."""

import json

import pytest

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides, sweep_combinations
from nmtrain.errors import ConfigError
from nmtrain.launch.tuning import choose, parse_tune, trial_overrides, why_not_chosen
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.tuning import read_tuning

DIGITS = ["data=digits", "train.updates=2", "model.options.depth=1", "model.options.embed_dim=32", "measure=off"]


def faults_of(tune):
    with pytest.raises(ConfigError) as raised:
        parse_tune(tune)
    return raised.value.faults


def test_the_grid_is_every_combination_the_last_key_fastest():
    tune = parse_tune({"optim.lr": [1, 2], "optim": {"schedule": ["cosine", "wsd"]}, "seed": [7, 8]})
    assert tune.seeds == [7, 8]
    assert [tuple(point.values()) for point in tune.points] == [(1, "cosine"), (1, "wsd"), (2, "cosine"), (2, "wsd")]
    assert list(tune.grid) == ["optim.lr", "optim.schedule"]


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"optim.lr": [0.1]}, "tune.optim.lr=[0.1]: must be a list of two or more different values"),
        ({"optim.lr": [0.1, 0.1]}, "tune.optim.lr=[0.1,0.1]: must be a list of two or more different values"),
        ({"optim.lr": 0.1}, "tune.optim.lr=0.1: must be a list of two or more different values"),
        ({"recipe": ["mdgf", "sdgf"]}, "tune.recipe=[mdgf,sdgf]: is what a sweep compares; tune another key"),
        ({"measure.every": [1, 2]}, "tune.measure.every=[1,2]: changes nothing about a result; tune another key"),
        ({"measure": ["off", "default"]}, "tune.measure=[off,default]: changes nothing about a result"),
        ({"train.epochs": [1, 2]}, "tune.train.epochs=[1,2]: is what runs are compared at; tune another key"),
        ({"data.evaluate": ["val", "test"]}, "tune.data.evaluate=[val,test]: tuning looks at validation only"),
        ({"optim.lr": [1, 2], "seed": [1, 1]}, "tune.seed=[1,1]: names a seed more than once"),
        ({"optim.lr": [1, 2], "seed": [True]}, "tune.seed=[true]: must be a list of seeds"),
        ({}, "tune={}: must name keys and the values to try"),
    ],
)
def test_a_grid_that_tries_nothing_is_refused(tune, message):
    (fault,) = faults_of(tune)
    assert fault.startswith(message)


def test_tuning_runs_measure_no_noise_and_are_the_same_with_and_without_it():
    tune = parse_tune({"optim.lr": [0.1, 0.2]})
    plain, *others = (
        [
            check_config(compose_values(one)).run_name
            for one in sweep_combinations(trial_overrides(prepare_overrides(["recipe=mdgf", *line], sweep=True), tune))
        ]
        for line in ([], ["measure.every=10"], ["measure.patterns=[1:8,1:32]"], ["measure=off"])
    )
    assert len(set(plain)) == 2
    assert others == [plain] * 3


def configs_of(tmp_path, tune, overrides=()):
    configs = []
    for point in tune.points:
        settings = [f"{key}={value}" for key, value in point.items()]
        for seed in tune.seeds:
            line = [*DIGITS, *overrides, *settings, f"seed={seed}", f"results_dir={tmp_path}", "recipe=mdgf"]
            configs.append(check_config(compose_values(prepare_overrides(line))))
    return configs


def finish(config, score, headline="accuracy"):
    folder = RunFolder(config.run_folder)
    folder.prepare()
    folder.write_json("summary.json", {"headline": headline, "metrics": {f"val/{headline}": score}})
    folder.set_status("finished")


def test_the_best_mean_over_tuning_seeds_wins(tmp_path):
    tune = parse_tune({"optim.lr": [0.1, 0.2, 0.3], "seed": [7, 8]})
    trials = configs_of(tmp_path, tune)
    for config, score in zip(trials, [0.5, 0.5, 0.9, 0.3, 0.8, 0.2], strict=True):
        finish(config, score)
    cell = choose(tune, trials, [])
    assert [trial.score for trial in cell.trials] == [0.5, 0.6, 0.5]
    assert cell.trials[cell.chosen].values == {"optim.lr": 0.2}
    assert cell.edges(tune.grid) == []
    assert (cell.variant, cell.pattern, cell.headline) == ("mdgf_exponential", "1:32", "accuracy")


def test_what_is_chosen_names_the_recipe(tmp_path):
    tune = parse_tune({"recipe.decay": ["linear", "exponential"], "seed": [7, 8]})
    trials = configs_of(tmp_path, tune)
    for config, score in zip(trials, [0.5, 0.5, 0.9, 0.3], strict=True):
        finish(config, score)
    assert choose(tune, trials, []).variant == "mdgf_exponential"


@pytest.mark.parametrize(("headline", "lr"), [("accuracy", 0.3), ("loss", 0.1)])
def test_best_is_lowest_where_lower_is_better_and_an_edge_is_told(tmp_path, headline, lr):
    tune = parse_tune({"optim.lr": [0.3, 0.1, 0.2], "optim.schedule": ["wsd", "cosine"]})
    trials = configs_of(tmp_path, tune)
    for config in trials:
        finish(config, config.optim.lr, headline)
    cell = choose(tune, trials, [])
    assert cell.trials[cell.chosen].values == {"optim.lr": lr, "optim.schedule": "wsd"}  # the first of equals
    assert cell.edges(tune.grid) == ["optim.lr"]


def test_a_point_of_which_a_seed_diverged_is_not_chosen(tmp_path):
    tune = parse_tune({"optim.lr": [0.1, 0.2], "seed": [7, 8]})
    trials = configs_of(tmp_path, tune)
    for config, score in zip(trials, [0.9, None, 0.3, 0.2], strict=True):
        finish(config, score)
    RunFolder(trials[1].run_folder).set_status("failed", "the training loss is nan (updates 1 to 4)")
    cell = choose(tune, trials, [])
    assert [trial.scores for trial in cell.trials] == [[0.9, None], [0.3, 0.2]]
    assert cell.chosen == 1
    for config in trials:
        RunFolder(config.run_folder).set_status("failed", "3 weights are not finite after update 2")
    assert choose(tune, trials, []).chosen is None
    assert why_not_chosen(trials) == "every value tried for mdgf_exponential at 1:32 diverged; tune other values"


def test_nothing_is_chosen_while_a_run_is_neither_finished_nor_diverged(tmp_path):
    tune = parse_tune({"optim.lr": [0.1, 0.2]})
    trials = configs_of(tmp_path, tune)
    finish(trials[0], 0.9)
    for status in (("running",), ("failed", "out of memory")):
        finish(trials[1], 0.3)
        RunFolder(trials[1].run_folder).set_status(*status)
        cell = choose(tune, trials, [])
        assert (cell.chosen, cell.best, cell.edges(tune.grid)) == (None, None, [])
    said = "no value was chosen for mdgf_exponential at 1:32, of which a tuning run did not finish"
    assert why_not_chosen(trials) == f"{said}; the same line goes on"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["tune={train.log_every:[1,2]}"], "tune.train.log_every=[1,2]: changes nothing about a result"),
        (["tune={optim.lr:[1,2]}", "optim.lr=1"], "optim.lr: is given and tuned; leave one of them out"),
        (["tune={optim.lr:[1,2]}", "seed=0,100"], "seed=100: is a seed of tuning too, which must not judge"),
        (["tune={optim.lr:[1,-2]}"], "optim.lr=-2: should be greater than 0"),
        (["tune={optim.lrr:[1,2]}"], "optim.lrr=1: there is no such key."),
        (["tune=[1,2]"], "tune=[1,2]: should be a section of keys and values"),
    ],
)
def test_bad_tuning_is_refused_before_anything_trains(nm, tmp_path, line, message):
    status, _, err = nm("-m", *DIGITS, f"results_dir={tmp_path / 'runs'}", *line)
    assert status == 2
    assert err.startswith(message)
    assert not (tmp_path / "runs").exists()


def test_a_single_run_tunes_nothing(nm):
    status, _, err = nm(*DIGITS, "tune={optim.lr:[1e-3,3e-3]}")
    assert (status, err) == (2, "tune={optim.lr:[0.001,0.003]}: is done by a sweep; add -m\n")


def test_a_dry_run_shows_each_tuning_run_and_how_many_follow(nm, tmp_path):
    line = ["recipe=dense,sr_ste", "sparsity=1:4,1:8", "seed=0,1", "tune={optim.lr:[1e-3,3e-3]}"]
    status, out, _ = nm("-m", *DIGITS, f"results_dir={tmp_path / 'runs'}", *line, "--dry-run")
    assert status == 0
    assert out.count("│ planned") == 6  # dense is tuned once for both patterns
    assert out.endswith("then the final runs with the best values, scored on test: 6\n")


@pytest.mark.slow
def test_a_tuned_sweep_goes_from_the_grid_to_test_scores_and_goes_on_where_it_was(nm, tmp_path):
    runs = tmp_path / "runs"
    line = ["-m", *DIGITS, f"results_dir={runs}", "recipe=dense,sr_ste", "sparsity=1:4", "seed=0"]
    line.append("tune={optim.lr:[3e-2,1e-3]}")
    status, out, err = nm(*line)
    assert status == 0, err
    (record,) = (runs / "tuning").iterdir()
    tuning = read_tuning(record)
    assert [(cell.variant, cell.pattern) for cell in tuning.cells] == [("dense", None), ("sr_ste", "1:4")]
    for cell in tuning.cells:
        best = cell.trials[cell.chosen]
        assert best.score == max(trial.score for trial in cell.trials)
        (final,) = cell.finals
        summary = json.loads((runs / final / "summary.json").read_text())
        assert set(summary["metrics"]) >= {"test/accuracy"}
        assert f"lr: {best.values['optim.lr']}\n" in (runs / final / "config.yaml").read_text()
        assert "seed: 100\n" in (runs / best.runs[0] / "config.yaml").read_text()
        assert "evaluate: val\n" in (runs / best.runs[0] / "config.yaml").read_text()
    assert "2 of 6 runs are finished and counted" not in out  # the closing table is of the final runs alone
    assert "2 of 2 runs are finished and counted" in out
    assert "optim.lr=tuned)" in out

    before = record.read_bytes()
    changed = {path: path.stat().st_mtime_ns for path in runs.rglob("summary.json")}
    (runs / tuning.cells[1].finals[0] / "status.json").write_text('{"state": "running", "reason": null}')
    status, _, err = nm(*line)
    assert status == 0, err
    assert record.read_bytes() == before
    repeated = [path for path, time in changed.items() if path.stat().st_mtime_ns != time]
    assert [path.parent.name for path in repeated] == tuning.cells[1].finals


@pytest.mark.slow
def test_a_recipe_that_diverged_everywhere_ends_no_other_and_lines_of_other_seeds_add_up(nm, tmp_path):
    runs = tmp_path / "runs"
    line = ["-m", *DIGITS, f"results_dir={runs}", "recipe=dense,sr_ste", "sparsity=1:4", "tune={optim.lr:[3e-2,1e-3]}"]
    assert nm(*line, "seed=0")[0] == 0
    (first,) = (runs / "tuning").iterdir()
    for trial in read_tuning(first).cells[1].trials:
        RunFolder(runs / trial.runs[0]).set_status("failed", "the training loss is nan (updates 1 to 4)")
    status, out, err = nm(*line, "seed=1")
    assert status == 1
    assert err.strip().endswith("every value tried for sr_ste at 1:4 diverged; tune other values")
    assert "1 of 1 runs are finished and counted" in out
    records = [read_tuning(path) for path in (runs / "tuning").iterdir()]
    assert sorted(name[:-9] for record in records for name in record.cells[0].finals) == [
        "vit-digits-dense-s0",
        "vit-digits-dense-s1",
    ]
    assert {record.cells[1].chosen is None: len(record.cells[1].finals) for record in records} == {False: 1, True: 0}


def test_a_choice_of_a_group_can_be_tuned(nm, tmp_path):
    line = ["recipe=dense", "tune={optim:[adamw,adafactor]}", "--dry-run"]
    status, out, err = nm("-m", *DIGITS, f"results_dir={tmp_path / 'runs'}", *line)
    assert status == 0, err
    assert "to train: 2 runs, " in out
