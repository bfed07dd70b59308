"""The noise of a dense run, measured by the masks of several patterns."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nmtrain.measure import NoiseMeter
from nmtrain.sparsity import NMPattern, resolve_rules
from tests.measure.test_noise import EVERY, RULES, WINDOW, Training

PATTERNS = [NMPattern(1, 8), NMPattern(1, 2)]


def measured(patterns: list[NMPattern], **options) -> Training:
    """A dense training, measured for each of the patterns."""
    training = Training(recipe={"name": "dense"}, **options)
    rules = {pattern: [replace(rule, pattern=pattern) for rule in RULES[:2]] for pattern in patterns}
    tensors = {pattern: resolve_rules(training.model, own) for pattern, own in rules.items()}
    training.meter = NoiseMeter(training.model, tensors, training.optimizer, EVERY, WINDOW)
    return training


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_dense_run_is_measured_for_several_patterns_as_for_each_alone(optimizer: str) -> None:
    together = measured(PATTERNS, optimizer_name=optimizer)
    records = together.run().records
    for pattern in PATTERNS:
        alone = measured([pattern], optimizer_name=optimizer)
        assert [record for record in records if record["sparsity"] == str(pattern)] == alone.run().records
        for one, other in zip(together.model.parameters(), alone.model.parameters(), strict=True):
            assert torch.equal(one, other)
    one, other = ([r for r in records if (r["tensor"], r["sparsity"]) == ("mean", str(p))][-1] for p in PATTERNS)
    assert one["grad_abs_mean"] == pytest.approx(other["grad_abs_mean"])  # over all entries, whatever the mask
    assert one["grad_abs_mean/kept"] != pytest.approx(other["grad_abs_mean/kept"], rel=0.01)


def test_further_patterns_cost_nothing_where_nothing_is_measured() -> None:
    class Operations(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for patterns in (PATTERNS[:1], PATTERNS):
        training = measured(patterns).run(EVERY)
        for parameter in training.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with Operations() as operations:
            training.meter.see_gradients(EVERY)
            training.meter.after_step()
        counts.append(operations.count)
    assert counts[0] == counts[1] > 0


def test_a_dense_run_that_goes_on_with_a_pattern_more_keeps_the_records_of_the_others() -> None:
    stop = EVERY + 2
    whole = measured(PATTERNS).run().records
    first, resumed = measured(PATTERNS[:1]).run(stop), measured(PATTERNS)
    for name in ("model", "optimizer", "meter"):
        getattr(resumed, name).load_state_dict(getattr(first, name).state_dict())
    resumed.done = stop
    records = resumed.run().records
    old = [record for record in records if record["sparsity"] == "1:8"]
    assert old == [record for record in whole if record["sparsity"] == "1:8" and record["update"] > stop]
    new = [record for record in records if (record["tensor"], record["sparsity"]) == ("mean", "1:2")]
    assert [record["sad"] is None for record in new] == [True, False, False, False, False]
