"""`nmtrain eval RUN data.KEY=VALUE`: other places, another split, and data that the model is not made for."""

import json
import shutil

import pytest

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.training.evaluation import write_evaluation
from nmtrain.training.run import run

TINY = ["sparsity=1:8", "train.updates=2", "train.batch_size=8", "measure=off"]
T5 = ["model=t5", "model.options.d_model=64", "model.options.d_ff=64", "model.options.num_layers=1"]
T5 += ["model.options.num_decoder_layers=1"]
LISTOPS = ["data=listops", "data.train_size=64", "data.val_size=20", "data.test_size=12", "data.max_length=24"]
UNCHANGED = "not what this run began with"


def finished(root, *overrides):
    line = [*TINY, f"results_dir={root}/runs", *overrides]
    config = check_config(compose_values(prepare_overrides(line)))
    run(config)
    return config.run_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of a second, each trained once, by name."""
    root = tmp_path_factory.mktemp("made")
    data = root / "data"
    (data / "rte").mkdir(parents=True)
    for split, count in {"train": 40, "validation": 12, "test": 9}.items():
        for language in ("en", "de"):
            lines = "".join(f"{language} {split} {number}\n" for number in range(count))
            (data / f"{split}.{language}").write_text(lines)
    for split in ("train", "validation"):
        rows = "".join(f"a {number},{split},{number % 2}\n" for number in range(16))
        (data / "rte" / f"{split}.csv").write_text(f"sentence1,sentence2,label\n{rows}")
    cache = f"data.cache_dir={root}/cache"
    return {
        "digits": finished(root, "experiment=smoke", "model.options.depth=1", "model.options.embed_dim=64"),
        "listops": finished(root, *T5, *LISTOPS, cache),
        "wmt": finished(root, *T5, "data=wmt", f"data.path={data}", "data.input_length=48", cache),
        "glue": finished(
            root,
            "model=bert",
            *(f"model.options.{size}=64" for size in ("hidden_size", "intermediate_size", "max_position_embeddings")),
            *("data=glue", "data.task=rte", f"data.path={data}", "data.input_length=32", cache),
        ),
    }


@pytest.fixture
def copy(made, tmp_path):
    """A copy of a run's folder, and of the data that it began with under a new name with a space."""

    def make(name):
        folder = tmp_path / "a copy"
        shutil.copytree(made[name], folder)
        data = tmp_path / "new place"
        shutil.copytree(made[name].parent.parent / "data", data)
        return folder, data

    return make


def lines(out):
    return dict(line.split(": ") for line in out.splitlines())


def test_the_test_split_is_printed_and_kept_in_the_run_folder(nm, copy):
    folder, _ = copy("listops")
    status, out, err = nm("eval", str(folder), "data.evaluate=test")
    assert (status, err) == (0, "")
    kept = json.loads((folder / "test" / "metrics.json").read_text())
    assert lines(out) == {name: f"{value:.6f}" for name, value in kept["metrics"].items()}
    expected = {"run", "split", "headline", "metrics", "fixes", "data", "digests", "versions"}
    assert set(kept) == expected
    assert (kept["run"], kept["split"], kept["headline"]) == ("a copy", "test", "accuracy")
    assert (kept["metrics"]["test/accuracy"] * 12) % 1 == pytest.approx(0)  # of 12 examples, not of the 20
    assert kept["data"]["evaluate"] == "test"
    assert kept["data"]["name"] == "listops"
    assert set(kept["digests"]) == {"examples"}
    assert kept["fixes"] == json.loads((folder / "summary.json").read_text())["fixes"]
    assert kept["versions"]["torch"]


def test_validation_is_printed_and_nothing_is_written(nm, copy):
    folder, _ = copy("listops")
    before = sorted(folder.rglob("*"))
    status, out, _ = nm("eval", f"{folder}/", "train.eval_batch_size=7", "train.device=cpu")
    assert status == 0
    summary = json.loads((folder / "summary.json").read_text())
    printed = {name: float(value) for name, value in lines(out).items()}
    assert printed == pytest.approx(summary["metrics"], rel=1e-5, abs=1e-6)
    assert sorted(folder.rglob("*")) == before


def test_a_translation_says_how_its_test_was_scored(nm, copy):
    folder, data = copy("wmt")
    status, _, err = nm("eval", f"data.path={data}/", "data.evaluate=test", str(folder))
    assert (status, err) == (0, "")
    kept = json.loads((folder / "test" / "metrics.json").read_text())
    assert kept["signatures"]["bleu"].startswith("nrefs:1|")
    assert set(kept["digests"]) == {"examples", *(f"{data}/{s}.{of}" for s in ("train", "test") for of in ("en", "de"))}


def test_metrics_that_cannot_be_written_are_printed(nm, copy):
    folder, _ = copy("listops")
    (folder / "test").touch()  # tests may run as root, whom no permission stops
    status, out, err = nm("eval", str(folder), "data.evaluate=test")
    assert status == 2
    assert "test/accuracy: 0." in out
    assert err == f"{folder}/test/metrics.json: cannot be written (File exists); the metrics are not kept\n"


def test_an_evaluation_that_came_to_something_else_is_kept(nm, copy):
    folder, _ = copy("listops")
    line = ["eval", str(folder), "data.evaluate=test"]
    kept = []
    for size, said in ((12, False), (12, False), (6, True), (12, True)):
        status, out, _ = nm(*line, f"data.test_size={size}")
        assert status == 0
        assert ("other metrics or data stood there before" in out) == said
        kept.append(json.loads((folder / "test" / "metrics.json").read_text())["data"]["test_size"])
    assert kept == [12, 12, 6, 12]
    assert out.splitlines()[-1].endswith(f": {folder}/test/metrics.2.json keeps them")
    earlier = [json.loads((folder / "test" / f"metrics.{i}.json").read_text())["data"]["test_size"] for i in (1, 2)]
    assert earlier == [12, 6]


@pytest.mark.parametrize("split", ["val", "test"])
def test_data_are_known_by_what_they_hold_wherever_they_lie(split, nm, copy, caplog):
    folder, data = copy("wmt")
    line = ["eval", str(folder), f"data.path={data}", f"data.evaluate={split}"]
    assert nm(*line)[0] == 0
    assert UNCHANGED not in caplog.text
    file = data / "train.en"
    file.write_text(file.read_text().replace("train 7", "train 8"))
    assert nm(*line)[0] == 0
    assert caplog.messages == [f"{file} is not what this run began with; the score may be another"]


def test_a_changed_validation_file_is_named_when_the_test_split_is_scored(nm, copy, caplog):
    folder, data = copy("wmt")
    file = data / "validation.de"
    file.write_text(file.read_text().replace("5", "6"))
    assert nm("eval", str(folder), f"data.path={data}", "data.evaluate=test")[0] == 0
    assert caplog.messages == [f"{file} is not what this run began with; the score may be another"]
    caplog.clear()
    for language in ("en", "de"):
        (data / f"validation.{language}").unlink()  # then it cannot be told, and is not needed
    assert nm("eval", str(folder), f"data.path={data}", "data.evaluate=test")[0] == 0
    assert caplog.messages == []


def test_other_examples_without_another_file_are_told(nm, copy, caplog):
    folder, data = copy("wmt")
    assert nm("eval", str(folder), f"data.path={data}", "data.val_size=5")[0] == 0
    assert caplog.messages == ["the examples of data=wmt are not what this run began with; the score may be another"]


def test_the_checkpoint_of_a_run_that_stands_alone_may_change(nm, checkpoint, tmp_path, caplog):
    folder = checkpoint("t5")
    run_folder = finished(tmp_path, "model=t5", f"model.pretrained={folder}", "train=text", *LISTOPS)
    (folder / "config.json").write_text("{}")
    status, _, _ = nm("eval", str(run_folder))
    assert status == 0
    assert UNCHANGED not in caplog.text


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("digits", "data.image_size=32", "data.image_size=32: gives images of 1x32x32; the model of this run is made"),
        ("glue", "data.task=mnli data.path=null", "data.task=mnli data.path=null: gives the labels entailment, neutral,"
         " contradiction; the model of this run is made for the labels entailment, not_entailment"),
        ("glue", "data.task=stsb data.path=null", "data.task=stsb data.path=null: gives numbers; the model of this"),
        ("glue", "data.input_length=65", "data.input_length=65: gives inputs of up to 65 tokens, and the model has"),
        ("wmt", "data.path=nowhere", "data.path=nowhere: there is no such folder\n"),
        ("wmt", "data.tokenise=char", "data.tokenise='char': data=wmt has no such option. Available: ["),
        ("wmt", "data.evaluate=dev", "data.evaluate: 'dev' is not allowed; allowed: val, test\n"),
        ("wmt", "data.input_length=x", "data.input_length: 'x' is not allowed; allowed: whole numbers from 8"),
        ("wmt", "data.name=glue", "data.name=glue: belongs to the run; eval takes data.KEY=VALUE, train.eval_batch"),
        ("wmt", "data=glue", "data=glue: belongs to the run; eval takes"),
        ("wmt", "data=nope", "data=nope: there is no such data. Available: ["),
        ("wmt", "optim.lr=1 seed=2", "optim.lr=1: belongs to the run; eval takes"),
        ("wmt", "data.path=a,b", "data.path=a,b: eval takes one value\n"),
        ("wmt", "data.path=[", "data.path=[: the value cannot be read; "),
        ("wmt", "train.eval_batch_size=0", "train.eval_batch_size=0: should be greater than or equal to 1\n"),
        ("wmt", "--config-dir here", "usage: nmtrain eval RUN [data.KEY=VALUE ...]\n"),
        ("wmt", "--dry-run", "usage: nmtrain eval RUN [data.KEY=VALUE ...]\n"),
        ("wmt", "data.path", "usage: nmtrain eval RUN [data.KEY=VALUE ...]\n"),
    ],
)  # fmt: skip
def test_what_eval_does_not_take_is_refused_by_name(name, overrides, message, refused, made):
    assert (refused("eval", str(made[name]), *overrides.split(" ")) + "\n").startswith(message)


def test_two_faults_are_told_together(refused, made):
    assert refused("eval", str(made["wmt"]), "optim.lr=1", "seed=2").count("belongs to the run") == 2
    assert refused("eval", str(made["wmt"]), "data.evaluate=x", "data.input_length=1").count("is not allowed") == 2


def test_a_shorter_or_longer_input_that_the_model_takes_is_evaluated(nm, made, caplog):
    assert nm("eval", str(made["glue"]), "data.input_length=64")[0] == 0
    assert nm("eval", str(made["glue"]), "data.input_length=8")[0] == 0
    assert UNCHANGED in caplog.text


def test_few_training_examples_do_not_stop_an_evaluation(nm, copy):
    """Only training needs a full batch of them."""
    folder, data = copy("wmt")
    for language in ("en", "de"):
        (data / f"train.{language}").write_text("one line\n")
    assert nm("eval", str(folder), f"data.path={data}")[0] == 0


def test_a_larger_test_set_than_was_held_out_is_refused(nm, refused, made):
    """ListOps leaves out of training what it holds out, and no more."""
    run_folder = str(made["listops"])
    line = refused("eval", run_folder, "data.evaluate=test", "data.test_size=13")
    assert line.startswith("data.test_size=13: was 12 in training, so that this run may have trained on what would")
    assert refused("eval", run_folder, "data.evaluate=test", "data.val_size=21").startswith("data.val_size=21: was 20")
    assert nm("eval", run_folder, "data.evaluate=test", "data.test_size=5")[0] == 0


def test_a_test_split_that_is_cut_anew_from_text_of_the_run_is_refused(nm, refused, tmp_path, caplog):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(3):
        (texts / f"{number}.txt").write_text("".join(f"line {line} of text {number}\n" for line in range(80)))
    options = [f"data.path={texts}", "data.window=32", f"data.cache_dir={tmp_path}/cache"]
    run_folder = str(finished(tmp_path, *T5, "data=text", *options))
    moved = tmp_path / "moved"
    texts.rename(moved)
    test = ["eval", run_folder, "data.evaluate=test"]
    assert nm(*test, f"data.path={moved}")[0] == 0
    assert UNCHANGED not in caplog.text
    one = moved / "0.txt"
    assert refused(*test, f"data.path={one}").startswith(f"data.path={one}: holds files of this run, but not the same")
    one.rename(moved / "3.txt")  # the last of the text now, which moves every window
    assert refused(*test, f"data.path={moved}").startswith(f"data.path={moved}: holds files of this run, but not")
    other = tmp_path / "other.txt"
    other.write_text("".join(f"another text {line}\n" for line in range(80)))
    assert nm(*test, f"data.path={other}")[0] == 0
    assert f"{other} is not what this run began with" in caplog.text


def test_metrics_of_before_there_were_as_many_are_no_other_result(tmp_path):
    evaluation = {"split": "test", "metrics": {"test/accuracy": 0.5, "test/top5": 0.9}, "data": {"name": "glyphs"}}
    fewer = evaluation | {"metrics": {"test/accuracy": 0.5}}
    assert write_evaluation(tmp_path, fewer) is None
    assert write_evaluation(tmp_path, evaluation) is None
    assert write_evaluation(tmp_path, fewer | {"metrics": {"test/accuracy": 0.4}}) == tmp_path / "test/metrics.1.json"
