"""Variables of the environment: Accelerate's have no effect, what may change a result is recorded and warned of."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from nmtrain.training.environment import describe_environment, environments_before, without_accelerate_variables
from nmtrain.training.run import run

OF_ACCELERATE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_DOWNCAST_BF16": "yes",
    "FSDP_OFFLOAD_PARAMS": "true",
}


def test_no_variable_of_accelerate_changes_a_run(make_config, monkeypatch, caplog):
    for variable in OF_ACCELERATE:
        monkeypatch.delenv(variable, raising=False)
    config = make_config("train.updates=3", "train.micro_batches=2", "optim=sgd", "force=true")

    def weights():
        run(config)
        return load_file(config.run_folder / "model.safetensors")

    plain = weights()
    assert "ignored" not in caplog.text
    for variables in (["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"], sorted(OF_ACCELERATE)):
        for variable in variables:
            monkeypatch.setenv(variable, OF_ACCELERATE[variable])
        found = weights()
        assert all(torch.equal(found[key], plain[key]) for key in plain)
        assert f"ignored, since a run depends on its config alone: {', '.join(variables)}" in caplog.text


def test_the_variables_are_back_after_a_run(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(KeyError), without_accelerate_variables():
        os.environ["ACCELERATE_MIXED_PRECISION"]
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_what_may_change_a_result_is_recorded_and_warned_of(make_config, monkeypatch, caplog):
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    monkeypatch.setenv("TIMM_FUSED_ATTN", "0")
    monkeypatch.setenv("ONEDNN_VERBOSE", "0")
    config = make_config("train.updates=1")
    run(config)
    environment = json.loads((config.run_folder / "environment.json").read_text())
    assert environment["variables"] == {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16", "TIMM_FUSED_ATTN": "0"}
    assert "may change results: ONEDNN_DEFAULT_FPMATH_MODE=BF16, TIMM_FUSED_ATTN=0" in caplog.text


def test_variables_of_the_compiler_count_where_a_run_is_compiled(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    cpu = torch.device("cpu")
    assert "TORCHINDUCTOR_MAX_AUTOTUNE" not in describe_environment(cpu, compiled=False)["variables"]
    assert "TORCHINDUCTOR_MAX_AUTOTUNE" in describe_environment(cpu, compiled=True)["variables"]


def test_a_resume_under_other_variables_keeps_those_before(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    first = describe_environment(cpu, compiled=False)
    assert environments_before(dict(first), first) == []
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    (before,) = environments_before(dict(first), describe_environment(cpu, compiled=False))
    assert before == first


def test_where_git_is_not_installed_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert describe_environment(torch.device("cpu"), compiled=False)["git_commit"] is None
