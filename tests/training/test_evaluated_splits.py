"""Runs that are evaluated on validation and on test, and those of before there was a test split."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nmtrain.config.compose import evaluation_overrides
from nmtrain.errors import ConfigError
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.run import run


def lines(config, split):
    records = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["split"] == split]


def metrics(output) -> dict[str, float]:
    return {name: float(value) for name, _, value in (line.partition(": ") for line in output.splitlines())}


def test_a_run_on_the_test_split_says_so_everywhere_and_trains_the_same(make_config):
    on_val, on_test = make_config(), make_config("data.evaluate=test")
    assert (on_val.split, on_test.split) == ("val", "test")
    assert on_test.run_folder != on_val.run_folder
    summaries = [run(config) for config in (on_val, on_test)]
    assert summaries[0]["metrics"].keys() == {"val/accuracy", "val/loss", "val/top5"}
    assert summaries[1]["metrics"].keys() == {"test/accuracy", "test/loss", "test/top5"}
    assert summaries[1]["metrics"]["test/loss"] != summaries[0]["metrics"]["val/loss"]
    assert lines(on_test, "val") == lines(on_val, "test") == []
    assert [line["update"] for line in lines(on_test, "test")] == [4, 8]
    assert lines(on_test, "final")[0]["accuracy"] == summaries[1]["metrics"]["test/accuracy"]
    losses = [[line["loss"] for line in lines(config, "train")] for config in (on_val, on_test)]
    assert losses[0] == losses[1]
    weights = [load_file(config.run_folder / "model.safetensors") for config in (on_val, on_test)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    log = (on_test.run_folder / "train.log").read_text()
    assert "update 4 of 12, test: accuracy" in log
    assert "update 12 of 12, projected model, test: accuracy" in log


def test_a_run_of_before_there_was_a_test_split_evaluates_as_it_trained(make_config, nm):
    config = make_config("data.test_split=false")
    summary = run(config)
    file = config.run_folder / "config.yaml"
    values = yaml.safe_load(file.read_text())
    assert (values["data"].pop("test_split"), values["data"].pop("evaluate")) == (False, "val")
    file.write_text(yaml.safe_dump(values))
    status, out, _ = nm("eval", str(config.run_folder))
    assert status == 0
    assert metrics(out) == pytest.approx(summary["metrics"], abs=1e-5)


def test_a_users_own_yaml_may_leave_out_options_of_its_data(make_config, nm):
    values = make_config().values
    config = make_config("~data.test_split", "~data.evaluate")
    assert config.values == values
    summary = run(config)
    status, out, _ = nm("eval", str(config.run_folder))
    assert status == 0
    assert metrics(out) == pytest.approx(summary["metrics"], abs=1e-5)


def test_data_that_a_run_may_have_trained_on_are_not_scored(make_config):
    config = make_config("data.test_split=false")
    run(config)
    for split in ("val", "test"):
        with pytest.raises(ConfigError, match=r"data\.test_split=true: was false in training") as refusal:
            evaluate_run(
                config.run_folder, evaluation_overrides([f"data.evaluate={split}", "data.test_split=true"], [])
            )
        assert len(refusal.value.faults) == 1
    assert not (config.run_folder / "test").exists()
