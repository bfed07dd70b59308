"""A weight that one forward reads several times is sparsified once, and nothing else about it changes."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import nmtrain.sparsity.control
from nmtrain.sparsity import NMPattern, SparsityRule, SparsityState, remove_sparsity, sparsify_model, sparsity_control

TARGET = NMPattern(1, 4)
DECAYED = {TARGET: SparsityState(TARGET, decay=0.3, gradient="masked")}
INPUTS = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


class FeedForward(nn.Module):
    """Reads its second weight three times, as T5 does."""

    def __init__(self):
        super().__init__()
        self.wi, self.wo = nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False)

    def forward(self, x):
        x = torch.relu(self.wi(x))
        if isinstance(self.wo.weight, torch.Tensor):
            x = x.to(self.wo.weight.dtype)
        return self.wo(x)


class Model(nn.Module):
    """Two blocks that share all weights, and a fused weight of which rows are sparse."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.first, self.second = FeedForward(), FeedForward()
        self.second.wi.weight, self.second.wo.weight = self.first.wi.weight, self.first.wo.weight
        self.qkv = nn.Linear(8, 24)
        self.reentrant = reentrant

    def forward(self, x):
        for block in (self.first, self.second):
            x = x + (block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant))
        return self.qkv(x)


def sparse_model(reentrant=None):
    torch.manual_seed(0)
    model = Model(reentrant)
    rules = [SparsityRule("first.w?.weight", TARGET), SparsityRule("qkv.weight", TARGET, rows=(8, 16))]
    sparsify_model(model, rules)
    sparsity_control(model).update(DECAYED)
    return model


@pytest.fixture
def computed(monkeypatch):
    """The shapes of all weights that were sparsified, in order."""
    shapes = []
    original = nmtrain.sparsity.control.apply_mask

    def counting(weight, *arguments, value=None, **options):
        if value is None:
            shapes.append(tuple(weight.shape))
        return original(weight, *arguments, value=value, **options)

    monkeypatch.setattr(nmtrain.sparsity.control, "apply_mask", counting)
    return shapes


def gradients(model, inputs=INPUTS):
    model.zero_grad()
    model(inputs.clone().requires_grad_()).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def without_hooks(model):
    """The same model, each reading sparsified anew."""
    for hook in sparsity_control(model).hooks:
        hook.remove()
    return model


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_each_weight_is_sparsified_once_per_forward(context, computed):
    model = sparse_model()
    computed.clear()
    with context():
        for forwards in (1, 2, 3):
            model(INPUTS)
            assert sorted(computed) == sorted([(16, 8), (8, 16), (8, 8)] * forwards)


def test_the_readings_of_a_t5_block_are_what_is_saved(computed):
    model = without_hooks(sparse_model())
    computed.clear()
    model(INPUTS)
    assert len(computed) == 9  # wi and wo one and three times in each of two blocks, and the rows of qkv


def test_outputs_and_gradients_are_those_of_sparsifying_at_every_reading():
    model, plain = sparse_model(), without_hooks(sparse_model())
    assert torch.equal(model(INPUTS), plain(INPUTS))
    expected = gradients(plain)
    for _ in range(2):
        for name, gradient in gradients(model).items():
            assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    expected = gradients(without_hooks(sparse_model()))
    model = sparse_model(reentrant)
    for _ in range(2):
        for name, gradient in gradients(model).items():
            assert torch.equal(gradient, expected[name]), name


def test_weights_that_changed_since_the_last_forward_are_seen_however_they_changed():
    model, plain = sparse_model(), without_hooks(sparse_model())
    for change in (lambda p: p.data.mul_(-2), lambda p: setattr(p, "data", p.data + 1)):
        for each in (model, plain):
            each(INPUTS)
            change(each.first.wo.parametrizations.weight.original)
        assert torch.equal(model(INPUTS), plain(INPUTS))


def test_a_first_reading_without_gradients_leaves_them_to_the_next():
    def read(model, _):
        with torch.no_grad():
            assert not model.first.wo.weight.requires_grad

    expected = gradients(without_hooks(sparse_model()))
    model = sparse_model()
    model.register_forward_pre_hook(read)
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, expected[name]), name


def test_nothing_is_kept_between_forwards_nor_after_one_that_failed(computed):
    model = sparse_model()
    readings = sparsity_control(model).readings
    model(INPUTS)
    assert readings._values == {}
    with pytest.raises(RuntimeError):
        model(torch.zeros(3, 9))
    assert readings._values == {}
    computed.clear()
    weights = [model.first.wo.weight for _ in range(2)]
    assert len(computed) == 2
    assert weights[0].data_ptr() != weights[1].data_ptr()


def test_a_weight_that_is_read_once_is_kept_during_the_first_forward_only():
    model = sparse_model()
    readings = sparsity_control(model).readings
    kept = []
    model.qkv.register_forward_hook(lambda *_: kept.append(len(readings._values)))
    model(INPUTS)
    model(INPUTS)
    assert kept == [3, 0]


def test_copies_and_the_original_do_not_meet(computed):
    model = sparse_model()
    model(INPUTS)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.first.wo.parametrizations.weight.original.mul_(2)
    plain = without_hooks(copy.deepcopy(other))
    computed.clear()
    output = other(INPUTS)
    assert len(computed) == 3
    assert torch.equal(output, plain(INPUTS))
    remove_sparsity(other)
    assert not other._forward_hooks
    assert not other._forward_pre_hooks
    assert model._forward_hooks
    computed.clear()
    model(INPUTS)
    assert len(computed) == 3
