"""Mixed images, soft targets and their losses, in the task and in whole runs."""

import json

import numpy
import pytest
import torch
from safetensors.torch import load_file
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from nmtrain.data.images.in_memory import ImageData
from nmtrain.data.seeds import mix_seed
from nmtrain.data.shapes import DataShape
from nmtrain.training.image_task import ImageClassification
from nmtrain.training.loop import Trainer
from nmtrain.training.run import run

CLASSES, BATCH = 7, 16
BOTH = {"mixup": 0.8, "cutmix": 1.0}


@pytest.fixture
def task(make_config):
    """A task of random images, its training section changed."""

    def make(seed: int = 3, classes: int = CLASSES, **train) -> ImageClassification:
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(256, (64, 3, 12, 12), dtype=torch.uint8, generator=generator)
        labels = torch.arange(64) % classes
        data = ImageData(
            name="random",
            shape=DataShape(num_classes=classes, channels=3, image_size=12, train_size=64, val_size=64),
            class_names=[str(index) for index in range(classes)],
            train=(images, labels),
            val=(images, labels),
            seed=seed,
            augment=False,
        )
        return ImageClassification(data, make_config().train.model_copy(update={"batch_size": BATCH, **train}), seed)

    return make


def whole(task, update):
    """The batch of an update, put together from its parts."""
    return [torch.cat(parts) for parts in zip(*task.batches(update), strict=True)]


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("alphas", [{"mixup": 0.8}, {"cutmix": 1.0}, BOTH], ids=["mixup", "cutmix", "both"])
def test_images_and_targets_are_those_of_timm_under_the_same_seed(task, alphas, mode):
    mixing = task(**alphas, mix_mode=mode, mix_prob=0.7, mix_switch=0.4, label_smoothing=0.1)
    theirs = Mixup(
        alphas.get("mixup", 0.0), alphas.get("cutmix", 0.0), None, 0.7, 0.4, mode, True, 0.1, num_classes=CLASSES
    )
    changed = 0
    for update in range(6):
        plain = mixing.data.train_batch(update, BATCH)
        numpy.random.seed(mix_seed("mix", 3, update) % 2**32)
        images, targets = theirs(*mixing.data.train_batch(update, BATCH))
        mixed = whole(mixing, update)
        assert torch.equal(mixed[0], images)
        assert torch.equal(mixed[1], targets)
        assert targets.sum(1).tolist() == pytest.approx([1.0] * BATCH, abs=1e-5)
        changed += not torch.equal(images, plain[0])
    assert changed >= 3


def test_a_mixed_batch_depends_on_seed_and_update_alone(task):
    one, other = task(**BOTH), task(**BOTH)
    state = numpy.random.get_state()[1].copy()
    other.batches(0), numpy.random.rand(3), torch.rand(3)
    for update in (5, 2, 5):
        assert all(torch.equal(a, b) for a, b in zip(whole(one, update), whole(other, update), strict=True))
    numpy.random.rand(3)
    assert not torch.equal(whole(one, 5)[1], whole(one, 6)[1])
    assert not torch.equal(whole(one, 5)[0], whole(task(seed=4, **BOTH), 5)[0])
    numpy.random.set_state(("MT19937", state, 624))
    before = numpy.random.rand()
    numpy.random.set_state(("MT19937", state, 624))
    whole(one, 1)
    assert numpy.random.rand() == before  # the global generator is put back


LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, CLASSES))


@pytest.mark.parametrize(
    ("train", "theirs"),
    [
        ({"loss": "bce", "label_smoothing": 0.1}, BinaryCrossEntropy(0.1)),
        ({"loss": "bce", "label_smoothing": 0.0}, BinaryCrossEntropy(0.0)),
        ({"loss": "bce", "label_smoothing": 0.1, **BOTH}, BinaryCrossEntropy(0.1)),
        ({"label_smoothing": 0.1, **BOTH}, SoftTargetCrossEntropy()),
        ({"label_smoothing": 0.1}, LabelSmoothingCrossEntropy(0.1)),
    ],
    ids=["bce", "bce, not smoothed", "bce, mixed", "mixed", "as ever"],
)
def test_the_loss_is_that_of_timm_and_its_parts_add_up(task, train, theirs):
    one, parts = task(**train), task(**train, micro_batches=4)
    inputs, targets = whole(one, 2)
    expected = theirs(LINEAR(inputs), targets).item()
    assert sum(one.loss(LINEAR, batch) for batch in one.batches(2)).item() == pytest.approx(expected, rel=1e-5)
    assert [len(inputs) for inputs, _ in parts.batches(2)] == [4] * 4
    assert sum(parts.loss(LINEAR, batch) for batch in parts.batches(2)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("train", [{}, {"loss": "bce", **BOTH}], ids=["plain", "bce, mixed"])
def test_evaluation_is_cross_entropy_of_hard_labels_whatever_trained_the_model(task, train):
    evaluated = task(**train).evaluate(LINEAR, 10)
    images, labels = next(task().data.val_batches(64))
    logits = LINEAR(images)
    places = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert evaluated["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert evaluated["accuracy"] == (places < 1).float().mean().item()
    assert evaluated["top5"] == (places < 5).float().mean().item()
    assert 0 < evaluated["accuracy"] < evaluated["top5"] < 1


def test_where_any_answer_is_among_the_five_best_there_is_no_such_metric(task):
    few = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 5))
    assert set(task(classes=5).evaluate(few, 64)) == {"loss", "accuracy"}


MIXED = ["train.mixup=0.2", "train.cutmix=1.0", "train.mix_mode=pair", "train.loss=bce"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_stopped_goes_on_to_the_same_weights(make_config, monkeypatch, precision, tmp_path):
    overrides = [*MIXED, "recipe=sr_ste", f"train.precision={precision}", "train.micro_batches=2"]
    run(whole_run := make_config(*overrides, f"results_dir={tmp_path}/whole"))
    update = Trainer.update

    def killed(self, number):
        if number == 7:
            raise KeyboardInterrupt
        return update(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", killed)
        with pytest.raises(KeyboardInterrupt):
            run(make_config(*overrides))
    run(resumed := make_config(*overrides))
    one, other = (load_file(config.run_folder / "model.safetensors") for config in (whole_run, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    metrics = json.loads((resumed.run_folder / "summary.json").read_text())["metrics"]
    assert set(metrics) == {"val/loss", "val/accuracy", "val/top5"}


BOTH_ON = ["train.mixup=0.2", "train.cutmix=1.0"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.mixup=-1"], "train.mixup=-1: should be greater than or equal to 0"),
        (["train.cutmix=inf"], "train.cutmix=inf: should be a finite number"),
        (["train.mix_prob=0"], "train.mix_prob=0: should be greater than 0"),
        (["train.mix_mode=half", *BOTH_ON], "train.mix_mode=half: should be 'batch', 'pair' or 'elem'"),
        (["train.loss=mse"], "train.loss=mse: should be 'cross_entropy' or 'bce'"),
        (
            ["train.mixup=0.2", "train.batch_size=33"],
            "train.batch_size=33: train.mixup=0.2 mixes images in pairs; allowed: even numbers",
        ),
        (["train.mix_mode=pair"], "train.mix_mode=pair: has no effect without train.mixup or train.cutmix"),
        (
            ["train.cutmix=1", "train.mix_switch=0.3"],
            "train.mix_switch=0.3: has no effect unless both train.mixup and train.cutmix are on",
        ),
        (
            ["model=t5", "train.mixup=0.2"],
            "train.mixup=0.2: is for images, which model.kind=text_to_text does not read; allowed: 0.0",
        ),
        (
            ["model=bert", "data=glue", "train.loss=bce"],
            "train.loss=bce: is for images, which model.kind=text_classifier does not read; allowed: cross_entropy",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_line(refused, overrides, message):
    assert refused(*overrides) == message


def test_one_class_has_nothing_to_be_mixed_with():
    from nmtrain.config.check import ConfigError, check_config
    from nmtrain.config.compose import compose_values

    values = compose_values(["train.mixup=0.2", "data=digits"])
    alone = DataShape(num_classes=1, channels=1, image_size=16, train_size=100, val_size=10)
    with pytest.raises(ConfigError, match=r"^train\.mixup=0\.2: has nothing to mix, since the data have one class"):
        check_config(values, alone)
