import copy
import math

import pytest
import torch

from nmtrain.sparsity import NMPattern, nm_mask, nm_sparsify
from nmtrain.sparsity.sparsify import apply_mask

WEIGHT = [[4.0, -1.0, 2.0, -3.0], [0.5, -6.0, 1.0, 2.0]]
UPSTREAM = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
# 2:4 keeps 4 and -3 of the first row, -6 and 2 of the second.


def run(pattern="2:4", dtype=torch.float32, **options):
    """Output and gradient of the 2x4 weight for the 2x4 upstream gradient."""
    weight = torch.tensor(WEIGHT, dtype=dtype, requires_grad=True)
    output = nm_sparsify(weight, pattern, **options)
    output.backward(torch.tensor(UPSTREAM, dtype=dtype))
    return output.detach(), weight.grad


def test_strict_sparsity_zeroes_what_is_not_kept():
    output, _ = run()
    assert output.tolist() == [[4, 0, 0, -3], [0, -6, 0, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("axis", ["input", "output"])
def test_zeros_are_positive_of_negative_and_of_negative_zero_weights(dtype, axis):
    weight = torch.tensor([[-1.0, -0.0, -2.0, 0.0], [-0.0, -0.0, -0.0, -0.0]], dtype=dtype)
    output = nm_sparsify(weight, "1:2", axis)
    assert (output == 0).sum() > 4  # kept ones too
    assert not output.signbit()[output == 0].any()


def test_what_is_kept_and_what_decays_is_exact_for_every_decay():
    weight = torch.tensor(WEIGHT)
    mask = nm_mask(weight, "2:4")
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        part = weight.to(dtype)
        for decay in torch.rand(1000, generator=torch.Generator().manual_seed(0)).square().to(dtype):
            assert torch.equal(apply_mask(part, mask, decay), torch.where(mask, part, part * decay))


def test_decay_leaves_a_fraction_of_pruned_entries():
    output, _ = run(decay=0.5)
    assert output.tolist() == [[4, -0.5, 1, -3], [0.25, -6, 0.5, 2]]


@pytest.mark.parametrize("gradient", ["straight_through", "masked"])
def test_decay_one_is_dense(gradient):
    output, grad = run(decay=1.0, gradient=gradient)
    assert output.tolist() == WEIGHT
    assert grad.tolist() == UPSTREAM


def test_output_axis_groups_rows():
    output, _ = run("1:2", axis="output")
    assert output.tolist() == [[4, 0, 2, -3], [0, -6, 0, 0]]


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_straight_through_passes_the_gradient_whatever_the_decay(decay):
    _, grad = run(decay=decay, gradient="straight_through")
    assert grad.tolist() == UPSTREAM


def test_straight_through_is_the_default():
    assert run()[1].tolist() == UPSTREAM


@pytest.mark.parametrize(
    ("decay", "expected"),
    [(0.0, [[1, 0, 0, 4], [0, 6, 0, 8]]), (0.5, [[1, 1, 1.5, 4], [2.5, 6, 3.5, 8]])],
)
def test_masked_scales_the_gradient_of_pruned_entries_by_the_decay(decay, expected):
    _, grad = run(decay=decay, gradient="masked")
    assert grad.tolist() == expected


def test_masked_is_the_chain_rule_with_the_mask_held_constant():
    weight = torch.tensor(WEIGHT, requires_grad=True)
    mask = nm_mask(weight, "2:4")
    (weight * (mask + 0.25 * ~mask)).backward(torch.tensor(UPSTREAM))
    assert torch.equal(run(decay=0.25, gradient="masked")[1], weight.grad)


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [
        ("straight_through", [[1, 2 - 0.5, 3 + 1, 4], [5 + 0.25, 6, 7 + 0.5, 8]]),
        ("masked", [[1, 1 - 0.5, 1.5 + 1, 4], [2.5 + 0.25, 6, 3.5 + 0.5, 8]]),
    ],
)
def test_penalty_adds_pruned_weights_to_their_gradient(gradient, expected):
    output, grad = run(decay=0.5, gradient=gradient, penalty=0.5)
    assert grad.tolist() == expected
    assert output.tolist() == [[4, -0.5, 1, -3], [0.25, -6, 0.5, 2]]  # the forward does not see the penalty


@pytest.mark.parametrize("gradient", ["straight_through", "masked"])
def test_decay_and_penalty_may_be_tensors(gradient):
    numbers = run(decay=0.5, gradient=gradient, penalty=0.25)
    tensors = run(decay=torch.tensor(0.5), gradient=gradient, penalty=torch.tensor(0.25))
    assert torch.equal(numbers[0], tensors[0])
    assert torch.equal(numbers[1], tensors[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("decay", [0.5, torch.tensor(0.5)])
def test_the_dtype_is_kept_both_ways(dtype, decay):
    output, grad = run(dtype=dtype, decay=decay, penalty=torch.tensor(0.5))
    assert (output.dtype, grad.dtype) == (dtype, dtype)
    assert output.tolist() == [[4, -0.5, 1, -3], [0.25, -6, 0.5, 2]]
    assert grad.tolist() == [[1, 1.5, 4, 4], [5.25, 6, 7.5, 8]]


def test_a_number_is_as_exact_as_the_weight():
    output, grad = run(dtype=torch.float64, decay=0.1, penalty=0.1)
    assert output[0].tolist() == [4.0, -0.1, 0.2, -3.0]  # 0.1 as float32 would give -0.10000000149
    assert grad[0].tolist() == [1.0, 2 - 0.1, 3 + 0.2, 4.0]


def test_n_equal_m_is_dense():
    output, grad = run("4:4", gradient="masked", penalty=1.0)
    assert output.tolist() == WEIGHT
    assert grad.tolist() == UPSTREAM


def test_the_gradient_reaches_through_a_layer():
    weight = torch.tensor(WEIGHT, requires_grad=True)
    inputs = torch.tensor([[1.0, 10, 100, 1000]])
    torch.nn.functional.linear(inputs, nm_sparsify(weight, "2:4", gradient="masked")).sum().backward()
    assert weight.grad.tolist() == [[1, 0, 0, 1000], [0, 10, 0, 1000]]


def test_a_weight_that_needs_no_gradient_gets_none():
    assert not nm_sparsify(torch.tensor(WEIGHT), "2:4").requires_grad


def test_convolution_weights_keep_their_shape():
    weight = torch.arange(32.0).reshape(2, 4, 2, 2)
    output = nm_sparsify(weight, "1:4")
    assert output.shape == weight.shape
    assert output[0].tolist() == [[[0, 0], [0, 0]]] * 3 + [[[12, 13], [14, 15]]]


def test_a_mask_at_hand_is_used_as_it_is():
    mask = torch.tensor([[False, True, False, False], [False, True, False, False]])
    assert apply_mask(torch.tensor(WEIGHT), mask).tolist() == [[0, -1, 0, 0], [0, -6, 0, 0]]


def test_a_weight_that_is_not_finite_stays_visible():
    for lost in (math.nan, math.inf, -math.inf):
        output = nm_sparsify(torch.tensor([[lost, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]), "2:4")
        assert not output[0].isfinite().all()
        assert output[1].tolist() == [0, 0, 6, 7]
    pruned = torch.tensor([[True, False]])
    assert apply_mask(torch.tensor([[1.0, math.inf]]), pruned).isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("rule", ["ste", "", "Masked", None, True, 2, ["masked"]])
def test_an_unknown_gradient_rule_is_refused(rule):
    with pytest.raises(ValueError, match=r"is unknown. Available: \['straight_through', 'masked'\]"):
        nm_sparsify(torch.tensor(WEIGHT), "2:4", gradient=rule)


@pytest.mark.parametrize(("theta", "expected"), [(1, UPSTREAM), (0, [[1, 0, 0, 4], [0, 6, 0, 8]])])
def test_a_whole_number_is_a_share_of_the_gradient_too(theta, expected):
    assert run(gradient=theta)[1].tolist() == expected


@pytest.mark.parametrize(
    "given", [{"decay": 2.0}, {"decay": -1}, {"decay": math.nan}, {"decay": "0.5"}, {"penalty": -5}]
)
def test_numbers_that_mean_nothing_are_refused_by_name(given):
    ((name, value),) = given.items()
    with pytest.raises(
        ValueError, match=f"^nm_sparsify: {name}={value!r} is not a number (from 0 to 1|of at least 0)$"
    ):
        nm_sparsify(torch.tensor(WEIGHT), "2:4", **given)


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="axis 'columns' is unknown"):
        nm_sparsify(torch.tensor(WEIGHT), "2:4", axis="columns")


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize(
    ("pattern", "axis", "backend"),
    [
        ("1:64", "input", "aot_eager"),  # maximum
        ("3:8", "input", "aot_eager"),  # selection network
        ("16:64", "output", "aot_eager"),  # topk
        ("4:4", "input", "aot_eager"),  # all ones
        ("3:8", "output", "inductor"),
    ],
)
def test_compiles_whole_and_agrees_with_eager(pattern, axis, backend):
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-20, 21, (64, 64), generator=generator).float()  # with ties
    upstream = torch.randn(64, 64, generator=generator)
    decay, penalty = torch.tensor(0.25), torch.tensor(0.5)

    def sparsify(weight, decay, penalty):
        return nm_sparsify(weight, NMPattern.parse(pattern), axis, decay, "masked", penalty)

    results = []
    for function in (sparsify, torch.compile(sparsify, fullgraph=True, backend=backend)):
        leaf = copy.deepcopy(weight).requires_grad_()
        output = function(leaf, decay, penalty)
        output.backward(upstream)
        results.append((output.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)
    strict = torch.compile(nm_sparsify, fullgraph=True, backend=backend)(weight, NMPattern.parse(pattern), axis)
    assert not strict.signbit()[strict == 0].any()
