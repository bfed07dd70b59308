"""Which rows of a weight each of several processes keeps, and masks that are made from them."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from nmtrain.sparsity import NMPattern, SparsityRule, SparsityState, sparsify_model, sparsity_control
from nmtrain.sparsity.rules import SparseTensor
from nmtrain.sparsity.shards import WHOLE, RowShards
from nmtrain.sparsity.state import Flow, Projection

WORLD = 3


def shards(rank: int) -> RowShards:
    return RowShards({"fused": 10, "few": 2}, rank, WORLD, group=None)


def test_rows_are_dealt_out_in_runs_and_the_last_has_what_is_left():
    whole = torch.arange(10)
    assert [shards(rank).own(whole, "fused").tolist() for rank in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [shards(rank).own(torch.arange(2), "few").tolist() for rank in range(3)] == [[0], [1], []]
    assert all(shards(rank).place("fused", None) is None for rank in range(3))


def test_of_a_slice_each_has_the_rows_that_lie_in_its_own():
    """Rows 3 to 8 of ten: the first process keeps row 3, its last; the second four; the third row 8, its first."""
    slice_ = torch.arange(3, 9)
    assert [shards(rank).own(slice_, "fused", (3, 9)).tolist() for rank in range(3)] == [[3], [4, 5, 6, 7], [8]]
    assert [shards(rank).place("fused", (3, 9)) for rank in range(3)] == [(3, 4), (0, 4), (0, 1)]
    first, last = shards(2).place("fused", (0, 4))
    assert first == last
    for rank in range(3):
        kept = shards(rank).own(torch.arange(10), "fused")
        first, last = shards(rank).place("fused", (3, 9))
        assert kept[first:last].tolist() == shards(rank).own(slice_, "fused", (3, 9)).tolist()


@pytest.mark.parametrize(
    ("axis", "rows", "m", "holds"),
    [
        ("input", None, 4, True),
        ("output", (0, 8), 4, True),  # cut after 4, and where it ends
        ("output", (0, 8), 8, False),
        ("output", (2, 10), 4, False),  # cut after 2 and 6 of its rows
        ("output", (2, 10), 2, True),
    ],
)
def test_groups_of_rows_are_held_where_no_cut_goes_through_one(axis, rows, m, holds):
    tensor = SparseTensor("fused", "", (8, 8), axis, NMPattern(1, m), rows)
    assert {shards(rank).holds_groups(tensor, tensor.pattern) for rank in range(3)} == {holds}


def test_one_process_has_it_all():
    value = torch.arange(6)
    assert WHOLE.own(value, "any") is value
    assert WHOLE.whole(value, "any", (1, 3)) is value
    assert WHOLE.place("any", (1, 3)) == (1, 3)


STATES = {
    "strict": SparsityState(NMPattern(1, 4)),
    "wide groups": SparsityState(NMPattern(2, 8)),
    "part of the groups whole": SparsityState(NMPattern(1, 4), projection=Projection(whole_groups=0.3)),
    "scaled": SparsityState(NMPattern(1, 4), projection=Projection(power=1.0, threshold=1.0, rescale=True)),
    "queried": SparsityState(NMPattern(1, 4), projection=Projection(queried=True)),
    "contenders": SparsityState(NMPattern(1, 4), flow=Flow("straight_through", contenders=2.0)),
    "wider": SparsityState(NMPattern(1, 4), flow=Flow(0.0, wider=NMPattern(3, 4))),
}
RULES = [
    SparsityRule("0.weight", NMPattern(1, 4), rows=(0, 8)),
    SparsityRule("0.weight", NMPattern(1, 4), axis="output", rows=(8, 24)),
    SparsityRule("1.weight", NMPattern(1, 4), axis="output"),
    SparsityRule("2.weight", NMPattern(1, 4)),
]


def sparse_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 16), nn.Conv2d(16, 5, 3))
    sparsify_model(model, RULES)
    return model


def shown(model: nn.Module, rank: int) -> list[torch.Tensor]:
    """What the forward sees of each sparse weight, and the gradient that each entry gets of one to all."""
    found = []
    for weight, owner in sparsity_control(model).parametrizations:
        value = weight(owner.original)
        value.backward(torch.ones_like(value))
        found += [value.detach(), owner.original.grad]
        owner.original.grad = None
    return found


def compare(rank: int, store: str, failures) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    lengths = {"0.weight": 24, "1.weight": 16, "2.weight": 5}
    own = RowShards(lengths, rank, WORLD, dist.group.WORLD)
    whole, shared = sparse_model(), sparse_model()
    control = sparsity_control(shared)
    for name, state in STATES.items():
        states = dict.fromkeys(control.targets, state)
        sparsity_control(whole).update(states)
        if control.parametrizations[0][0].shards is WHOLE:
            control.hold(own, lambda tensor, mask: own.own(mask, tensor.name, tensor.rows))
            for weight, owner in control.parametrizations:
                owner.original.data = own.own(owner.original.data, weight.tensors[0].name)
        control.update(states)
        of_whole, of_shared = shown(whole, rank), shown(shared, rank)
        for i, (expected, found) in enumerate(zip(of_whole, of_shared, strict=True)):
            weight = control.parametrizations[i // 2][0].tensors[0].name
            if not torch.equal(own.own(expected, weight), found) or not torch.equal(own.whole(found, weight), expected):
                failures.put(f"{name}: {weight}, {'gradient' if i % 2 else 'value'}, rank {rank}")
    dist.destroy_process_group()


def test_masks_and_what_follows_from_them_are_those_of_whole_weights_to_the_bit(tmp_path):
    """Slices that a cut goes through, groups of rows that lie on both sides of one, rules that look at whole tensors,
    and a process that keeps a single row of a convolution."""
    spawn = torch.multiprocessing.get_context("spawn")
    failures = spawn.SimpleQueue()
    torch.multiprocessing.spawn(compare, (str(tmp_path / "store"), failures), nprocs=WORLD)
    assert failures.empty(), failures.get()
