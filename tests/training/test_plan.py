"""What planning says before any data is read: patterns that an axis cannot carry, and what makes another training."""

import pytest

from nmtrain.errors import ConfigError
from nmtrain.models import build_model
from nmtrain.training import on_meta
from nmtrain.training.memory import memory_of_each
from nmtrain.training.plan import make_plan, shape_faults
from nmtrain.training.run import run

CUSTOM = "recipe.structure=custom"


def test_a_listed_pattern_too_wide_for_an_axis_names_every_tensor_and_does_not_become_a_denser_one(make_config):
    """96:256 would be 96:128 on the axis of 128, twice as dense. fc2's axis of 512 carries it."""
    wide = ["experiment=null", "data=digits", "model.options.depth=2", "model.options.embed_dim=128"]
    config = make_config(*wide, "recipe=sdgf", CUSTOM, 'recipe.patterns=["96:256","1:8"]')
    expected = [
        f"recipe.patterns=[96:256,1:8]: blocks.{block}.mlp.fc1.weight: M = 256 of the phase 96:256 does not divide"
        " its input axis of length 128"
        for block in (0, 1)
    ]
    assert shape_faults([config]) == expected
    with pytest.raises(ConfigError) as refusal:
        make_plan(config)
    assert refusal.value.faults == expected


def test_a_list_in_the_form_of_geometric_phases_does_not_adapt_either(make_config):
    config = make_config("recipe=sdgf", CUSTOM, 'recipe.patterns=["16:128","8:64","1:8"]')  # fc1's axis is 64
    (fault,) = shape_faults([config])
    assert "M = 128 of the phase 16:128 does not divide its input axis of length 64" in fault


@pytest.mark.parametrize("structure", ["geometric", "densify"])
def test_geometric_and_densify_phases_adapt(structure, make_config):
    config = make_config("recipe=sdgf", f"recipe.structure={structure}", "sparsity=1:32")
    assert shape_faults([config]) == []


def test_a_list_that_fits_has_one_phase_for_each_pattern(make_config):
    config = make_config("recipe=sdgf", CUSTOM, 'recipe.patterns=["16:64","4:8","1:8"]', "train.updates=100")
    (tensor, *_) = make_plan(config).tensors
    assert make_plan(config).phases_of(tensor) == [(0, "16:64"), (30, "4:8"), (60, "1:8")]
    assert [first for first, _ in config.recipe.phases(100)] == [0, 30, 60]


def test_batch_norm_under_micro_batches_is_said_at_the_start(make_config, caplog):
    resnet = ["experiment=null", "data=digits", "model=resnet", "~model.options.depth", "~model.options.embed_dim"]
    config = make_config(*resnet, "train.micro_batches=4", "train.updates=1")
    said = (
        "train.micro_batches=4: batch norm takes its statistics from micro-batches of 8 samples,"
        " so this is another training than with train.micro_batches=1"
    )
    assert make_plan(config).warnings == [said]
    assert make_plan(make_config(*resnet, "train.updates=1")).warnings == []
    assert make_plan(make_config("train.micro_batches=4")).warnings == []  # layer norm looks at single samples
    run(config)
    assert said in caplog.text


def test_plans_of_a_sweep_share_their_model_and_are_what_each_is_alone(make_config, monkeypatch):
    each = [
        ("recipe=dense",),
        ("recipe=sr_ste", "sparsity=1:8"),
        ("recipe=mdgf", "sparsity=1:32"),
        ("recipe=sdgf", "sparsity=2:4", "mask.axis=output"),
        ("recipe=sr_ste", "sparsity=1:4", "mask.roles=[ff,q]"),
        ("recipe=sr_ste", "optim=sgd"),
        ("recipe=sr_ste", "train.ema=0.9"),
        ("recipe=sr_ste", "train.gradient_checkpointing=true"),
        ("recipe=sr_ste", "train.batch_size=16"),
    ]
    configs = [make_config(*overrides) for overrides in each]
    alone = [make_plan(config) for config in configs]
    built = []
    monkeypatch.setattr(on_meta, "build_model", lambda *a, **k: built.append(a) or build_model(*a, **k))
    shared: dict = {}
    together = [make_plan(config, shared) for config in configs]
    assert len(built) == 3  # a batch of its own, and checkpointing
    for one, other in zip(alone, together, strict=True):
        for figure in ("cost", "training_cost", "bytes", "memory", "spared", "flops", "tensors", "warnings"):
            assert getattr(one, figure) == getattr(other, figure), (one.config.run_name, figure)
    assert len({str(found.memory) for found in together}) == 7  # dense, FF, FF and Q, and the last four


def test_memory_is_told_of_each_process(make_config):
    memory = {"weights": 400, "gradients": 400, "optimizer": 800, "masks": 50, "activations": 1001, "teacher": 60}

    def of_each(*overrides):
        return memory_of_each(memory, make_config("train.batch_size=32", *overrides).launch)

    assert of_each() == memory
    assert of_each("launch.processes=4") == memory | {"activations": 251}
    shared = {"weights": 100, "gradients": 100, "optimizer": 200, "masks": 13, "activations": 251}
    assert of_each("launch.processes=4", "launch.strategy=fsdp") == memory | shared | {"sparse weights": 52}
