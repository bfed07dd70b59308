import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from nmtrain.sparsity import (
    NMPattern,
    SparsityRule,
    SparsityState,
    nm_mask,
    remove_sparsity,
    sparsify_model,
    sparsity_control,
    verify_sparsity,
)

P = NMPattern.parse
ONE_OF_FOUR = P("1:4")
HALF = P("2:4")
STRICT = {ONE_OF_FOUR: SparsityState(ONE_OF_FOUR)}


class TestSparsifying:
    def test_the_forward_uses_the_target_pattern_from_the_start(self, small):
        model = small()
        assert model[0].weight.tolist() == [[0, 0, 3, 0], [-8, 0, 0, 0]]
        assert model(torch.tensor([[1.0, 10, 100, 1000]])).tolist() == [[300 + 10, -8 + 20]]

    def test_returns_what_became_sparse(self, block, block_rules):
        tensors = sparsify_model(block(None), block_rules)
        assert [(t.label, t.role, t.shape, str(t.pattern)) for t in tensors] == [
            ("qkv.weight[0:8]", "q", (8, 8), "1:4"),
            ("qkv.weight[8:16]", "k", (8, 8), "2:4"),
            ("fc1.weight", "ff", (16, 8), "1:8"),
            ("fc2.weight", "ff", (8, 16), "1:8"),
        ]

    def test_the_dense_weight_stays_the_parameter(self, small):
        model = small(None)
        weight = model[0].weight
        sparsify_model(model, [SparsityRule("0.weight", ONE_OF_FOUR)])
        assert weight in set(model.parameters())  # an optimizer made before goes on
        assert weight.tolist() == [[1, -2, 3, 0.5], [-8, 7, -6, 5]]

    def test_every_parameter_gets_a_gradient(self, block, images):
        model = block()
        model(images()).square().mean().backward()
        gradients = [p.grad for p in model.parameters()]
        assert len(gradients) == len(list(block(None).parameters()))
        assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in gradients)

    def test_the_bias_is_not_touched(self, small):
        model = small()
        model(torch.ones(3, 4)).sum().backward()
        assert model[0].bias.tolist() == [10, 20]
        assert model[0].bias.grad.tolist() == [3, 3]

    def test_the_straight_through_gradient_reaches_pruned_entries(self, small):
        model = small()
        model(torch.tensor([[1.0, 10, 100, 1000]])).sum().backward()
        assert model[0].parametrizations.weight.original.grad.tolist() == [[1, 10, 100, 1000]] * 2

    def test_a_model_that_is_sparse_already_is_refused(self, small):
        model = small()
        with pytest.raises(ValueError, match="sparse already"):
            sparsify_model(model, [SparsityRule("0.weight", HALF)])
        remove_sparsity(model)
        sparsify_model(model, [SparsityRule("0.weight", HALF)])
        assert sparsity_control(model).targets == [HALF]

    def test_a_refusal_leaves_the_model_as_it_was(self, block):
        model = block(None)
        with pytest.raises(ValueError, match="no weight matches"):
            sparsify_model(model, [SparsityRule("fc?.weight", ONE_OF_FOUR), SparsityRule("none", ONE_OF_FOUR)])
        assert not any(parametrize.is_parametrized(module) for module in model.modules())

    def test_a_model_on_the_meta_device_can_be_sparsified(self, block, block_rules, block_strict, images):
        with torch.device("meta"):
            model = block(None)
        sparsify_model(model, block_rules)
        sparsity_control(model).update(block_strict)
        assert model(images().to("meta")).shape == (3, 5, 8)

    def test_a_whole_model_that_is_one_layer(self):
        layer = nn.Linear(4, 2)
        sparsify_model(layer, [SparsityRule("weight", HALF)])
        assert layer.weight.count_nonzero(1).tolist() == [2, 2]
        remove_sparsity(layer)
        assert set(layer.state_dict()) == {"weight", "bias"}

    def test_convolutions(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 8, 3, groups=2))
        rules = [SparsityRule("0.weight", P("1:8")), SparsityRule("1.weight", ONE_OF_FOUR, axis="output")]
        sparsify_model(model, rules)
        assert model[0].weight.count_nonzero(1).unique().tolist() == [1]
        # [8 filters in 2 convolution groups, 2 channels, 3, 3]: one filter of 4 at each input position
        assert model[1].weight.unflatten(0, (2, 4)).count_nonzero(1).unique().tolist() == [1]
        model(torch.randn(2, 8, 6, 6)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        remove_sparsity(model)
        verify_sparsity(model, rules)


class TestRowSlices:
    def test_each_slice_has_its_own_pattern_and_the_rest_stays_dense(self, block, block_rules):
        model = block(None)
        before = model.qkv.weight.detach().clone()
        sparsify_model(model, block_rules)
        q, k, v = model.qkv.weight.detach().chunk(3)
        assert torch.equal(q, before[:8] * nm_mask(before[:8], "1:4"))
        assert torch.equal(k, before[8:16] * nm_mask(before[8:16], "2:4"))
        assert torch.equal(v, before[16:])

    def test_a_slice_in_the_middle_leaves_both_ends_dense(self):
        model = nn.Sequential(nn.Linear(4, 3))
        before = model[0].weight.detach().clone()
        sparsify_model(model, [SparsityRule("0.weight", ONE_OF_FOUR, rows=(1, 2))])
        assert model[0].weight.count_nonzero(1).tolist() == [4, 1, 4]
        assert torch.equal(model[0].weight[::2], before[::2])

    def test_slices_may_be_asked_for_in_any_order(self):
        model = nn.Sequential(nn.Linear(4, 3))
        rules = [SparsityRule("0.weight", HALF, rows=(2, 3)), SparsityRule("0.weight", ONE_OF_FOUR, rows=(0, 1))]
        sparsify_model(model, rules)
        assert model[0].weight.count_nonzero(1).tolist() == [1, 4, 2]

    def test_each_slice_follows_its_own_state(self, block, block_strict):
        model = block()
        dense = model.qkv.parametrizations.weight.original.detach()
        sparsity_control(model).update(
            block_strict | {ONE_OF_FOUR: SparsityState(None), HALF: SparsityState(HALF, decay=0.5)}
        )
        q, k, v = model.qkv.weight.chunk(3)
        mask = nm_mask(dense[8:16], "2:4")
        assert torch.equal(q, dense[:8])
        assert torch.equal(k, dense[8:16] * (mask + 0.5 * ~mask))
        assert torch.equal(v, dense[16:])

    def test_the_gradient_rule_holds_slice_by_slice(self, block, block_strict):
        model = block()
        masked = SparsityState(ONE_OF_FOUR, gradient="masked")
        sparsity_control(model).update(block_strict | {ONE_OF_FOUR: masked})
        model.qkv.weight.sum().backward()
        grad = model.qkv.parametrizations.weight.original.grad
        assert grad[:8].sum(1).tolist() == [2] * 8  # masked, two groups of 1:4
        assert grad[8:].eq(1).all()  # straight-through K, dense V

    def test_projection_leaves_dense_rows_alone(self, block):
        model = block()
        values = model.qkv.weight.detach()[16:].clone()
        remove_sparsity(model)
        assert torch.equal(model.qkv.weight[16:], values)


class TestUpdates:
    def test_no_pattern_is_exactly_the_dense_model(self, block, block_strict, images):
        dense, sparse = block(None), block()
        sparsity_control(sparse).update({target: SparsityState(None) for target in block_strict})
        assert torch.equal(sparse(images()), dense(images()))

    def test_decay_and_penalty_of_the_state_reach_the_weight(self, small):
        model = small()
        state = SparsityState(ONE_OF_FOUR, decay=0.5, gradient="masked", penalty=0.25)
        sparsity_control(model).update({ONE_OF_FOUR: state})
        assert model[0].weight.tolist() == [[0.5, -1, 3, 0.25], [-8, 3.5, -3, 2.5]]
        model[0].weight.sum().backward()
        sparsity_control(model).add_penalty()
        assert model[0].parametrizations.weight.original.grad.tolist() == [  # D g + lambda W where pruned
            [0.5 + 0.25, 0.5 - 0.5, 1, 0.5 + 0.125],
            [1, 0.5 + 1.75, 0.5 - 1.5, 0.5 + 1.25],
        ]

    def test_a_phase_with_another_pattern_takes_effect_and_goes_again(self, small):
        model = small()
        control = sparsity_control(model)
        control.update({ONE_OF_FOUR: SparsityState(P("3:4"))})
        assert model[0].weight.tolist() == [[1, -2, 3, 0], [-8, 7, -6, 0]]
        control.update(STRICT)
        assert model[0].weight.tolist() == [[0, 0, 3, 0], [-8, 0, 0, 0]]

    def test_masks_follow_the_weights_at_an_update_and_only_there(self, small):
        model = small()
        with torch.no_grad():
            model[0].parametrizations.weight.original[0, 1] = 9.0
        assert model[0].weight.tolist() == [[0, 0, 3, 0], [-8, 0, 0, 0]]  # the mask that trained
        sparsity_control(model).update(STRICT)
        assert model[0].weight.tolist() == [[0, 9, 0, 0], [-8, 0, 0, 0]]

    def test_freeze_keeps_the_mask_while_weights_move(self, small):
        model = small()
        with torch.no_grad():
            model[0].parametrizations.weight.original[0] = torch.tensor([9.0, 9.0, 4.0, 9.0])
        sparsity_control(model).update({ONE_OF_FOUR: SparsityState(ONE_OF_FOUR, freeze=True)})
        assert model[0].weight.tolist() == [[0, 0, 4, 0], [-8, 0, 0, 0]]

    def test_wide_phases_fall_back_to_what_the_axis_can_carry(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(192, 4), nn.Linear(4, 32))
        sparsify_model(model, [SparsityRule("0.weight", P("1:32"))])
        sparsity_control(model).update({P("1:32"): SparsityState(P("16:512"))})
        dense = model[0].parametrizations.weight.original.detach()
        assert torch.equal(model[0].weight, dense * nm_mask(dense, "2:64"))

    def test_a_phase_that_was_asked_for_exactly_does_not_fall_back(self):
        model = nn.Sequential(nn.Linear(192, 4))
        sparsify_model(model, [SparsityRule("0.weight", P("1:32"))])
        with pytest.raises(ValueError, match=r"^0\.weight: M = 512 of the phase 16:512 does not divide its input axis"):
            sparsity_control(model).update({P("1:32"): SparsityState(P("16:512"), exact=True)})

    def test_every_target_of_the_model_can_be_told_apart(self, block):
        control = sparsity_control(block())
        assert control.targets == [ONE_OF_FOUR, HALF, P("1:8")]

    def test_sparse_tensors_lists_weight_mask_and_state(self, block, block_strict):
        model = block()
        states = block_strict | {HALF: SparsityState(HALF, decay=0.5)}
        sparsity_control(model).update(states)
        listed = sparsity_control(model).sparse_tensors()
        assert [tensor.label for tensor, *_ in listed] == [
            "qkv.weight[0:8]", "qkv.weight[8:16]", "fc1.weight", "fc2.weight",
        ]  # fmt: skip
        for tensor, weight, mask, state in listed:
            assert tuple(weight.shape) == tuple(mask.shape) == tensor.shape
            assert torch.equal(mask, nm_mask(weight, tensor.pattern))
            assert state == states[tensor.pattern]

    def test_a_dense_model_has_a_control_with_nothing_to_do(self, block):
        control = sparsity_control(block(None))
        control.update({})
        assert control.targets == control.sparse_tensors() == []

    def test_training_keeps_exactly_n_of_every_group(self, block, block_rules, block_strict, train):
        model = block()
        train(model, block_strict)
        verify_sparsity(model, block_rules)

    def test_micro_batches_share_one_mask_and_add_up(self, block, block_strict, images):
        whole, parts = block(), block()
        batch = images(4)
        for model in (whole, parts):
            sparsity_control(model).update(block_strict)
        whole(batch).square().mean().backward()
        for half in batch.chunk(2):
            (parts(half).square().mean() / 2).backward()
        for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


class TestThePenaltyComesOncePerUpdate:
    """SR-STE's lambda (1 - Phi) W, with lambda = 0.25: whatever the number of backward passes before it."""

    STATE = SparsityState(ONE_OF_FOUR, penalty=0.25)
    # W is [[1, -2, 3, 0.5], [-8, 7, -6, 5]]; 3 and -8 are kept.
    PENALTY = torch.tensor([[0.25, -0.5, 0, 0.125], [0, 1.75, -1.5, 1.25]])

    def prepared(self, small):
        model = small()
        sparsity_control(model).update({ONE_OF_FOUR: self.STATE})
        return model, model[0].parametrizations.weight.original

    @pytest.mark.parametrize("micro_batches", [1, 2, 4, 8])
    def test_whatever_the_micro_batches(self, small, micro_batches):
        model, weight = self.prepared(small)
        for _ in range(micro_batches):
            (model[0].weight.sum() / micro_batches).backward()
        assert torch.equal(weight.grad, torch.ones(2, 4))
        sparsity_control(model).add_penalty()
        assert torch.equal(weight.grad, 1 + self.PENALTY)

    def test_however_often_one_forward_reads_the_weight(self, small):
        model, weight = self.prepared(small)
        (model[0].weight.sum() + model[0].weight.sum() + model[0].weight.sum()).backward()
        sparsity_control(model).add_penalty()
        assert torch.equal(weight.grad, 3 + self.PENALTY)

    def test_in_the_units_of_the_unscaled_gradient(self, small):
        model, weight = self.prepared(small)
        (1024 * model[0].weight.sum()).backward()  # as a loss scaler does it
        weight.grad /= 1024
        sparsity_control(model).add_penalty()
        assert torch.equal(weight.grad, 1 + self.PENALTY)

    def test_for_a_weight_that_two_modules_share(self):
        torch.manual_seed(0)
        model = TestSharedWeights.Tied()
        sparsify_model(model, [SparsityRule("first.weight", ONE_OF_FOUR)])
        sparsity_control(model).update({ONE_OF_FOUR: self.STATE})
        weight = model.first.parametrizations.weight.original
        (model.first.weight.sum() + 2 * model.second.weight.sum()).backward()
        sparsity_control(model).add_penalty()
        expected = 3 + 0.25 * weight.detach() * ~nm_mask(weight, "1:4")
        assert torch.equal(weight.grad, expected)

    def test_only_in_the_rows_of_its_slice(self, block, block_strict):
        model = block()
        sparsity_control(model).update(block_strict | {ONE_OF_FOUR: self.STATE})
        weight = model.qkv.parametrizations.weight.original
        model.qkv.weight.sum().backward()
        sparsity_control(model).add_penalty()
        expected = torch.ones_like(weight)
        expected[:8] += 0.25 * weight.detach()[:8] * ~nm_mask(weight.detach()[:8], "1:4")
        assert torch.equal(weight.grad, expected)

    def test_not_without_a_pattern_and_not_without_a_gradient(self, small):
        model, weight = self.prepared(small)
        sparsity_control(model).add_penalty()
        assert weight.grad is None
        sparsity_control(model).update({ONE_OF_FOUR: SparsityState(None)})
        model[0].weight.sum().backward()
        sparsity_control(model).add_penalty()
        assert torch.equal(weight.grad, torch.ones(2, 4))


class TestSharedWeights:
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    class TwoNames(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = nn.Linear(4, 4)

        def forward(self, x):
            return self.second(self.first(x))

    @pytest.mark.parametrize("kind", [Tied, TwoNames])
    @pytest.mark.parametrize("name", ["first.weight", "second.weight", "*.weight"])
    def test_a_shared_weight_is_sparse_once_and_stays_shared(self, kind, name):
        torch.manual_seed(0)
        model = kind()
        dense = model.first.weight.detach().clone()
        rules = [SparsityRule(name, ONE_OF_FOUR)]
        assert len(sparsify_model(model, rules)) == 1
        sparsity_control(model).update({ONE_OF_FOUR: SparsityState(ONE_OF_FOUR, decay=0.5)})
        expected = dense * (nm_mask(dense, "1:4") + 0.5 * ~nm_mask(dense, "1:4"))
        assert torch.equal(model.first.weight, expected)
        assert torch.equal(model.second.weight, expected)
        weights = [p for p in model.parameters() if p.dim() == 2]
        assert len(weights) == 1
        sparsity_control(model).update(STRICT)
        remove_sparsity(model)
        assert model.first.weight is model.second.weight is weights[0]
        verify_sparsity(model, rules)

    def test_gradients_of_both_uses_add_up(self):
        model = self.Tied()
        sparsify_model(model, [SparsityRule("first.weight", ONE_OF_FOUR)])
        (model.first.weight.sum() + 2 * model.second.weight.sum()).backward()
        assert model.first.parametrizations.weight.original.grad.eq(3).all()

    def test_a_module_used_twice_in_one_forward(self):
        square = nn.Linear(4, 4)
        sparsify_model(square, [SparsityRule("weight", HALF)])
        inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        square(square(inputs)).sum().backward()
        plain = nn.Linear(4, 4)
        plain.load_state_dict({"weight": square.weight.detach(), "bias": square.bias.detach()})
        plain(plain(inputs)).sum().backward()
        torch.testing.assert_close(square.parametrizations.weight.original.grad, plain.weight.grad)
