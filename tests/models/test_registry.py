"""Models of one's own: registered, built, sparse by role, and told where they fail."""

import pytest
from torch import nn

from nmtrain.config.schema import MaskConfig, ModelConfig
from nmtrain.data import DataShape
from nmtrain.errors import PluginError
from nmtrain.models import build_model, register, sparsity_rules
from nmtrain.models.registry import is_registered, role_map
from nmtrain.sparsity import NMPattern

pytestmark = pytest.mark.usefixtures("registries_as_before")
SHAPE = DataShape(num_classes=4, channels=3, image_size=8, train_size=64, val_size=8)


def mixer(shape, width=16):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(shape.channels * shape.image_size**2, width),
        nn.Linear(width, width),
        nn.Linear(width, shape.num_classes),
    )


def config(name, **options):
    return ModelConfig(kind="image_classifier", name=name, roles=["ff"], options=options)


def mask(*roles):
    return MaskConfig(axis="input", roles=list(roles), patterns={}, names=[], indivisible="error")


def test_a_registered_model_is_built_for_the_data_with_its_options():
    assert register(mixer) is mixer
    model = build_model(config("mixer", width=32), SHAPE)
    assert model[1].weight.shape == (32, 192)
    assert model[3].weight.shape == (4, 32)


def test_the_role_map_says_what_is_sparse():
    register(roles={"ff": ["2.weight"], "o": ["[3-9].weight"]})(mixer)
    rules = sparsity_rules(mixer(SHAPE), mask("ff", "o"), NMPattern(1, 8), role_map("mixer"))
    assert [(rule.role, rule.name) for rule in rules] == [("ff", "2.weight"), ("o", "3.weight")]


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (
            {"ff": ["body.*"]},
            r"the model's role ff names body.\*: no weight matches. Available: \['1.weight', '2.weight'",
        ),
        ({"ff": ["*.bias"]}, r"the model's role ff names \*.bias: no weight matches"),
        ({"ff": ["1.weight"], "o": ["?.weight"]}, r"the model's weight 1.weight is named by two roles, ff and o"),
    ],
)
def test_a_role_map_that_does_not_fit_the_model_is_told(roles, message):
    with pytest.raises(ValueError, match=message):
        sparsity_rules(mixer(SHAPE), mask("ff"), NMPattern(1, 8), roles)


def test_without_a_map_weights_have_the_roles_of_their_names():
    register(mixer)
    with pytest.raises(ValueError, match=r"the model has no ff. Available: \[\]"):
        sparsity_rules(mixer(SHAPE), mask("ff"), NMPattern(1, 8), role_map("mixer"))


@pytest.mark.parametrize("name", ["vit", "t5", "bert", "resnet50"])
def test_names_of_ours_are_taken(name):
    def build(shape):
        return mixer(shape)

    build.__name__ = name
    with pytest.raises(PluginError, match=f"model {name}: the name is taken by nmtrain itself; choose another"):
        register(build)
    assert not is_registered(name)


def test_a_name_of_timm_is_refused_when_the_model_is_built():
    def resnet18(shape):
        return mixer(shape)

    register(resnet18)
    with pytest.raises(
        ValueError, match=r"model.name=resnet18: the model has the name of one of timm's; give it another"
    ):
        build_model(config("resnet18"), SHAPE)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (
            {"mlp": ["a"]},
            r"model mixer: roles=\{'mlp': \['a'\]\} does not map roles to names of weights. Available: \('ff'",
        ),
        (["ff"], r"roles=\['ff'\] does not map roles"),
        ({"ff": "a"}, r"model mixer: roles\['ff'\] is no list of names of weights"),
        ({"ff": [1]}, r"roles\['ff'\] is no list"),
    ],
)
def test_what_is_no_role_map_is_refused_at_once(roles, message):
    with pytest.raises(PluginError, match=message):
        register(roles=roles)(mixer)
    assert not is_registered("mixer")


def test_what_is_no_function_is_refused():
    with pytest.raises(
        PluginError, match=r"model 'mixer': is no function that builds a model from \(shape, \*\*options\)"
    ):
        register("mixer")


def test_a_function_that_builds_no_model_is_told_in_one_line():
    def broken(shape, width=8):
        raise RuntimeError("too\nwide")

    def empty(shape):
        return None

    register(broken)
    register(empty)
    with pytest.raises(ValueError, match=r"^model.name=broken: cannot be built with model.options=\{width:3\}: too$"):
        build_model(config("broken", width=3), SHAPE)
    with pytest.raises(ValueError, match=r"^model.name=broken: .* unexpected keyword argument 'depth'$"):
        build_model(config("broken", depth=3), SHAPE)
    with pytest.raises(
        ValueError, match=r"^model.name=empty: what was registered builds NoneType, not a torch module$"
    ):
        build_model(config("empty"), SHAPE)
