"""Stock models, dense and sparse: every parameter learns, and the listed tensors and no others are sparse."""

import pytest
import torch
import torch.nn.functional as F

from nmtrain.config.schema import MaskConfig
from nmtrain.data import DataShape
from nmtrain.models import sparsity_rules
from nmtrain.models.roles import weights_by_role
from nmtrain.models.vision import build_vision_model
from nmtrain.sparsity import NMPattern, SparsityState, remove_sparsity, sparsify_model, sparsity_control

SHAPE = DataShape(num_classes=10, channels=1, image_size=16, train_size=100, val_size=10)
SMALL = {"vit": ["ff"], "vit_compact": ["ff"], "resnet": ["conv"], "swin": ["ff"]}
PATTERNS = ["2:4", "1:4", "1:8", "4:8", "1:16", "2:16", "1:32", "1:64"]


def mask(roles, **changes):
    values = {"axis": "input", "roles": roles, "patterns": {}, "names": [], "indivisible": "error"}
    return MaskConfig.model_validate(values | changes)


def attention_roles(model):
    return [role for role in ("ff", "q", "k", "v", "o", "conv") if role in {r for r, _, _ in weights_by_role(model)}]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("sparse", [False, True])
def test_forward_backward_and_every_parameter_gets_a_gradient(name, sparse):
    torch.manual_seed(0)
    model = build_vision_model(name, SHAPE, {})
    if sparse:
        sparsify_model(model, sparsity_rules(model, mask(attention_roles(model)), NMPattern(1, 16)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(8, 1, 16, 16), torch.arange(8) % 10
    for _ in range(2):  # the last norm of a residual branch starts at 0, and lets no gradient in until the first update
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
    without = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize(("name", "roles"), SMALL.items())
@pytest.mark.parametrize("pattern", PATTERNS)
def test_default_settings_work_with_every_pattern_from_2_of_4_to_1_of_64(name, roles, pattern):
    torch.manual_seed(0)
    target = NMPattern.parse(pattern)
    model = build_vision_model(name, SHAPE, {})
    stock = {key: tensor.shape for key, tensor in model.state_dict().items()}
    listed = sparsify_model(model, sparsity_rules(model, mask(roles), target))
    sparsity_control(model).update({target: SparsityState(target)})
    assert torch.isfinite(model(torch.randn(2, 1, 16, 16))).all()
    remove_sparsity(model)
    state = model.state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == stock
    sparse = {
        key
        for key, tensor in state.items()
        if tensor.dim() >= 2
        and tensor.shape[1] % target.m == 0
        and (tensor.unflatten(1, (-1, target.m)).count_nonzero(2) == target.n).all()
    }
    assert sparse == {tensor.name for tensor in listed}
    assert listed


def test_roles_of_the_small_vit():
    model = build_vision_model("vit", SHAPE, {})
    found = {}
    for role, name, rows in weights_by_role(model):
        found.setdefault(role, []).append((name, rows))
    assert [name for name, _ in found["ff"]] == [f"blocks.{i}.mlp.fc{j}.weight" for i in range(3) for j in (1, 2)]
    assert found["q"][0] == ("blocks.0.attn.qkv.weight", (0, 128))
    assert found["k"][0] == ("blocks.0.attn.qkv.weight", (128, 256))
    assert found["v"][0] == ("blocks.0.attn.qkv.weight", (256, 384))
    assert [name for name, _ in found["o"]] == [f"blocks.{i}.attn.proj.weight" for i in range(3)]
    assert set(found) == {"ff", "q", "k", "v", "o"}


def test_roles_of_the_small_resnet_are_all_convolutions_but_the_stem():
    model = build_vision_model("resnet", SHAPE, {})
    convolutions = [f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions[0] == "conv1.weight"
    assert [(role, name) for role, name, _ in weights_by_role(model)] == [("conv", name) for name in convolutions[1:]]


def test_roles_of_swin_leave_position_mlps_and_patch_merging_dense():
    names = {name for _, name, _ in weights_by_role(build_vision_model("swin", SHAPE, {}))}
    assert len(names) == 4 * 4  # fc1, fc2, fused qkv and proj in four blocks
    assert not [name for name in names if "cpb_mlp" in name or "downsample" in name or "head" in name]


def test_depthwise_convolutions_have_no_role():
    with torch.device("meta"):
        model = build_vision_model("convnext_tiny", SHAPE, {})
    roles = list(weights_by_role(model))
    assert {role for role, _, _ in roles} == {"ff", "conv"}
    assert not [name for _, name, _ in roles if "conv_dw" in name]


def test_any_timm_model_works_by_name():
    with torch.device("meta"):
        model = build_vision_model("deit_small_patch16_224", SHAPE, {})
    listed = sparsify_model(model, sparsity_rules(model, mask(["ff"]), NMPattern(1, 32)))
    assert len(listed) == 24


def test_unknown_model_lists_ours_and_names_near_to_it():
    with pytest.raises(ValueError, match=r"resnett18.*Available: \['vit', 'vit_compact', 'resnet', 'swin'\].*resnet18"):
        build_vision_model("resnett18", SHAPE, {})


def test_arguments_that_timm_refuses_are_named():
    with pytest.raises(ValueError, match=r"model\.name=vit: timm cannot build .*wibble"):
        build_vision_model("vit", SHAPE, {"wibble": 1})


def test_role_that_the_model_lacks_lists_those_it_has():
    with pytest.raises(ValueError, match=r"the model has no ff\. Available: \['conv'\]"):
        sparsity_rules(build_vision_model("resnet", SHAPE, {}), mask(["ff"]), NMPattern(1, 8))


def test_a_role_s_own_pattern_and_weights_by_name():
    model = build_vision_model("vit", SHAPE, {})
    settings = mask(["ff", "q"], patterns={"q": "1:4"}, names=["head.weight"], axis="input")
    listed = sparsify_model(model, sparsity_rules(model, settings, NMPattern(1, 8)))
    assert {(tensor.role, str(tensor.pattern)) for tensor in listed} == {("ff", "1:8"), ("q", "1:4"), ("named", "1:8")}
    assert [tensor.name for tensor in listed if tensor.role == "named"] == ["head.weight"]
