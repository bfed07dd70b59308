"""The noise meter where the answer can be checked by eye: tiny tensors, refusals, two processes for one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from nmtrain.measure import NoiseMeter
from nmtrain.sparsity import NMPattern, SparsityRule, SparsityState, resolve_rules, sparsify_model, sparsity_control

TARGET = NMPattern(1, 4)  # what lines are said to be measured for; masks are those of the tensors
ENTRY_WISE = ("grad_abs_mean", "grad_abs_var", "grad_noise", "second_moment_mean", "second_moment_var")


def step(model: nn.Module, meter: NoiseMeter, number: int = 0, inputs=((1.0, -2.0, 3.0, -4.0),)) -> list[dict]:
    """One update on the sum of the outputs, so that every row's gradient is the input."""
    meter.optimizer.zero_grad()
    model(torch.tensor(inputs)).sum().backward()
    meter.see_gradients(number)
    meter.optimizer.step()
    return meter.after_step()


@pytest.mark.parametrize("dense", [False, True])
def test_counts_and_means_that_can_be_checked_by_eye(dense: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    rules = [SparsityRule("0.weight", NMPattern(1, 2), "ff")]
    tensors = resolve_rules(model, rules) if dense else sparsify_model(model, rules)
    weight = model[0].weight if dense else model[0].parametrizations.weight.original
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    meter = NoiseMeter(model, {TARGET: tensors}, optimizer, every=3, window=2)
    state = {NMPattern(1, 2): SparsityState(NMPattern(1, 2))}

    def measure(rows, first, **inputs):
        with torch.no_grad():
            weight.copy_(torch.tensor(rows))
        sparsity_control(model).update(state)
        return [step(model, meter, first + i, **inputs) for i in range(3)][-1][0]

    first = measure([[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, 3.0, 4.0]], 0)  # kept: the second of every two
    assert (first["sad"], first["flip_rate"]) == (None, None)
    assert (first["grad_abs_mean"], first["grad_abs_var"]) == (2.5, 1.25)
    assert (first["grad_abs_mean/kept"], first["grad_abs_var/kept"]) == (3, 1)
    assert (first["grad_abs_mean/pruned"], first["grad_abs_var/pruned"]) == (2, 1)
    assert first["grad_noise"] == pytest.approx(0, abs=1e-5)  # the gradient never changed
    assert first["second_moment_mean"] == pytest.approx((1 + 4 + 9 + 16) / 4)
    assert first["second_moment_var/kept"] == pytest.approx((16 - 4) ** 2 / 4, rel=1e-5)
    assert first["grad_window_var"] == 0

    second = measure([[1.0, 2.0, 5.0, 4.0], [-1.0, -2.0, 3.0, 4.0]], 3)  # one group of four changed its choice
    assert (second["sad"], second["flip_rate"]) == (2, 2 / 8 / 3)
    third = measure([[2.0, 1.0, 3.0, 4.0], [-2.0, -1.0, 3.0, 3.0]], 6)  # all four; of equals the first is kept
    assert (third["sad"], third["flip_rate"]) == (8, 8 / 8 / 3)
    assert third["density"] == (1.0 if dense else 0.5)
    assert third["pattern"] == (None if dense else "1:2")


def test_window_is_over_the_last_updates_not_the_last_measurements() -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    tensors = sparsify_model(model, [SparsityRule("0.weight", NMPattern(2, 4))])
    meter = NoiseMeter(model, {TARGET: tensors}, torch.optim.AdamW(model.parameters()), every=2, window=3)
    records = [step(model, meter, i, inputs=((size,) * 4,)) for i, size in enumerate((7.0, 1.0, 2.0, 6.0))]
    assert records[1][0]["grad_window_var"] is None  # only two updates seen
    assert records[3][0]["grad_window_var"] == pytest.approx(np.var([1, 2, 6]), rel=1e-14)


def test_noise_is_clamped_at_zero_and_bias_is_corrected_in_full_precision() -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    tensors = sparsify_model(model, [SparsityRule("0.weight", NMPattern(2, 4))])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.999))
    meter = NoiseMeter(model, {TARGET: tensors}, optimizer, every=1, window=2)
    sizes = [1.0] * 30 + [10.0] * 10
    records = [step(model, meter, i, inputs=((size,) * 4,))[0] for i, size in enumerate(sizes)]
    assert records[1]["second_moment_mean"] == pytest.approx(1, rel=1e-6)  # float32 has 1 - 0.999**2 to 1e-5
    assert records[30]["grad_noise"] == pytest.approx(0.4947773, rel=1e-5)
    assert records[-1]["second_moment_mean"] == pytest.approx(26.12266514, rel=1e-6)
    assert records[-1]["grad_noise"] == 0  # m_hat**2 is 48.3 by now: it follows a change sooner than v_hat


def test_a_pattern_that_prunes_nothing_has_no_pruned_entries() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    tensors = sparsify_model(model, [SparsityRule("0.weight", NMPattern(4, 4))])
    meter = NoiseMeter(model, {TARGET: tensors}, torch.optim.AdamW(model.parameters()), every=1, window=2)
    (record, *_) = step(model, meter)
    assert record["density"] == 1.0
    assert all(record[f"{metric}/pruned"] is None for metric in ENTRY_WISE)
    assert record["grad_abs_mean/kept"] == record["grad_abs_mean"]


def test_a_tensor_that_the_loss_does_not_reach_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    tensors = sparsify_model(model, [SparsityRule("0.weight", NMPattern(1, 4))])
    meter = NoiseMeter(model, {TARGET: tensors}, torch.optim.AdamW(model.parameters()), every=1, window=2)
    for number in range(19):
        meter.see_gradients(number)
    with pytest.raises(RuntimeError, match=r"0\.weight has no gradient, in 20 updates"):
        meter.see_gradients(19)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_tensor_whose_layer_is_skipped_has_gradient_0(kind: type) -> None:
    """At beta2 = 0.999 and a gradient of 2 at the second of three updates, v is 0, 0.004 and 0.003996 in the mean of
    SGD, which has seen three updates; Adam has seen one, in which v_hat is 4."""
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    tensors = sparsify_model(model, [SparsityRule("0.weight", NMPattern(2, 4))])
    optimizer = kind(model.parameters(), lr=0.0)
    meter = NoiseMeter(model, {TARGET: tensors}, optimizer, every=1, window=3)
    records = []
    for number, skipped in enumerate((True, False, True)):
        optimizer.zero_grad()
        if not skipped:
            model(torch.full((1, 4), 2.0)).sum().backward()
        meter.see_gradients(number)
        optimizer.step()
        records.append(meter.after_step()[0])
    assert [record["grad_abs_mean"] for record in records] == [0, 2, 0]
    assert records[2]["grad_window_var"] == pytest.approx(np.var([0, 2, 0]))
    corrected = [0, 0.004 / (1 - 0.999**2), 0.003996 / (1 - 0.999**3)]
    expected = corrected if kind is torch.optim.SGD else [0, 4, 4]
    assert [record["second_moment_mean"] for record in records] == pytest.approx(expected, rel=1e-5)
    assert all(record["grad_noise"] >= 0 for record in records)


@pytest.mark.parametrize(("every", "window"), [(0, 2), (1, 1)])
def test_intervals_too_short_are_refused(every: int, window: int) -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    tensors = resolve_rules(model, [SparsityRule("0.weight", NMPattern(1, 4))])
    with pytest.raises(ValueError, match=f"every = {every} and window = {window}"):
        NoiseMeter(model, {TARGET: tensors}, torch.optim.AdamW(model.parameters()), every, window)
    with pytest.raises(ValueError, match="no tensors"):
        NoiseMeter(model, {TARGET: []}, torch.optim.AdamW(model.parameters()), 1, 2)


def train_distributed(rank: int, world: int, optimizer_name: str) -> list[dict]:
    """Train on this rank's share of every batch, in DDP where there are several ranks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    target = NMPattern(1, 8)
    tensors = sparsify_model(model, [SparsityRule("*.weight", target, "ff")])
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer_name]
    optimizer = kind(model.parameters(), lr=1e-3)
    meter = NoiseMeter(model, {TARGET: tensors}, optimizer, every=4, window=6)
    forward = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    records = []
    for number in range(12):
        sparsity_control(model).update({target: SparsityState(target, decay=0.5, gradient="masked")})
        generator = torch.Generator().manual_seed(number)
        inputs, labels = torch.randn(8, 16, generator=generator), torch.randint(4, (8,), generator=generator)
        nn.functional.cross_entropy(forward(inputs[rank::world]), labels[rank::world]).backward()
        meter.see_gradients(number)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        records += meter.after_step()
        optimizer.zero_grad()
    return records


@pytest.mark.slow
def test_two_processes_measure_what_one_does_on_the_joined_batch(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]  # the last lines of this file
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([*command, rank], env=environment, stderr=subprocess.PIPE, text=True) for rank in "01"
    ]
    alone = {name: train_distributed(0, 1, name) for name in ("adamw", "sgd")}
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    first, second = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    assert first == second
    for name, records in alone.items():
        assert len(records) == len(first[name]) == 3 * 4  # two tensors, their mean, one role
        for one, shared in zip(records, first[name], strict=True):
            for key, value in one.items():
                close = pytest.approx(value, rel=1e-5, abs=0) if isinstance(value, float) else value
                assert shared[key] == close, (name, one["tensor"], key)


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    records = {name: train_distributed(rank, 2, name) for name in ("adamw", "sgd")}
    (folder / str(rank)).write_text(json.dumps(records))
    dist.destroy_process_group()
