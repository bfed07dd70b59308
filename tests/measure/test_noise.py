"""The noise meter against NumPy in float64, which is given every gradient, mask and weight of a short training."""

import io
import json
import re
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nmtrain.measure import NoiseMeter
from nmtrain.measure.noise import SGD_BETAS
from nmtrain.recipes import build_recipe
from nmtrain.sparsity import (
    NMPattern,
    SparsityRule,
    resolve_rules,
    sparsify_model,
    sparsity_control,
)

UPDATES, EVERY, WINDOW = 30, 5, 7
ENTRY_WISE = ("grad_abs_mean", "grad_abs_var", "grad_noise", "second_moment_mean", "second_moment_var")
BETAS = (0.9, 0.98)

RULES = [
    SparsityRule("blocks.*.up.weight", NMPattern(1, 8), "ff"),
    SparsityRule("blocks.*.down.weight", NMPattern(1, 8), "ff", "output"),
    SparsityRule("blocks.*.qkv.weight", NMPattern(2, 4), "q", rows=(0, 16)),
    SparsityRule("blocks.1.qkv.weight", NMPattern(2, 4), "v", rows=(32, 48)),
]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.up, self.down = nn.Linear(16, 48), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        x = x + torch.tanh(q * k) + v
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@dataclass
class Training:
    """A loop like the Trainer's, that keeps all it sees: per tensor, in float64, one entry per update."""

    recipe: dict = field(default_factory=lambda: {"name": "mdgf"})
    optimizer_name: str = "adamw"
    micro_batches: int = 1
    clip_norm: float | None = 0.05
    bf16: bool = False
    every: int = EVERY
    window: int = WINDOW

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = Net()
        self.dense = self.recipe["name"] == "dense"
        self.tensors = (resolve_rules if self.dense else sparsify_model)(self.model, RULES)
        self.control = sparsity_control(self.model)
        self.recipes = {rule.pattern: build_recipe(target=rule.pattern, **self.recipe) for rule in RULES}
        if self.optimizer_name == "sgd":
            self.optimizer = torch.optim.SGD(
                self.model.parameters(), lr=0.5, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=True
            )
        else:
            self.optimizer = torch.optim.AdamW(
                self.model.parameters(), lr=3e-2, betas=BETAS, weight_decay=0.05, fused=True
            )
        self.meter = NoiseMeter(self.model, {RULES[0].pattern: self.tensors}, self.optimizer, self.every, self.window)
        self.done = 0
        self.records: list[dict] = []
        self.raw, self.clipped, self.masks, self.states = ([] for _ in range(4))

    def weight(self, tensor):
        module = self.model.get_submodule(tensor.name.rpartition(".")[0])
        return module.weight if self.dense else module.parametrizations.weight.original

    def part(self, tensor, full: torch.Tensor) -> np.ndarray:
        rows = slice(*tensor.rows) if tensor.rows else slice(None)
        return full.detach()[rows].double().numpy().copy()

    def gradients(self) -> list[np.ndarray]:
        return [self.part(tensor, self.weight(tensor).grad) for tensor in self.tensors]

    def update(self) -> None:
        states = {target: recipe.at(self.done, UPDATES) for target, recipe in self.recipes.items()}
        self.control.update(states)
        self.states.append([states[tensor.pattern] for tensor in self.tensors])
        self.masks.append(
            [
                masks_by_sorting(
                    self.part(tensor, self.weight(tensor)),
                    tensor.fit(state.pattern or tensor.pattern),
                    tensor.axis,
                )
                for tensor, state in zip(self.tensors, self.states[-1], strict=True)
            ]
        )
        generator = torch.Generator().manual_seed(self.done)
        inputs, labels = torch.randn(8, 16, generator=generator), torch.randint(4, (8,), generator=generator)
        for part in range(self.micro_batches):
            rows = slice(part, None, self.micro_batches)
            with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
                loss = nn.functional.cross_entropy(self.model(inputs[rows]), labels[rows])
            (loss / self.micro_batches).backward()
        self.control.add_penalty()
        self.raw.append(self.gradients())
        self.meter.see_gradients(self.done)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.clipped.append(self.gradients())
        self.optimizer.step()
        self.records += self.meter.after_step()
        self.optimizer.zero_grad()
        self.done += 1

    def run(self, until: int = UPDATES) -> "Training":
        while self.done < until:
            self.update()
        return self


def masks_by_sorting(weight: np.ndarray, pattern: NMPattern, axis: str) -> np.ndarray:
    groups = (weight if axis == "input" else weight.T).reshape(-1, pattern.m)
    order = np.argsort(-np.abs(groups), axis=1, kind="stable")
    mask = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(mask, order[:, : pattern.n], True, axis=1)
    return mask.reshape(weight.shape) if axis == "input" else mask.reshape(weight.T.shape).T


def expected(training: Training, i: int, update: int) -> dict:
    """Every metric of tensor ``i`` at 0-based ``update``, from what the training kept."""
    beta1, beta2 = SGD_BETAS if training.optimizer_name == "sgd" else BETAS
    m = v = np.zeros(training.tensors[i].shape)
    for gradients in training.clipped[: update + 1]:
        m, v = beta1 * m + (1 - beta1) * gradients[i], beta2 * v + (1 - beta2) * gradients[i] ** 2
    m_hat, v_hat = m / (1 - beta1 ** (update + 1)), v / (1 - beta2 ** (update + 1))
    magnitudes = np.abs(training.raw[update][i])
    per_entry = {
        "grad_abs_mean": (np.mean, magnitudes),
        "grad_abs_var": (np.var, magnitudes),
        "grad_noise": (np.mean, np.maximum(v_hat - m_hat**2, 0)),
        "second_moment_mean": (np.mean, v_hat),
        "second_moment_var": (np.var, v_hat),
    }
    mask = training.masks[update][i]
    values = {}
    for name, (reduce, entries) in per_entry.items():
        values[name] = reduce(entries)
        values[f"{name}/kept"] = reduce(entries[mask]) if mask.any() else None
        values[f"{name}/pruned"] = reduce(entries[~mask]) if not mask.all() else None
    first = update + 1 - training.window
    means = [np.abs(gradients[i]).mean() for gradients in training.raw[max(0, first) : update + 1]]
    values["grad_window_var"] = np.var(means) if first >= 0 else None
    last = update - training.every
    changed = int((mask != training.masks[last][i]).sum()) if last >= 0 else None
    values["sad"] = changed
    values["flip_rate"] = None if changed is None else changed / mask.size / training.every
    values["density"] = 1.0 if training.states[update][i].pattern is None else mask.mean()
    return values


def assert_close(record: dict, values: dict) -> None:
    for name, value in values.items():
        if value is None or isinstance(value, int):
            assert record[name] == value, name
        else:
            assert record[name] == pytest.approx(value, rel=1e-5, abs=0), name


CASES = {
    "mdgf": {},
    "mdgf-accumulation": {"recipe": {"name": "mdgf", "decay": "linear"}, "micro_batches": 2, "clip_norm": None},
    "mdgf-bf16": {"bf16": True},
    "sdgf": {"recipe": {"name": "sdgf"}, "micro_batches": 2},
    "sdgf-geometric": {"recipe": {"name": "sdgf", "structure": "geometric"}},
    "sr_ste-dense-phase": {"recipe": {"name": "sr_ste", "dense_fraction": 0.4, "penalty": 0.1}},
    "dense": {"recipe": {"name": "dense"}},
    "sdgf-sgd": {"recipe": {"name": "sdgf"}, "optimizer_name": "sgd", "micro_batches": 2},
    "dense-sgd": {"recipe": {"name": "dense"}, "optimizer_name": "sgd"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_metric_is_what_numpy_makes_of_the_gradients(case) -> None:
    training = Training(**case).run()
    by_key = {(record["update"], record["tensor"]): record for record in training.records}
    for update in range(EVERY - 1, UPDATES, EVERY):
        for i, tensor in enumerate(training.tensors):
            record = by_key[update + 1, tensor.label]
            state = training.states[update][i]
            assert_close(record, expected(training, i, update))
            assert record["pattern"] == (None if state.pattern is None else str(tensor.fit(state.pattern)))
            assert record["decay"] == state.decay
    clipped, raw = training.clipped[-1][0], training.raw[-1][0]
    assert (training.clip_norm is None) == np.array_equal(clipped, raw)  # or the case would say nothing about clipping
    assert {record["update"] for record in training.records} == set(range(EVERY, UPDATES + 1, EVERY))
    assert sum(record["sad"] or 0 for record in training.records if record["role"]) > 0


def test_masks_by_sorting_are_the_masks_in_force() -> None:
    training = Training(recipe={"name": "sdgf"}).run(17)
    in_force = {tensor: mask for tensor, _, mask, _ in training.control.sparse_tensors()}
    for tensor, mask in zip(training.tensors, training.masks[-1], strict=True):
        assert np.array_equal(in_force[tensor].numpy(), mask)


def test_a_frozen_mask_does_not_flip() -> None:
    training = Training(recipe={"name": "ste", "finetune_fraction": 0.5, "freeze_mask": True}).run()
    sad = {record["update"]: record["sad"] for record in training.records if record["tensor"] == "mean"}
    assert sad[15] > 0
    assert [sad[update] for update in (25, 30)] == [0, 0]


def test_kept_and_pruned_add_up_to_the_whole() -> None:
    for record in Training(recipe={"name": "sdgf"}).run().records:
        if record["role"] and record["depth"] is not None and record["tensor"].startswith("blocks"):
            share = record["density"]
            for metric in ("grad_abs_mean", "grad_noise", "second_moment_mean"):
                whole = share * record[f"{metric}/kept"] + (1 - share) * record[f"{metric}/pruned"]
                assert record[metric] == pytest.approx(whole, rel=1e-12)


def test_the_masked_rule_leaves_exactly_nothing_of_pruned_gradients() -> None:
    last = Training(recipe={"name": "static"}).run().records[-1]
    assert [last[f"{metric}/pruned"] for metric in ("grad_abs_mean", "grad_abs_var")] == [0, 0]
    assert last["grad_abs_mean/kept"] > 0


def test_averages_are_unweighted_over_tensors_roles_and_depths() -> None:
    training = Training(recipe={"name": "sdgf"}).run()
    last = {record["tensor"]: record for record in training.records if record["update"] == UPDATES}
    labels = [tensor.label for tensor in training.tensors]
    groups = {
        "mean": labels,
        "role:ff": [label for label in labels if re.search("up|down", label)],
        "role:q": [label for label in labels if label.endswith("[0:16]")],
        "role:v": ["blocks.1.qkv.weight[32:48]"],
        "depth:0": [label for label in labels if label.startswith("blocks.0")],
        "depth:1": [label for label in labels if label.startswith("blocks.1")],
    }
    assert list(last) == [*labels, *groups]
    metrics = [*(f"{m}{part}" for m in ENTRY_WISE for part in ("", "/kept", "/pruned"))]
    for name, members in groups.items():
        for metric in [*metrics, "grad_window_var", "flip_rate", "sad", "density"]:
            mean = np.mean([last[member][metric] for member in members])
            assert last[name][metric] == pytest.approx(mean, rel=1e-12), (name, metric)
    assert (last["mean"]["pattern"], last["role:q"]["pattern"]) == ("1:8", "2:4")
    assert (last["depth:1"]["role"], last["depth:1"]["depth"], last["role:v"]["role"]) == (None, 1, "v")


def test_averages_name_the_recipes_phase_and_tensors_what_their_axis_got() -> None:
    training = Training(recipe={"name": "sdgf", "structure": "geometric"}).run(EVERY)
    pattern = {record["tensor"]: record["pattern"] for record in training.records}
    assert pattern["mean"] == "16:128"
    assert pattern["blocks.0.up.weight"] == "2:16"


def test_a_dense_phase_measures_what_a_dense_run_measures() -> None:
    # Without clipping, whose norm adds up the parameters in another order where some are parametrized.
    phase = Training(recipe={"name": "sr_ste", "dense_fraction": 0.5}, clip_norm=None).run(15).records
    assert phase == Training(recipe={"name": "dense"}, clip_norm=None).run(15).records
    assert phase[0]["pattern"] is None
    assert phase[0]["density"] == 1.0
    assert phase[0]["grad_abs_mean/pruned"] > 0


@pytest.mark.parametrize(("case", "stop"), [("mdgf", 3), ("sdgf", 13), ("dense", 20), ("sdgf-sgd", 13)])
def test_a_resumed_run_has_the_same_records_bit_for_bit(case: str, stop: int) -> None:
    whole = Training(**CASES[case]).run()
    first = Training(**CASES[case]).run(stop)
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in (first.model, first.optimizer, first.meter)], buffer)
    first.run(stop + 3)  # what was saved stays as it was
    buffer.seek(0)
    resumed = Training(**CASES[case])
    for part, state in zip(
        (resumed.model, resumed.optimizer, resumed.meter), torch.load(buffer, weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    resumed.done = stop
    assert resumed.run().records == [record for record in whole.records if record["update"] > stop]


def test_state_of_other_masks_is_left_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """What does not depend on them goes on."""
    whole = Training(recipe={"name": "dense"}).run()
    other = Training(recipe={"name": "dense"}).run(EVERY + 3)
    state = other.meter.state_dict()
    state["tensors"][0][1] = "1:16"
    other.meter.load_state_dict(state)
    assert "other tensors or patterns" in caplog.text
    first, *others = [tensor.label for tensor in other.tensors]
    flips = []
    for record, expected in zip(other.run().records, whole.records, strict=True):
        if record["tensor"] in others:
            assert record == expected
        elif record["tensor"] == first:
            flips.append(record["sad"] is not None)
            assert record | {"sad": 0, "flip_rate": 0} == expected | {"sad": 0, "flip_rate": 0}
    assert flips == [False, False, True, True, True, True]


def test_measuring_changes_nothing() -> None:
    with_meter, without = Training(), Training()
    without.meter.see_gradients = without.meter.after_step = lambda *number: []
    with_meter.run()
    without.run()
    for one, other in zip(with_meter.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_nothing_waits_for_the_device_before_the_values_are_whole() -> None:
    """On a CPU nothing waits; what would wait elsewhere reads single values."""

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return func(*args, **(kwargs or {}))

    training = Training().run(EVERY - 1)
    meter, reads = training.meter, Reads()

    def counted(method):
        def call(*number):
            with reads:
                return method(*number)

        return call

    meter.see_gradients, meter.after_step = counted(meter.see_gradients), counted(meter.after_step)
    training.run(EVERY)
    assert training.records
    assert reads.count == 0


def test_records_are_flat_json_that_the_report_finds() -> None:
    records = Training().run(EVERY).records
    for record in records:
        line = json.dumps(record)
        assert json.loads(line) == record
        assert "NaN" not in line
        assert all(value is None or isinstance(value, str | int | float) for value in record.values())
    assert sum('"tensor": "mean"' in json.dumps(record) for record in records) == 1
