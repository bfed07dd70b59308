"""Distillation: the loss by hand, who can teach, and what becomes of a run whose teacher is gone or another."""

import json
import shutil

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.data import load_data
from nmtrain.errors import ConfigError, DataError
from nmtrain.training.distillation import Teacher
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run
from nmtrain.training.plan import make_plan, shape_faults
from nmtrain.training.run import run
from nmtrain.training.teacher import load_teacher

TEXT = ["train.updates=2", "train.batch_size=8", "measure=off", "sparsity=1:8", "data.max_length=24"]
TEXT += ["data.train_size=64", "data.val_size=20", "data.test_size=4"]
T5 = ["model=t5", *(f"model.options.{option}=64" for option in ("d_model", "d_ff"))]
T5 += [f"model.options.{option}=1" for option in ("num_layers", "num_decoder_layers")]
BERT = ["model=bert", "model.options.hidden_size=64", "model.options.intermediate_size=64"]
BERT += ["model.options.num_hidden_layers=1", "model.options.num_attention_heads=2"]


@pytest.fixture
def teacher(make_config):
    """The folder of a finished run with two blocks, which its student has not."""
    config = make_config("recipe=dense", "train.updates=3", "model.options.depth=2")
    run(config)
    return config.run_folder


@pytest.fixture
def text_config(tmp_path):
    def make(*overrides):
        line = [*TEXT, f"results_dir={tmp_path}/runs", f"data.cache_dir={tmp_path}/cache", *overrides]
        return check_config(compose_values(prepare_overrides(line)))

    return make


def faults(config):
    with pytest.raises(ConfigError) as refusal:
        make_plan(config)
    assert shape_faults([config]) == refusal.value.faults
    return refusal.value.faults


def images(config):
    return load_data(**config.data, seed=config.seed)


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_a_teacher_is_given_images_normalised_as_it_learned_them(kind, teacher, make_config, tmp_path):
    """Its file says mean 0.25 and std 0.5; what it is given are the student's images, with another mean and std."""
    config = make_config(f"train.teacher={teacher}")
    data = images(config)
    picture = torch.rand(2, 1, 16, 16)
    normalised = (picture - data.mean) / data.std
    model = load_teacher(config, data, torch.device("cpu")).model
    assert load_teacher(config, data, torch.device("cpu"))(normalised).equal(model(normalised))  # the same data

    source, file, section = teacher, teacher / "model/preprocessing.json", None
    if kind == "folder":
        source, section = tmp_path / "export", "pretrained_cfg"
        export_run(teacher, source)
        file = source / "config.json"
    written = json.loads(file.read_text())
    (written[section] if section else written).update(mean=[0.25], std=[0.5])
    file.write_text(json.dumps(written))
    other = load_teacher(make_config(f"train.teacher={source}"), data, torch.device("cpu"))
    assert torch.allclose(other(normalised), model((picture - 0.25) / 0.5), atol=1e-5)


def test_a_teacher_of_which_no_mean_and_std_are_known_is_given_the_students_with_a_warning(
    teacher, make_config, tmp_path, caplog
):
    export_run(teacher, tmp_path / "export")
    file = tmp_path / "export" / "config.json"
    written = json.loads(file.read_text())
    del written["pretrained_cfg"]["mean"], written["pretrained_cfg"]["std"]
    file.write_text(json.dumps(written))
    config = make_config(f"train.teacher={tmp_path}/export")
    found = load_teacher(config, images(config), torch.device("cpu"))
    batch = torch.rand(2, 1, 16, 16)
    assert found(batch).equal(found.model(batch))
    assert "nothing beside its weights says mean and std; its images have the student's" in caplog.text


def weights(config):
    return load_file(config.run_folder / "model.safetensors")


def test_the_loss_by_hand(make_config):
    """Two classes: the student says 0.5 and 0.5, the teacher at temperature 2 says 0.75 and 0.25."""
    logits = torch.zeros(3, 2, requires_grad=True)
    taught = torch.tensor([[2 * torch.log(torch.tensor(3.0)), 0.0]]).expand(3, 2)
    train = make_config("train.teacher=x", "train.teacher_weight=0.3", "train.teacher_temperature=2.0").train
    blended = Teacher(torch.nn.Linear(1, 1), train).blended(torch.tensor(5.0), logits, taught, 3)
    divergence = 0.75 * torch.log(torch.tensor(1.5)) + 0.25 * torch.log(torch.tensor(0.5))
    assert blended.item() == pytest.approx(0.7 * 5.0 + 0.3 * 4 * divergence.item(), rel=1e-6)
    blended.backward()  # T (student - teacher) per row
    assert logits.grad.tolist() == [pytest.approx([0.3 * 2 * (0.5 - 0.75) / 3, 0.3 * 2 * (0.5 - 0.25) / 3])] * 3


def test_a_teacher_answers_in_eval_mode_and_learns_nothing(teacher, make_config):
    config = make_config(f"train.teacher={teacher}")
    found = load_teacher(config, images(config), torch.device("cpu"))
    assert not found.model.training
    answer = found(torch.randn(2, 1, 16, 16))
    assert not answer.requires_grad
    assert not any(parameter.requires_grad for parameter in found.model.parameters())


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_a_student_of_nothing_but_its_teacher_comes_to_answer_like_it(kind, teacher, make_config, tmp_path):
    """The first update's loss is the divergence; training makes it smaller."""
    source = teacher
    if kind == "folder":
        source = tmp_path / "an export"
        export_run(teacher, source)
    alone = ["recipe=dense", "train.teacher_weight=1.0", "train.updates=40", "optim.lr=3e-3", "train.eval_every=10"]
    config = make_config(f"train.teacher={source}/", *alone)
    summary = run(config)
    plan = make_plan(make_config(f"train.teacher={source}", *alone, "force=true"))
    assert plan.config.run_name == config.run_name  # however the folder is written
    assert plan.memory["teacher"] == 4 * sum(t.numel() for t in load_file(teacher / "model.safetensors").values())
    assert summary["flops"]["teacher"] == plan.flops["teacher"] == 40 * 32 * _inference_flops(teacher)
    lines = (config.run_folder / "metrics.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines if '"train"' in line]
    assert losses[-1] < 0.5 * losses[0]


def _inference_flops(folder):
    return json.loads((folder / "summary.json").read_text())["flops"]["inference"]


def test_a_sparse_run_teaches_and_a_plain_timm_folder_too(make_config, tmp_path):
    sparse = make_config("recipe=ste", "train.updates=2")
    run(sparse)
    run(make_config(f"train.teacher={sparse.run_folder}", "train.updates=2"))
    model = timm.create_model("resnet18", num_classes=10, in_chans=1)
    folder = tmp_path / "resnet"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "resnet18", "num_classes": 10}')
    config = make_config(f"train.teacher={folder}", "train.updates=2")
    assert load_teacher(config, images(config), torch.device("cpu")).model(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    run(config)


def test_the_same_run_with_other_weights_of_its_teacher_is_another(teacher, make_config):
    plain = make_config()
    taught = make_config(f"train.teacher={teacher}")
    run(plain)
    run(taught)
    assert plain.run_name != taught.run_name
    assert any(not weights(plain)[name].equal(weight) for name, weight in weights(taught).items())


def test_a_resume_needs_the_same_teacher_and_a_finished_run_none(teacher, make_config, tmp_path):
    config = make_config(f"train.teacher={teacher}", "train.checkpoint_every=4")
    summary = run(config)
    moved = tmp_path / "elsewhere"
    shutil.move(teacher, moved)
    assert run(config) == summary
    assert evaluate_run(config.run_folder)["metrics"] == summary["metrics"]
    export_run(config.run_folder, tmp_path / "export")
    for name in ("summary.json", "model.safetensors"):
        (config.run_folder / name).unlink()
    (config.run_folder / "status.json").write_text('{"state": "running", "reason": null}')
    assert faults(config) == [f"train.teacher={teacher}: there is no such folder"]
    shutil.move(moved, teacher)
    kept = load_file(teacher / "model.safetensors")
    save_file({name: weight * 0 for name, weight in kept.items()}, teacher / "model.safetensors")
    with pytest.raises(DataError, match=r"train\.teacher=.*are not what this run began with"):
        run(config)
    save_file(kept, teacher / "model.safetensors", {"format": "pt"})
    run(config)


def test_who_cannot_teach_is_refused_when_planning(teacher, make_config, text_config, tmp_path, refused):
    assert faults(make_config("train.teacher=results/runs/none")) == [
        "train.teacher=results/runs/none: there is no such folder"
    ]
    other = faults(make_config(f"train.teacher={teacher}", "data.image_size=32"))
    assert other == [
        f"train.teacher={teacher}: its answers are about something else (images: 1x16x16 there, 1x32x32 here)"
    ]
    config = make_config(f"train.teacher={teacher}", "data=glyphs", "data.classes=20")
    assert "classes: 10 there, 20 here" in faults(config)[0]
    assert "is a run of model.kind=image_classifier" in faults(text_config(*BERT, f"train.teacher={teacher}"))[0]
    assert faults(text_config(*BERT, "train.teacher=gpt"))[0] == "train.teacher=gpt: there is no such run folder"
    file = teacher / "model.safetensors"
    shutil.copy(file, tmp_path / "alone.safetensors")
    assert (
        "there is no config.json beside alone.safetensors that names the architecture; name a folder"
        in (faults(make_config(f"train.teacher={tmp_path}/alone.safetensors"))[0])
    )
    file.unlink()
    assert faults(make_config(f"train.teacher={teacher}")) == [f"train.teacher={teacher}: has no model.safetensors"]
    (teacher / "status.json").write_text('{"state": "running", "reason": null}')
    assert "finished" in faults(make_config(f"train.teacher={teacher}"))[0]


def test_options_without_a_teacher_have_no_effect(make_config):
    with pytest.raises(ConfigError) as refusal:
        make_config("train.teacher_weight=0.9", "train.teacher_temperature=2.0")
    assert refusal.value.faults == [
        "train.teacher_weight=0.9: has no effect without train.teacher",
        "train.teacher_temperature=2.0: has no effect without train.teacher",
    ]


@pytest.mark.parametrize("model", [T5, BERT], ids=["t5", "bert"])
def test_text_is_taught_by_class_or_by_token(model, text_config, monkeypatch):
    config = text_config(*model, "recipe=dense", "data.max_length=24")
    run(config)
    taught = text_config(*model, "recipe=mdgf", f"train.teacher={config.run_folder}", "train.teacher_weight=1.0")
    seen = []
    original = Teacher.blended

    def watched(self, loss, logits, told, rows):
        found = original(self, loss, logits, told, rows)
        by_row = F.cross_entropy(logits, told.softmax(-1)) - F.cross_entropy(told, told.softmax(-1))
        seen.append((found.item(), by_row.item(), len(logits), int(rows)))
        return found

    monkeypatch.setattr(Teacher, "blended", watched)
    run(taught)
    assert len(seen) == 2
    for found, mean, given, rows in seen:
        assert given == rows  # target tokens, or samples
        assert found == pytest.approx(mean, abs=1e-5)


def test_an_encoder_decoder_of_other_tokens_cannot_teach(text_config):
    config = text_config(*T5, "recipe=dense")
    run(config)
    student = text_config(*T5, "++model.options.vocab_size=640", f"train.teacher={config.run_folder}")
    assert "tokens in the vocabulary: 384 there, 640 here" in faults(student)[0]


def test_a_teacher_of_classes_with_other_names_is_told(teacher, make_config, caplog):
    run(make_config(f"train.teacher={teacher}", "train.updates=1"))
    assert "have other names" not in caplog.text
    kept = teacher / "model/preprocessing.json"
    written = json.loads(kept.read_text())
    first, written["class_names"][0] = written["class_names"][0], "another"
    kept.write_text(json.dumps(written))
    run(make_config(f"train.teacher={teacher}", "train.updates=2"))
    told = f"1 of the classes have other names ({first} was another); its answers may be about others"
    assert f"train.teacher={teacher.resolve()}: {told}" in caplog.text
