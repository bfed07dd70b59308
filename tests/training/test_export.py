"""Exported image models in plain timm: every key is there, and the logits are the same."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import RunFolderError
from nmtrain.training.export import export_run, load_run
from nmtrain.training.run import run

# Small members of families that differ in what they save: shared modules, batch statistics, buffers that are not saved,
# fixed image sizes, filters for the keys of older checkpoints.
FAMILIES = {
    "coat_tiny": [
        "mask.roles=[conv]",
        "data.image_size=32",
        "model.options={embed_dims:[16,16,16,16],parallel_depth:1}",
    ],
    "resnet": ["mask.roles=[conv]"],
    "swin": ["mask.roles=[ff]"],
    "test_efficientnet": ["mask.roles=[conv]"],
    "test_convnext": ["mask.roles=[ff]", "data.image_size=32"],
    "tiny_vit_5m_224": [
        "mask.roles=[q]",
        "model.options={embed_dims:[16,32,32,64],num_heads:[2,4,2,2],depths:[1,1,1,1]}",
    ],
    "xcit_nano_12_p8_224": ["mask.roles=[ff,v]", "model.options={depth:1}"],
    "beit_base_patch16_224": ["mask.roles=[ff,q]", "model.options={depth:1,embed_dim:64,num_heads:2}"],
}


@pytest.fixture
def finished(tmp_path):
    """Train one update of the named model; gives its config."""

    def train(name):
        overrides = ["experiment=smoke", f"model.name={name}", "sparsity=1:2", "train.updates=1", "train.batch_size=8"]
        overrides += ["mask.indivisible=skip", f"results_dir={tmp_path}/runs", *FAMILIES[name]]
        config = check_config(compose_values(prepare_overrides(overrides)))
        run(config)
        return config

    return train


def logits(model, config):
    size = config.data_shape.image_size
    with torch.no_grad():
        return model.eval()(torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_an_export_gives_the_same_logits_in_plain_timm(name, finished, tmp_path):
    config = finished(name)
    plain = eval(export_run(config.run_folder, tmp_path / "export"), {"timm": timm})
    _, ours = load_run(config.run_folder)
    assert set(load_file(tmp_path / "export" / "model.safetensors")) == set(plain.state_dict())
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in ours.state_dict().items())
    assert torch.equal(logits(plain, config), logits(ours, config))


def test_shared_weights_stand_under_each_of_their_names_and_older_run_folders_still_load(finished):
    """A CoaT uses one position encoding in many blocks; run folders once held shared weights under one name only."""
    config = finished("coat_tiny")
    file = config.run_folder / "model.safetensors"
    _, model = load_run(config.run_folder)
    saved = load_file(file)
    assert set(saved) == set(model.state_dict())
    shared = [key for key, _ in model.named_parameters(remove_duplicate=False)]
    first = [key for key, _ in model.named_parameters()]
    assert len(shared) > len(first)
    save_file({key: tensor for key, tensor in saved.items() if key in first or key not in shared}, file)
    _, older = load_run(config.run_folder)
    assert torch.equal(logits(older, config), logits(model, config))


def test_a_run_is_checked_by_what_it_recorded_not_by_what_is_known_now(make_config):
    """Earlier versions took thirds for q, k and v of every fused weight; their runs still evaluate and export."""
    config = make_config("recipe=ste", "mask.roles=[q]", "sparsity=1:8", "train.updates=1")
    run(config)
    file = config.run_folder / "sparse_tensors.json"
    recorded = json.loads(file.read_text())
    state = load_file(config.run_folder / "model.safetensors")
    weight = state["blocks.0.attn.qkv.weight"]
    weight[:64], weight[64:128] = weight[64:128].clone(), weight[:64].clone()  # now the rows of k are sparse
    save_file(state, config.run_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunFolderError, match=r"qkv\.weight\[0:64\]: group"):
        load_run(config.run_folder)
    file.write_text(json.dumps([tensor | {"rows": [64, 128]} for tensor in recorded]))
    load_run(config.run_folder)
