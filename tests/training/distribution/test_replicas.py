"""The hash by which ranks compare tensors, what cannot be shared, and a process that is alone."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nmtrain.errors import ConfigError
from nmtrain.training.distribution.ranks import ALONE
from nmtrain.training.distribution.replicas import position_hash
from nmtrain.training.distribution.sharded import shard_model


def test_the_hash_sees_a_bit_and_a_change_of_places():
    weight = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    hashes = [position_hash(weight)]
    flipped = weight.clone()
    flipped.view(torch.int32)[7, 3] ^= 1
    swapped = weight.clone()
    swapped[[3, 9]] = swapped[[9, 3]]
    hashes += [position_hash(flipped), position_hash(swapped), position_hash(weight.half())]
    assert len({int(found) for found in hashes}) == 4
    assert position_hash(weight.clone()) == hashes[0]


def test_the_hash_of_masks_sees_where_they_are_true():
    masks = torch.eye(5, dtype=torch.bool)
    assert len({int(position_hash(row)) for row in masks}) == 5
    assert position_hash(torch.zeros(3, dtype=torch.bool)) != position_hash(torch.zeros(4, dtype=torch.bool))


def test_a_large_tensor_is_hashed_as_a_whole(monkeypatch):
    from nmtrain.training.distribution import replicas

    weight = torch.randn(100)
    whole = position_hash(weight)
    monkeypatch.setattr(replicas, "_AT_ONCE", 7)
    assert position_hash(weight) == whole


def test_a_process_that_is_alone_touches_nothing_of_torch_distributed(make_config):
    import torch.distributed

    values = torch.ones(3)
    assert ALONE.mean(values) is values
    assert ALONE.summed(*values) == [1.0, 1.0, 1.0]
    assert (ALONE.gathered(4), ALONE.of_first(lambda: 5), ALONE.most(2)) == ([4], 5, 2)
    assert ALONE.whole([["a"], ["b", "c"]]) == ["a", "b", "c"]
    assert ALONE.apart == ()
    assert not torch.distributed.is_initialized()


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_a_model_that_fsdp2_cannot_wrap_is_refused_in_one_line(group):
    model = nn.Linear(4, 4)
    model.temperature = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ConfigError) as refused:
        shard_model(model, group)
    (line,) = str(refused.value).splitlines()
    assert line.startswith("launch.strategy=fsdp: FSDP2 cannot wrap this model (")
    assert "scalar" in line
    assert line.endswith("); allowed: ddp")


class ViewBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4))

    def forward(self, x):
        return self.inner(x).view(x.shape)


class AddsInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(ViewBlock(), ViewBlock())

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
            x += 1
        return x


def test_a_model_that_adds_in_place_to_a_view_has_the_gradients_it_has_alone(group):
    """FSDP2 by itself warns of that, and would not gather the weights again for the backward."""
    alone, shared = AddsInPlace(), AddsInPlace()
    shared.load_state_dict(alone.state_dict())
    shard_model(shared, group)
    inputs = torch.randn(3, 4)
    for model in (alone, shared):
        model(inputs).square().sum().backward()
    gradients = [parameter.grad for parameter in alone.parameters()]
    for gradient, parameter in zip(gradients, shared.parameters(), strict=True):
        assert torch.allclose(parameter.grad.full_tensor(), gradient)
