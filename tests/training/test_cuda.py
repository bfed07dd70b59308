"""Whole runs on a GPU: they learn what a CPU learns, end exactly N:M, resume, and do not wait where they need not."""

import json
import warnings

import pytest
import torch
import transformers.masking_utils
from safetensors.torch import load_file

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.data.images.in_memory import cropped_and_flipped
from nmtrain.errors import TrainingError
from nmtrain.training import precision
from nmtrain.training.checkpoint import load_checkpoint
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import load_run
from nmtrain.training.loading import load_task
from nmtrain.training.loop import Trainer
from nmtrain.training.plan import make_plan
from nmtrain.training.run import run

pytestmark = pytest.mark.cuda

DEVICE = "cuda"
RECIPES = [
    *("dense", "static", "ste", "sr_ste", "mdgf_exponential", "mdgf_linear", "sdgf_stepwise", "sdgf_geometric"),
    *("gmp", "asp", "step", "s_ste", "feather", "rigl", "top_kast", "ac_dc", "maxq"),
]
OPTIONS = {"rigl": ["recipe.every=3"], "top_kast": ["recipe.every=3"], "ac_dc": ["recipe.rounds=2"]}
VIT = ["experiment=smoke", "model.options.depth=1", "model.options.embed_dim=64", "data.augment=false"]
RESNET = ["data=digits", "model=resnet", "data.augment=false", "mask.roles=[conv]", "mask.indivisible=skip"]
LISTOPS = ["data.train_size=256", "data.val_size=60", "data.test_size=4", "data.max_length=24"]
T5 = ["model=t5", *LISTOPS, *(f"model.options.{option}=64" for option in ("d_model", "d_ff"))]
T5 += [f"model.options.{option}=1" for option in ("num_layers", "num_decoder_layers")]
BERT = ["model=bert", *LISTOPS, *(f"model.options.{option}=64" for option in ("hidden_size", "intermediate_size"))]
BERT += ["model.options.num_hidden_layers=1"]
SHORT = ["sparsity=1:8", "train.updates=12", "train.batch_size=32", "train.log_every=1", "measure=off"]
NEAR = 2e-4  # of losses in fp32 on both devices


@pytest.fixture
def make_config(tmp_path):
    """A config of a short run; those of different devices lie in different folders."""

    def make(*overrides, device=DEVICE):
        line = [*SHORT, f"train.device={device}", f"results_dir={tmp_path}/{device}", *overrides]
        return check_config(compose_values(prepare_overrides(line)))

    return make


@pytest.fixture(autouse=True)
def _same_products(monkeypatch):
    """Convolutions in fp32 proper, so that losses can be compared; cuDNN's own default is TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def records(config):
    return [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]


def losses(config):
    return [record["loss"] for record in records(config) if record["split"] == "train"]


def trained(config):
    """The losses of a run that ends exactly N:M, on the device that was asked for."""
    summary = run(config)
    assert summary["status"] == "finished"
    _, model = load_run(config.run_folder)  # verified group by group
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    return losses(config)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_as_on_a_cpu(recipe, make_config):
    line = [*VIT, f"recipe={recipe}", *OPTIONS.get(recipe, [])]
    there, here = (trained(make_config(*line, device=device)) for device in (DEVICE, "cpu"))
    assert there == pytest.approx(here, abs=NEAR)


SETTINGS = {
    "bf16": ([*VIT, "train.precision=bf16"], 2e-2),
    "fp16": ([*VIT, "train.precision=fp16"], 5e-3),
    "sgd": ([*VIT, "optim=sgd"], NEAR),
    "adafactor": ([*VIT, "optim=adafactor"], 1e-3),
    "micro-batches": ([*VIT, "train.micro_batches=4"], NEAR),
    "mixup and CutMix": ([*VIT, "train.mixup=0.2", "train.cutmix=1.0"], NEAR),
    "mixed by element": ([*VIT, "train.mixup=0.2", "train.cutmix=1.0", "train.mix_mode=elem"], NEAR),
    "bce": ([*VIT, "train.loss=bce"], NEAR),
    "average, best, layers": ([*VIT, "train.ema=0.9", "train.keep_best=true", "optim.layer_decay=0.8"], NEAR),
    "noise": ([*VIT, "measure=default", "measure.every=3", "measure.window=3"], NEAR),
    "recomputed": ([*VIT, "train.gradient_checkpointing=true"], NEAR),
    "convolutions": ([*RESNET], 1e-3),
    "channels last": ([*RESNET, "train.channels_last=true", "train.gradient_checkpointing=true"], 1e-3),
    "t5": ([*T5], NEAR),
    "t5 bf16": ([*T5, "train.precision=bf16", "train.beams=2"], 2e-2),
    "t5 ranked": ([*T5, "train.score_by=ranking", "train.gradient_checkpointing=true"], NEAR),
    "t5 adafactor": ([*T5, "optim=adafactor"], 1e-3),
    "bert": ([*BERT], NEAR),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_train_as_on_a_cpu(name, make_config):
    line, near = SETTINGS[name]
    there, here = (make_config(*line, "recipe=mdgf_exponential", device=device) for device in (DEVICE, "cpu"))
    of_there, of_here = trained(there), trained(here)
    assert of_there[:4] == pytest.approx(of_here[:4], abs=near)
    # From then on rounding may turn an entry of a mask, which shows most behind batch norm.
    assert of_there == pytest.approx(of_here, abs=near if "model=resnet" not in line else 2e-2)
    metrics = [json.loads((config.run_folder / "summary.json").read_text())["metrics"] for config in (there, here)]
    assert metrics[0].keys() == metrics[1].keys()
    assert metrics[0]["val/loss"] == pytest.approx(metrics[1]["val/loss"], abs=10 * near)
    if name == "noise":
        noise = [[json.loads(line) for line in (c.run_folder / "noise.jsonl").open()] for c in (there, here)]
        for one, other in zip(*noise, strict=True):
            assert one.keys() == other.keys()
            assert one["grad_abs_mean"] == pytest.approx(other["grad_abs_mean"], rel=1e-2)


def test_a_run_is_known_to_be_of_the_gpu(make_config):
    config = make_config(*VIT)
    summary = run(config)
    environment = json.loads((config.run_folder / "environment.json").read_text())
    assert (environment["device"], environment["device_type"]) == (torch.cuda.get_device_name(), DEVICE)
    assert 0 < summary["peak_memory_bytes"] <= torch.cuda.get_device_properties(0).total_memory


def test_dropout_follows_the_seed_of_the_run(make_config, tmp_path):
    line = [*VIT, "model.options.drop_rate=0.3", "++model.options.drop_path_rate=0.2", "train.updates=3"]
    once, again, other = (
        trained(make_config(*line, f"seed={seed}", f"results_dir={tmp_path}/{number}"))
        for number, seed in enumerate((0, 0, 1))
    )
    assert once == pytest.approx(again, abs=1e-5)
    assert once != pytest.approx(other, abs=1e-3)


RESUMED = {
    "vit": [*VIT, "data.augment=true", "model.options.drop_rate=0.1", "measure=default", "measure.every=3"],
    "vit bf16": [*VIT, "train.precision=bf16", "train.ema=0.9", "train.keep_best=true", "train.mixup=0.2"],
    "vit fp16": [*VIT, "train.precision=fp16", "optim=sgd"],
    "step": [*VIT, "recipe=step"],
    "t5": [*T5, "train.precision=bf16"],
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_ends_as_an_undisturbed_one(name, make_config, stopped):
    """To 1e-5: attention adds up in another order each time. With deterministic kernels see the next test."""
    config = make_config(*RESUMED[name], "train.checkpoint_every=1")
    stopped_at_two(config, stopped)
    assert losses(config) == pytest.approx(run_again(config), abs=1e-5)


@pytest.mark.parametrize("name", RESUMED)
def test_with_deterministic_kernels_a_resume_is_exact(name, make_config, stopped, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        config = make_config(*RESUMED[name], "train.checkpoint_every=1")
        weights = stopped_at_two(config, stopped)
        assert losses(config) == run_again(config)
    finally:
        torch.use_deterministic_algorithms(False)
    again = load_file(config.run_folder / "model.safetensors")
    assert all(again[tensor].equal(weight) for tensor, weight in weights.items())


def stopped_at_two(config, stopped):
    """Train a config, leave it as a kill after its second update would; the weights that it ended with."""
    with pytest.MonkeyPatch.context() as patch:
        ends = []
        original = Trainer.close

        def close(self, summary):
            ends.append(load_file(self.folder / "model.safetensors"))
            original(self, summary)

        patch.setattr(Trainer, "close", close)
        stopped(config)
    return ends[0]


def run_again(config):
    """The losses of a run that goes on where it was stopped."""
    before = losses(config)
    run(config)
    assert len(losses(config)) == len(before)
    return before


def test_a_run_goes_on_on_the_other_device(make_config, stopped, monkeypatch):
    """From a GPU to a CPU and back."""
    for first, then in ((DEVICE, "cpu"), ("cpu", DEVICE)):
        config = make_config(*VIT, "train.checkpoint_every=1", device=first)
        stopped_at_two(config, stopped)
        before = losses(config)
        other = make_config(*VIT, "train.checkpoint_every=1", f"results_dir={config.run_folder.parent}", device=then)
        config.run_folder.rename(other.run_folder)  # as train.device=auto would find it on a machine with another one
        run(other)
        assert losses(other) == pytest.approx(before, abs=NEAR)
        environment = json.loads((other.run_folder / "environment.json").read_text())
        assert [*(one["device_type"] for one in environment["before"]), environment["device_type"]] == [first, then]


def test_a_run_is_scored_and_exported_on_either_device(make_config, nm):
    for device in (DEVICE, "cpu"):
        config = make_config(*VIT, device=device)
        metrics = run(config)["metrics"]
        for other in (DEVICE, "cpu"):
            found = evaluate_run(config.run_folder, [f"train.device={other}"])["metrics"]
            assert found == pytest.approx(metrics, abs=3e-3)  # one image of 360 may fall otherwise
        status, _, err = nm("export", str(config.run_folder))
        assert status == 0, err
        content = load_file(config.run_folder / "model.safetensors")
        assert {tensor.device.type for tensor in content.values()} == {"cpu"}


def test_gradients_that_overflow_skip_updates_and_are_recorded(make_config, monkeypatch):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(precision.torch.amp, "GradScaler", lambda *args, **k: scaler(*args, **k, init_scale=2.0**26))
    config = make_config(*VIT, "train.precision=fp16", "train.updates=16")
    summary = run(config)
    lines = [record for record in records(config) if record["split"] == "train"]
    skipped = summary["skipped_updates"]
    assert 1 <= skipped < 14
    assert [line["skipped_updates"] for line in lines] == [*range(1, skipped + 1), *[skipped] * (16 - skipped)]
    assert [line["loss_scale"] for line in lines][:skipped] == [2.0 ** (25 - i) for i in range(skipped)]
    assert all(line["grad_norm"] is None for line in lines[:skipped])


WAITING = {
    "vit": [*VIT, "data.augment=true", "train.ema=0.9"],
    "vit bf16, mixed": [*VIT, "train.precision=bf16", "train.mixup=0.2", "train.cutmix=1.0", "train.micro_batches=2"],
    "resnet": [*RESNET, "train.channels_last=true"],
    "sr_ste": [*VIT, "recipe=sr_ste"],
    "sdgf": [*VIT, "recipe=sdgf_stepwise"],
    "t5": [*T5],
    "bert": [*BERT],
}


@pytest.mark.parametrize("name", WAITING)
def test_no_update_waits_for_the_gpu(name, make_config, monkeypatch):
    """A wait lets the GPU idle until the host has launched more; records and evaluations are outside."""
    original = Trainer.update

    def strict(self, number):
        if number < 2:  # where kernels are chosen and state is made
            return original(self, number)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return original(self, number)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "update", strict)
    # Transformers looks whether anything is padding, to do without a mask; not where a graph is traced.
    monkeypatch.setattr(transformers.masking_utils, "is_tracing", lambda *_: True)
    # Epochs begin outside: their order is copied.
    assert run(make_config(*WAITING[name], "train.updates=6", "train.batch_size=16"))["status"] == "finished"


def test_the_memory_that_a_plan_estimates_is_about_what_is_used(make_config):
    line = ["data=digits", "data.image_size=32", "model=vit", "model.options.depth=6", "model.options.embed_dim=256"]
    config = make_config(*line, "train.batch_size=512", "train.updates=3", "recipe=sr_ste")
    estimate = sum(make_plan(config).memory.values())
    used = run(config)["peak_memory_bytes"]
    warnings.warn(f"memory: estimated {estimate / 1e6:.0f} MB, used {used / 1e6:.0f} MB", stacklevel=1)
    assert 0.6 < used / estimate < 1.6


def test_a_full_memory_is_a_plain_message_and_the_next_run_has_it_again(make_config, monkeypatch):
    original = Trainer.update

    def full(self, number):
        if number == 3:
            torch.empty(2**44, dtype=torch.uint8, device=DEVICE)
        return original(self, number)

    config = make_config(*VIT, "train.checkpoint_every=1")
    monkeypatch.setattr(Trainer, "update", full)
    with pytest.raises(TrainingError, match=r"the memory of the GPU is full .*Tried to allocate 16384.*micro_batches"):
        run(config)
    assert json.loads((config.run_folder / "status.json").read_text())["state"] == "failed"
    assert load_checkpoint(config.run_folder / "checkpoints")["done"] == 3
    monkeypatch.setattr(Trainer, "update", original)
    assert run(config)["status"] == "finished"


def test_a_teacher_teaches_on_the_gpu(make_config):
    teacher = make_config(*VIT, "recipe=dense", device="cpu")
    run(teacher)
    line = [*VIT, "recipe=sr_ste", f"train.teacher={teacher.run_folder}", "train.mixup=0.2"]
    there, here = (trained(make_config(*line, device=device)) for device in (DEVICE, "cpu"))
    assert there == pytest.approx(here, abs=NEAR)


def test_images_in_memory_are_augmented_where_they_are(make_config):
    config = make_config(*VIT, "data.augment=true")
    data = load_task(config, torch.nn.Identity(), torch.device(DEVICE)).data
    for augmentation in (data._augmentation, cropped_and_flipped):
        data._augmentation = augmentation
        first, again = data.train_batch(3, 32), data.train_batch(3, 32)
        assert first[0].is_cuda
        assert first[0].equal(again[0])
        assert not first[0].equal(data.train_batch(4, 32)[0])
