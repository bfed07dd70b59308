import copy
import math

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


class TestRemoving:
    def test_state_dict_is_the_stock_models(self, block, block_strict, images, train):
        model, stock = block(), block(None)
        train(model, block_strict)
        remove_sparsity(model)
        assert set(model.state_dict()) == set(stock.state_dict())
        assert type(model.qkv) is nn.Linear
        stock.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(stock(images()), model(images()))

    def test_the_projected_model_computes_what_the_sparse_one_did(self, block, block_strict, images, train):
        model = block()
        train(model, block_strict)
        sparsity_control(model).update(block_strict)
        before = model(images())
        remove_sparsity(model)
        assert torch.equal(model(images()), before)

    def test_pruned_entries_are_exact_positive_zeros(self, small):
        model = small()
        remove_sparsity(model)
        assert model[0].weight.tolist() == [[0, 0, 3, 0], [-8, 0, 0, 0]]
        signs = [math.copysign(1, value) for value in model[0].weight.flatten().tolist()]
        assert signs == [1, 1, 1, 1, -1, 1, 1, 1]

    def test_weights_stay_parameters_that_train(self, small):
        model = small()
        weight = model[0].parametrizations.weight.original
        remove_sparsity(model)
        assert model[0].weight is weight
        assert weight.requires_grad

    @pytest.mark.parametrize(
        "state",
        [SparsityState(None), SparsityState(ONE_OF_FOUR, decay=0.5), SparsityState(P("3:4")), SparsityState(P("4:4"))],
        ids=["dense", "decay", "3:4", "4:4"],
    )
    def test_projects_to_the_target_whatever_was_in_force(self, state, small):
        model = small()
        sparsity_control(model).update({ONE_OF_FOUR: state})
        remove_sparsity(model)
        assert model[0].weight.tolist() == [[0, 0, 3, 0], [-8, 0, 0, 0]]

    def test_a_frozen_mask_is_the_one_that_is_baked_in(self, small):
        model = small()
        sparsity_control(model).update({ONE_OF_FOUR: SparsityState(ONE_OF_FOUR, freeze=True)})
        with torch.no_grad():
            model[0].parametrizations.weight.original[0] = torch.tensor([9.0, 9.0, 4.0, 9.0])
        remove_sparsity(model)
        assert model[0].weight.tolist() == [[0, 0, 4, 0], [-8, 0, 0, 0]]

    def test_masks_that_were_trained_are_baked_in_though_others_are_larger_now(self, small):
        model = small()  # trained without a call of update
        with torch.no_grad():
            model[0].parametrizations.weight.original[0] = torch.tensor([9.0, 9.0, 4.0, 9.0])
        before = model(torch.ones(1, 4))
        remove_sparsity(model)
        assert model[0].weight.tolist() == [[0, 0, 4, 0], [-8, 0, 0, 0]]
        assert torch.equal(model(torch.ones(1, 4)), before)

    def test_is_harmless_on_a_dense_model_and_twice(self, small):
        model = small()
        remove_sparsity(model)
        remove_sparsity(model)
        assert model[0].weight.tolist() == [[0, 0, 3, 0], [-8, 0, 0, 0]]

    def test_parametrizations_of_others_are_left_in_place(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
        sparsify_model(model, [SparsityRule("0.weight", ONE_OF_FOUR)])
        remove_sparsity(model)
        assert not parametrize.is_parametrized(model[0])
        assert parametrize.is_parametrized(model[1], "weight")


class TestVerifying:
    RULES = (SparsityRule("0.weight", HALF),)

    def projected(self):
        """Two rows of two groups of 2:4."""
        model = nn.Sequential(nn.Linear(8, 2))
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]]))
        sparsify_model(model, self.RULES)
        remove_sparsity(model)
        return model

    def test_passes_after_projection(self):
        assert verify_sparsity(self.projected(), self.RULES) == 0

    def test_an_entry_too_many_is_named_with_tensor_and_group(self):
        model = self.projected()
        with torch.no_grad():
            model[0].weight[1, 6] = 0.01
        with pytest.raises(ValueError, match=r"0\.weight") as refusal:
            verify_sparsity(model, self.RULES)
        assert str(refusal.value) == (
            "0.weight: group (1, 1) along the input axis has 3 non-zero weights, not 2 of 4; 1 of 4 groups are off"
        )

    def test_kept_entries_that_are_zero_are_counted(self):
        model = self.projected()
        with torch.no_grad():
            model[0].weight[0, 3] = 0.0
            model[0].weight[1, :4] = 0.0
        assert verify_sparsity(model, self.RULES) == 3

    def test_the_same_count_in_the_wrong_group_does_not_pass(self):
        model = self.projected()
        with torch.no_grad():
            model[0].weight[0, 3], model[0].weight[0, 4] = 0.0, 1.0
        with pytest.raises(ValueError, match=r"group \(0, 1\) .* has 3 non-zero weights, not 2 of 4; 1 of 4 groups"):
            verify_sparsity(model, self.RULES)

    def test_a_model_of_1_4_satisfies_2_4_with_one_zero_in_each_group(self):
        model = nn.Sequential(nn.Linear(8, 2))
        sparsify_model(model, [SparsityRule("0.weight", ONE_OF_FOUR)])
        remove_sparsity(model)
        sparsify_model(model, self.RULES)
        remove_sparsity(model)
        assert verify_sparsity(model, self.RULES) == 4

    def test_a_dense_model_does_not_pass(self):
        with pytest.raises(ValueError, match="4 of 4 groups are off"):
            verify_sparsity(nn.Sequential(nn.Linear(8, 2)), self.RULES)

    def test_a_slice_is_named_by_its_rows(self, block, block_rules):
        model = block()
        remove_sparsity(model)
        verify_sparsity(model, block_rules)
        with torch.no_grad():
            model.qkv.weight[9] = 1.0
        with pytest.raises(ValueError, match=r"qkv\.weight\[8:16\]: group \(1, 0\)"):
            verify_sparsity(model, block_rules)

    def test_while_sparse_it_sees_what_the_forward_uses(self, small):
        model = small()
        rules = [SparsityRule("0.weight", ONE_OF_FOUR)]
        verify_sparsity(model, rules)
        sparsity_control(model).update({ONE_OF_FOUR: SparsityState(ONE_OF_FOUR, decay=0.5)})
        with pytest.raises(ValueError, match="has 4 non-zero weights, not 1 of 4"):
            verify_sparsity(model, rules)

    def test_the_output_axis_of_a_convolution(self):
        model = nn.Sequential(nn.Conv2d(2, 4, 2))
        rules = [SparsityRule("0.weight", HALF, axis="output")]
        sparsify_model(model, rules)
        remove_sparsity(model)
        verify_sparsity(model, rules)
        with torch.no_grad():
            model[0].weight[:, 1, 0, 1] = 1.0
        with pytest.raises(ValueError, match=r"group \(0, 1, 0, 1\) along the output axis has 4 non-zero"):
            verify_sparsity(model, rules)


class TestCopiesAndCasts:
    def test_masks_come_back_with_the_state_dict(self, block, block_strict, images, train):
        source, target = block(seed=0), block(seed=1)
        train(source, block_strict)  # the masks are now one update older than the weights
        target.load_state_dict(source.state_dict(), strict=True)
        for (_, weight, mask, _), (_, other_weight, other_mask, _) in zip(
            sparsity_control(source).sparse_tensors(), sparsity_control(target).sparse_tensors(), strict=True
        ):
            assert torch.equal(weight, other_weight)
            assert torch.equal(mask, other_mask)
        assert torch.equal(source(images()), target(images()))
        assert any("mask_0" in key for key in source.state_dict())

    def test_a_deep_copy_is_independent(self, small):
        model = small()
        other = copy.deepcopy(model)
        assert sparsity_control(other) is not sparsity_control(model)
        sparsity_control(other).update({ONE_OF_FOUR: SparsityState(None)})
        with torch.no_grad():
            other[0].bias.zero_()
        assert other[0].weight.tolist() == [[1, -2, 3, 0.5], [-8, 7, -6, 5]]
        assert model[0].weight.tolist() == [[0, 0, 3, 0], [-8, 0, 0, 0]]
        with torch.no_grad():
            other[0].parametrizations.weight.original[0, 0] = 9
        sparsity_control(other).update(STRICT)
        remove_sparsity(other)
        assert other[0].weight.tolist() == [[9, 0, 0, 0], [-8, 0, 0, 0]]
        assert model[0].weight.tolist() == [[0, 0, 3, 0], [-8, 0, 0, 0]]
        assert model[0].bias.tolist() == [10, 20]

    def test_a_cast_to_bfloat16_goes_on(self, block, block_rules, block_strict, images):
        model = block().to(torch.bfloat16)
        state = SparsityState(P("1:8"), decay=0.5, penalty=0.25)
        sparsity_control(model).update(block_strict | {P("1:8"): state})
        model(images().bfloat16()).sum().backward()
        assert {p.grad.dtype for p in model.parameters()} == {torch.bfloat16}
        for tensor, weight, mask, _ in sparsity_control(model).sparse_tensors():
            assert mask.dtype == torch.bool
            assert torch.equal(mask, nm_mask(weight, tensor.pattern))
        remove_sparsity(model)
        verify_sparsity(model, block_rules)

    def test_autocast_ranks_the_master_weights(self, small):
        model = small()
        with torch.no_grad():
            model[0].parametrizations.weight.original[0] = torch.tensor([1.0, 1.001, 1.002, 1.003])  # equal in bfloat16
        sparsity_control(model).update(STRICT)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(torch.tensor([[1.0, 10, 100, 1000]]))
        assert output.dtype == torch.bfloat16
        assert abs(output[0, 0].item() - 1010) < 8
        output.sum().backward()
        assert model[0].parametrizations.weight.original.grad.dtype == torch.float32

    @pytest.mark.cuda
    def test_a_move_to_the_gpu_goes_on(self, block, block_rules, block_strict, images):
        model = block().to("cuda")
        state = SparsityState(P("1:8"), decay=0.5, penalty=0.25)
        sparsity_control(model).update(block_strict | {P("1:8"): state})
        model(images().cuda()).sum().backward()
        for tensor, weight, mask, _ in sparsity_control(model).sparse_tensors():
            assert mask.is_cuda
            assert torch.equal(mask.cpu(), nm_mask(weight.cpu(), tensor.pattern))
        remove_sparsity(model)
        verify_sparsity(model, block_rules)
