"""A sparse model under torch.compile: what changes from update to update must not compile anything again."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from nmtrain.recipes import build_recipe
from nmtrain.sparsity import NMPattern, SparsityRule, SparsityState, sparsify_model, sparsity_control
from nmtrain.training.optim import take_step

TARGET = NMPattern(1, 4)
MASKED = "masked"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.fc = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.fc(q * k + v)


def sparse_model():
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block())
    rules = [SparsityRule("*.fc.weight", TARGET), SparsityRule("*.qkv.weight", TARGET, rows=(0, 16))]
    sparsify_model(model, rules)
    return model


def losses(model, forward, states):
    """One update per state; the losses, and with them every value that the states had an influence on."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    seen = []
    for state in states:
        sparsity_control(model).update({TARGET: state})
        loss = forward(inputs).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    return seen


@pytest.fixture
def counter():
    torch._dynamo.reset()
    yield CompileCounter()
    torch._dynamo.reset()


DECAYS = [SparsityState(TARGET, decay, MASKED, penalty) for decay, penalty in [(1, 0), (0.7, 2e-4), (0.1, 0.3), (0, 0)]]


@pytest.mark.slow
class TestRecompilation:
    def test_decay_penalty_and_masks_may_change_every_update(self, counter):
        model = sparse_model()
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        assert losses(model, compiled, DECAYS) == pytest.approx(losses(fresh := sparse_model(), fresh, DECAYS))
        assert counter.frame_count == 1

    def test_patterns_may_change_every_phase(self, counter):
        model = sparse_model()
        states = [SparsityState(NMPattern.parse(pattern)) for pattern in ("4:8", "3:4", "2:4", "1:4")]
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        assert losses(model, compiled, states) == pytest.approx(losses(fresh := sparse_model(), fresh, states))
        assert counter.frame_count == 1

    def test_dense_to_sparse_compiles_once_more(self, counter):
        model = sparse_model()
        states = [SparsityState(None), SparsityState(None), *DECAYS, SparsityState(TARGET, 0, MASKED, freeze=True)]
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        assert losses(model, compiled, states) == pytest.approx(losses(fresh := sparse_model(), fresh, states))
        assert counter.frame_count == 2

    def test_evaluation_between_updates_reuses_what_was_compiled(self, counter):
        model = sparse_model()
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        inputs = torch.ones(2, 8)
        for state in DECAYS:
            sparsity_control(model).update({TARGET: state})
            with torch.no_grad():
                compiled(inputs)
        assert counter.frame_count == 1

    @pytest.mark.usefixtures("counter")
    def test_the_traced_backward_equals_eager(self):
        model, fresh = sparse_model(), sparse_model()
        states = [SparsityState(None), *DECAYS]
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert losses(model, compiled, states) == pytest.approx(losses(fresh, fresh, states), rel=1e-5)


# What the field's methods keep beside the mask, and exchange, must compile nothing again either.
FIELD = [
    ("gmp", {}),
    ("asp", {}),
    ("step", {}),
    ("s_ste", {"dense_fraction": 0.2}),
    ("feather", {}),
    ("rigl", {"every": 3}),
    ("top_kast", {"every": 5}),
    ("ac_dc", {"rounds": 2}),
    ("maxq", {}),
    ("mdgf", {"tighten": True, "contenders": 2.0, "decay_end": 0.1}),
]


def trained(model, forward, recipe, total, graphs=lambda: 0):
    """The loss of each update of a training, and the updates before which ``graphs`` counts fewer than after."""
    control, seen, made = sparsity_control(model), [], []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    for update in range(total):
        before = graphs()
        control.update({TARGET: recipe.at(update, total)})
        loss = forward(inputs).square().mean()
        loss.backward()
        control.add_penalty()
        control.exchange(optimizer)
        take_step(optimizer, control.with_held_variance())
        optimizer.zero_grad()
        seen.append(loss.item())
        made += [update] if graphs() > before else []
    return seen, made


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), FIELD, ids=[name for name, _ in FIELD])
def test_a_method_compiles_at_the_first_update_of_a_phase_or_not_at_all(name, options, counter):
    recipe, total = build_recipe(name, TARGET, **options), 40
    model = sparse_model()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    found, made = trained(model, compiled, recipe, total, lambda: counter.frame_count)
    assert found == pytest.approx(trained(fresh := sparse_model(), fresh, recipe, total)[0])
    starts = [first for first, _ in recipe.phases(total)]
    states = [state for _, state in recipe.phases(total)]
    dense_and_sparse = len({state.pattern is None for state in states})
    assert made[0] == 0
    assert set(made) <= set(starts)
    assert len(made) == dense_and_sparse  # a graph for dense updates, one for sparse ones
