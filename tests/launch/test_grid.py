"""A sweep's identity: the same line goes on, a longer one extends it, and what its finished runs had is compared."""

import json

import pytest
import yaml

from nmtrain.config.compose import compose_values, prepare_overrides, sweep_combinations
from nmtrain.errors import ConfigError
from nmtrain.launch.grid import Job, in_order, keep_sweep
from nmtrain.launch.job import checked
from nmtrain.runs.sweeps import code_digest, read_sweep


@pytest.fixture
def jobs_of(tiny):
    """The prepared overrides of a line over the tiny config, and its jobs."""

    def make(*line):
        overrides = prepare_overrides([*tiny, *line], sweep=True)
        return overrides, [Job(one, checked(compose_values(one))) for one in sweep_combinations(overrides)]

    return make


def finish(job, code=None, data=None):
    """Leave a run's folder as if it had finished."""
    folder = job.config.run_folder
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"state": "finished", "reason": null}')
    (folder / "config.yaml").write_text(yaml.safe_dump(job.config.values))
    environment = {"code": code or code_digest(), "git_commit": "0123abc", "data": data or {}}
    (folder / "environment.json").write_text(json.dumps(environment))


def names(file):
    return [run.run.rpartition("-")[0] for run in read_sweep(file).runs]


def test_the_file_says_which_runs_a_line_has_and_what_they_share(jobs_of, tmp_path):
    file = keep_sweep(*jobs_of("recipe=ste,dense", "seed=0,1"))
    assert file.parent == tmp_path / "runs" / "sweeps"
    assert file.name.startswith("vit-digits-")
    sweep = read_sweep(file)
    assert names(file) == [f"vit-digits-{what}" for what in ("1of8-ste-s0", "1of8-ste-s1", "dense-s0", "dense-s1")]
    assert sweep.runs[1].settings == ["recipe=ste", "seed=1", "sparsity=1:8"]
    assert sweep.base["train.updates"] == 12
    assert not {"seed", "recipe.name", "results_dir", "train.keep"} & sweep.base.keys()
    assert sweep.code == code_digest()
    assert "recipe=ste,dense" in sweep.line


def test_a_longer_line_extends_its_sweep_and_a_shorter_one_takes_nothing_from_it(jobs_of):
    first = keep_sweep(*jobs_of("recipe=ste", "seed=0,1"))
    assert keep_sweep(*jobs_of("recipe=dense,ste", "seed=0,1,2", "train.log_every=3")) == first
    assert len(names(first)) == 6
    assert keep_sweep(*jobs_of("recipe=ste", "seed=0")) == first
    assert len(names(first)) == 6
    assert keep_sweep(*jobs_of("recipe=ste", "seed=0,1", "train.updates=3")) != first


def test_the_cluster_and_what_changes_no_result_make_no_other_sweep(jobs_of):
    line = ["recipe=ste", "seed=0,1"]
    more = ["cluster=local", "cluster.jobs=4", "retry=false", "tracking=tensorboard", "hydra/launcher=joblib"]
    assert keep_sweep(*jobs_of(*line)) == keep_sweep(*jobs_of(*line, *more))


def edited(job, *changes):
    """The job as it would be after an edit of the YAML files that its line names."""
    return Job(job.overrides, checked(compose_values([*job.overrides, *prepare_overrides([*changes])])))


def test_another_base_config_is_told_before_anything_starts(jobs_of):
    overrides, jobs = jobs_of("seed=0,1")
    file = keep_sweep(overrides, jobs)
    finish(jobs[0])
    others = [edited(job, "optim.weight_decay=0.5", "train.log_every=1") for job in jobs]
    before = file.read_bytes()
    with pytest.raises(ConfigError) as refusal:
        keep_sweep(overrides, others)
    assert refusal.value.faults == [
        f"optim.weight_decay=0.5: is {jobs[0].config.optim.weight_decay:g} in finished runs of this sweep (1)",
        "allow_changed=true goes on, with runs that differ in that",
    ]
    assert file.read_bytes() == before
    keep_sweep(overrides, [edited(job, "optim.weight_decay=0.5", "allow_changed=true") for job in jobs])
    assert {run.run for run in read_sweep(file).runs} == {job.config.run_name for job in others}


def test_runs_that_did_not_finish_bind_no_one(jobs_of):
    overrides, jobs = jobs_of("seed=0,1")
    file = keep_sweep(overrides, jobs)
    keep_sweep(overrides, [edited(job, "optim.weight_decay=0.5") for job in jobs])
    assert len(names(file)) == 2


def test_other_code_is_told_and_a_run_of_a_version_that_did_not_say_is_taken(jobs_of):
    overrides, jobs = jobs_of("seed=0,1")
    finish(jobs[0], code="other")
    finish(jobs[1])
    with pytest.raises(ConfigError) as refusal:
        keep_sweep(overrides, jobs)
    name = jobs[0].config.run_name
    told = f"code: finished runs of this sweep were trained by another version (0123abc): {name}"
    assert refusal.value.faults[0] == told
    environment = jobs[0].config.run_folder / "environment.json"
    environment.write_text(json.dumps({"git_commit": "0123abc"}))
    keep_sweep(overrides, jobs)


def test_other_data_is_told_by_the_name_of_the_file(jobs_of, tmp_path, monkeypatch):
    overrides, jobs = jobs_of("seed=0,1")
    monkeypatch.setattr("nmtrain.training.loading.input_digests", lambda config: {"/data/train.txt": "new"})
    finish(jobs[0], data={"/data/train.txt": "old", "/data/elsewhere.txt": "old", "examples": "x"})
    with pytest.raises(ConfigError) as refusal:
        keep_sweep(overrides, jobs)
    assert refusal.value.faults[0] == "data: /data/train.txt is not what finished runs of this sweep read"


def test_a_damaged_file_is_written_anew_and_names_no_other_folder(jobs_of):
    overrides, jobs = jobs_of("seed=0,1")
    file = keep_sweep(overrides, jobs)
    content = json.loads(file.read_text())
    content["runs"][0]["run"] = "../../outside"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"the run '\.\./\.\./outside' is no name"):
        read_sweep(file)
    keep_sweep(overrides, jobs)
    assert len(names(file)) == 2


def test_runs_are_ordered_by_seed_or_by_cost(jobs_of):
    written = [("dense", 0), ("dense", 1), ("ste", 0), ("ste", 1)]
    by_seed = [("dense", 0), ("ste", 0), ("dense", 1), ("ste", 1)]
    cheapest = [("ste", 0), ("ste", 1), ("dense", 0), ("dense", 1)]
    for order, expected in (("null", written), ("seed", by_seed), ("cost", cheapest)):
        _, jobs = jobs_of("seed=0,1", "recipe=dense,ste", f"cluster.order={order}")
        jobs.sort(key=lambda job: (job.config.recipe.name, job.config.seed))
        assert [(job.config.recipe.name, job.config.seed) for job in in_order(jobs)] == expected
