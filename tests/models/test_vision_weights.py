"""Weights that image models start from: taken whole, adapted to the data and told, or refused by tensor."""

import json

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from nmtrain.config.schema import ModelConfig
from nmtrain.data import DataShape
from nmtrain.errors import DataError
from nmtrain.models import build_model
from nmtrain.models.vision import build_vision_model, vision_architecture
from nmtrain.models.vision_weights import find_weights, trial

SHAPE = DataShape(num_classes=10, channels=1, image_size=16, train_size=100, val_size=10)
OTHER = DataShape(num_classes=7, channels=3, image_size=32, train_size=100, val_size=10)
NEW = {  # what OTHER's classes, channels and image size change, by model
    "vit": {"head.weight", "head.bias", "patch_embed.proj.weight", "pos_embed"},
    "resnet": {"fc.weight", "fc.bias", "conv1.weight"},
    "swin": {"head.fc.weight", "head.fc.bias", "patch_embed.proj.weight"},
    "dla34": {"fc.weight", "fc.bias", "base_layer.0.weight"},  # which timm loads without asking for every tensor
}
# What the seed decides: the small ViT's head begins at 0.
DRAWN = {
    "vit": set(),
    "resnet": {"fc.weight", "fc.bias"},
    "swin": {"head.fc.weight"},
    "dla34": {"fc.weight", "fc.bias"},
}


@pytest.fixture
def weights(tmp_path):
    """A file of the random weights of a model, as safetensors or in a training checkpoint of timm."""

    def make(name, shape=SHAPE, suffix=".safetensors", **options):
        torch.manual_seed(1)
        state = build_vision_model(name, shape, options).state_dict()
        file = tmp_path / f"{name}{suffix}"
        if suffix == ".safetensors":
            save_file(state, file)
        else:
            torch.save({"epoch": 3, "arch": name, "state_dict": state}, file)
        return file, state

    return make


def told(name, shape, file, **options):
    return trial(*vision_architecture(name, shape, options), file)


def model_of(name, pretrained, **options):
    return ModelConfig(kind="image_classifier", name=name, roles=["ff"], options=options, pretrained=str(pretrained))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".pth.tar"])
def test_a_file_gives_every_weight_whatever_the_seed(suffix, weights):
    file, state = weights("vit", suffix=suffix)
    assert told("vit", SHAPE, file) == []
    torch.manual_seed(2)
    loaded = build_model(model_of("vit", file), SHAPE).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("name", NEW)
def test_other_classes_channels_and_sizes_change_the_tensors_that_depend_on_them_and_no_other(name, weights):
    file, state = weights(name)
    assert told(name, SHAPE, file) == []
    head, channels, *resized = told(name, OTHER, file)
    assert head == "a new head for 7 classes (the file's is for 10)"
    assert channels == "weights for 3 input channels are made of the file's (1)"
    assert resized == (["resized pos_embed ([1, 17, 128] to [1, 65, 128])"] if name == "vit" else [])
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build_vision_model(name, OTHER, {}, file).state_dict())
    changed = {n for n, t in state.items() if t.shape != models[0][n].shape or not torch.equal(t, models[0][n])}
    assert changed == NEW[name]
    drawn = {n for n in models[0] if not torch.equal(models[0][n], models[2][n])}
    assert drawn == DRAWN[name]
    assert all(torch.equal(models[0][n], models[1][n]) for n in models[0])


def test_patches_of_another_size_are_resized_and_told(weights):
    file, _ = weights("vit")
    assert told("vit", SHAPE, file, patch_size=8) == [
        "resized pos_embed ([1, 17, 128] to [1, 5, 128]), patch_embed.proj.weight ([128, 1, 4, 4] to [128, 1, 8, 8])"
    ]


def test_one_channel_is_the_sum_of_the_three_that_the_file_has(weights):
    file, state = weights("resnet", OTHER)
    loaded = build_vision_model("resnet", DataShape(7, 1, 32, 100, 10), {}, file)
    assert torch.allclose(loaded.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(loaded.fc.weight, state["fc.weight"])


def test_a_file_without_a_head_gives_the_rest(weights):
    file, state = weights("swin")
    save_file({name: tensor for name, tensor in state.items() if not name.startswith("head.")}, file)
    assert told("swin", SHAPE, file) == ["a new head for 10 classes (the file has none)"]
    loaded = build_vision_model("swin", SHAPE, {}, file).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.items() if not name.startswith("head."))


@pytest.mark.parametrize("shape", [SHAPE, OTHER])
@pytest.mark.parametrize("name", ["vit", "dla34"])
def test_a_tensor_that_is_missing_is_named_whatever_the_number_of_classes(name, shape, weights):
    file, state = weights(name)
    gone = next(n for n in state if n.endswith("norm1.weight") or n == "level5.tree1.conv1.weight")
    save_file({n: t for n, t in state.items() if n != gone}, file)
    with pytest.raises(ValueError, match=rf"^does not fit \w+ with .*: it has no {gone}$"):
        told(name, shape, file)


def test_tensors_of_other_shapes_and_names_are_refused_and_the_first_of_them_named(weights):
    file, _ = weights("vit", embed_dim=64, num_heads=2)
    with pytest.raises(ValueError, match=r"cls_token is \[1, 1, 64\] in it and \[1, 1, 128\] in the model, .* more$"):
        told("vit", SHAPE, file)
    with pytest.raises(ValueError, match=r"it has no blocks\.3\.norm1\.weight, blocks\.3\.norm1\.bias, .* and 9 more$"):
        told("vit", OTHER, file, embed_dim=64, num_heads=2, depth=4)
    with pytest.raises(ValueError, match=r": the model has no blocks\.1\..* and 21 more$"):
        told("vit", OTHER, file, embed_dim=64, num_heads=2, depth=1)
    with pytest.raises(ValueError, match=r"it has no conv1\.weight, .* more; the model has no .* more$"):
        told("resnet", SHAPE, file)


def test_files_that_hold_no_weights_are_refused_in_one_line(weights, tmp_path):
    whole, state = weights("vit")
    pickled = tmp_path / "pickled.pth"
    torch.save({"state_dict": state, "hook": print}, pickled)
    listed = tmp_path / "listed.pth"
    torch.save({"epoch": 1, "nested": {"weights": state}}, listed)
    contents = {"empty.safetensors": b"", "short.safetensors": whole.read_bytes()[:-100], "text.safetensors": b"a" * 99}
    contents |= {"empty.pth": b"", "text.bin": b"no weights", "short.pt": pickled.read_bytes()[:5000]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "pickled.pth", "listed.pth"):
        with pytest.raises(ValueError, match=rf"^{name} (cannot be read as weights: .|holds no tensors)") as refusal:
            told("vit", SHAPE, tmp_path / name)
        assert "\n" not in str(refusal.value)


def test_places_without_weights_say_so(tmp_path):
    (tmp_path / "no.txt").write_text("")
    with pytest.raises(ValueError, match=r"^is no file of weights; allowed: \.safetensors, \.pth"):
        find_weights(str(tmp_path / "no.txt"), download=False)
    with pytest.raises(ValueError, match=r"^the folder has no weights \(model\.safetensors, pytorch_model\.bin\)$"):
        find_weights(str(tmp_path), download=False)
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"several files of weights; name one of them: \['a\.pth', 'b\.pth'\]$"):
        find_weights(str(tmp_path), download=False)
    for gone in ("/gone", "./gone", "~/gone", "gone.pth", "sub/gone.safetensors", "local-dir:gone"):
        with pytest.raises(ValueError, match=r"^there is no such file or folder$"):
            find_weights(gone, download=False)


def test_folders_are_found_however_they_are_written(weights, tmp_path, monkeypatch):
    folder = tmp_path / "my folder"
    folder.mkdir()
    weights("vit")[0].rename(folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_text("not this one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in (f"{folder}", f"{folder}/", "my folder", "./my folder/", "~/my folder", "local-dir:my folder"):
        assert find_weights(written, download=False).resolve() == folder / "model.safetensors"


def test_a_description_that_tells_of_another_model_of_the_same_shapes_is_told(weights):
    file, _ = weights("vit")
    description = {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 8, "img_size": 16}}
    file.with_name("config.json").write_text(json.dumps(description))
    assert told("vit", SHAPE, file) == ["config.json says num_heads=8, and the model has 4"]
    file.with_name("config.json").write_text(json.dumps(description | {"architecture": "deit_tiny_patch16_224"}))
    (line,) = told("vit", SHAPE, file)
    assert line.endswith("those of deit_tiny_patch16_224, and the model is a vit_tiny_patch16_224")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of what was downloaded from the hub, with one repository in it."""
    snapshot = tmp_path / "hub" / "models--timm--test_vit.r160_in1k" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=1000)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps({"architecture": "test_vit", "num_classes": 1000}))
    return snapshot


@pytest.mark.parametrize(
    "name",
    [
        "test_vit.r160_in1k",
        "test_vit",
        "timm/test_vit.r160_in1k",
        "hf-hub:timm/test_vit.r160_in1k",
        "timm/test_vit.r160_in1k@main",
    ],
)
def test_what_was_downloaded_from_the_hub_is_found_by_every_name_of_it(name, hub):
    assert find_weights(name, download=False) == hub / "model.safetensors"
    model = build_model(model_of("test_vit", name), OTHER)
    stored = load_file(hub / "model.safetensors")
    assert torch.equal(model.blocks[0].mlp.fc1.weight, stored["blocks.0.mlp.fc1.weight"])
    assert model.head.weight.shape == (7, 64)


def test_what_only_the_hub_has_is_not_asked_for_by_a_dry_run_and_refused_where_it_cannot_be_reached(hub):
    assert find_weights("timm/resnet18.a1_in1k", download=False) is None
    with pytest.raises(DataError) as refusal:
        find_weights("resnet18.a1_in1k", download=True)
    assert str(refusal.value).startswith("model.pretrained=resnet18.a1_in1k is not on this machine, and HF_HUB_OFFLINE")
    assert str(refusal.value).endswith("give model.pretrained=FILE or =FOLDER")


def test_names_that_the_hub_cannot_have_are_refused():
    with pytest.raises(
        ValueError, match=r"timm has no such weights\. timm has \['resnet18\..*did you mean resnet18\.a1"
    ):
        find_weights("resnet18.a1_in1", download=False)
    with pytest.raises(ValueError, match=r"^there is no such file or folder, and timm has no such weights"):
        find_weights("nonesuch", download=False)
    with pytest.raises(ValueError, match=r"^timm has it on no hub; it names http"):
        find_weights("gcvit_base.in1k", download=False)
    with pytest.raises(ValueError, match=r"^the hub does not give it: "):
        find_weights("a/b/c", download=False)
