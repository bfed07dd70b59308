"""The stock model's state dict out of a sparsified model."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrizations

from nmtrain.sparsity import (
    NMPattern,
    SparsityRule,
    SparsityState,
    remove_sparsity,
    sparsify_model,
    sparsity_control,
    stock_state_dict,
)

TARGET = NMPattern(1, 4)


class Model(nn.Module):
    """A shared weight, sparse rows of a fused one, a foreign parametrization, and buffers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.qkv = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 6)
        self.second.weight = self.first.weight
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.norm = nn.BatchNorm1d(4)


def test_it_is_that_of_the_model_without_its_sparsity_and_leaves_the_model_alone():
    torch.manual_seed(0)
    model = Model()
    names = list(model.state_dict())
    sparsify_model(model, [SparsityRule("first.weight", TARGET), SparsityRule("qkv.weight", TARGET, rows=(2, 4))])
    sparsity_control(model).update({TARGET: SparsityState(TARGET)})
    before = copy.deepcopy(model.state_dict())
    state = stock_state_dict(model)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    remove_sparsity(model)
    expected = model.state_dict()
    assert sorted(state) == sorted(expected) == sorted(names)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    assert expected["second.weight"].count_nonzero() == 4


def test_it_has_what_the_forward_uses_while_pruned_entries_decay():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[4.0, -2.0, 1.0, 0.0]])
    sparsify_model(layer, [SparsityRule("weight", TARGET)])
    sparsity_control(layer).update({TARGET: SparsityState(TARGET, decay=0.5)})
    assert stock_state_dict(layer)["weight"].tolist() == [[4.0, -1.0, 0.5, 0.0]]
