import re
import warnings

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from nmtrain.sparsity import NMPattern, SparseTensor, SparsityRule, resolve_rules, sparsify_model

P = NMPattern.parse


class Block(nn.Module):
    """A transformer block's weights: attention with a fused qkv matrix, and a feed-forward part."""

    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)


def blocks(count=2, width=8):
    return nn.Sequential(*(Block(width) for _ in range(count)))


def names(tensors):
    return [tensor.label for tensor in tensors]


class TestNames:
    def test_a_full_name_matches_one_weight(self):
        (tensor,) = resolve_rules(blocks(), [SparsityRule("1.fc1.weight", P("1:4"), role="ff")])
        assert tensor == SparseTensor("1.fc1.weight", "ff", (16, 8), "input", P("1:4"))
        assert tensor.axis_length == 8

    def test_a_star_matches_every_block(self):
        tensors = resolve_rules(blocks(3), [SparsityRule("*.fc2.weight", P("1:4"))])
        assert names(tensors) == ["0.fc2.weight", "1.fc2.weight", "2.fc2.weight"]

    def test_a_question_mark_matches_one_character(self):
        tensors = resolve_rules(blocks(1), [SparsityRule("0.fc?.weight", P("1:4"))])
        assert names(tensors) == ["0.fc1.weight", "0.fc2.weight"]

    def test_case_matters(self):
        with pytest.raises(ValueError, match="no weight matches"):
            resolve_rules(blocks(1), [SparsityRule("0.FC1.weight", P("1:4"))])

    def test_vectors_are_never_matched(self):
        tensors = resolve_rules(blocks(1), [SparsityRule("*", P("1:4"))])
        assert names(tensors) == ["0.qkv.weight", "0.fc1.weight", "0.fc2.weight"]  # no bias, no norm

    def test_the_model_itself_may_be_the_layer(self):
        (tensor,) = resolve_rules(nn.Linear(8, 4), [SparsityRule("weight", P("1:4"))])
        assert tensor.name == "weight"

    def test_each_rule_gives_its_own_pattern_role_and_axis(self):
        rules = [
            SparsityRule("*.fc1.weight", P("1:8"), role="ff"),
            SparsityRule("*.fc2.weight", P("2:4"), role="out", axis="output"),
        ]
        got = [(t.name, t.role, t.axis, str(t.pattern), t.axis_length) for t in resolve_rules(blocks(1), rules)]
        assert got == [("0.fc1.weight", "ff", "input", "1:8", 8), ("0.fc2.weight", "out", "output", "2:4", 8)]

    def test_no_rules_no_tensors(self):
        assert resolve_rules(blocks(1), []) == []

    def test_works_on_the_meta_device_and_changes_nothing(self):
        with torch.device("meta"):
            model = blocks(1)
        before = [(name, id(p)) for name, p in model.named_parameters()]
        assert len(resolve_rules(model, [SparsityRule("*.fc?.weight", P("1:4"))])) == 2
        assert [(name, id(p)) for name, p in model.named_parameters()] == before

    def test_a_sparse_model_still_answers_to_its_stock_names(self):
        model, rules = blocks(1), [SparsityRule("*.fc?.weight", P("1:4")), SparsityRule("0.qkv.weight", P("2:4"))]
        assert resolve_rules(model, rules) == sparsify_model(model, rules) == resolve_rules(model, rules)


class TestRows:
    def test_slices_of_a_fused_matrix_are_tensors_of_their_own(self):
        rules = [
            SparsityRule("0.qkv.weight", P("1:4"), role="q", rows=(0, 8)),
            SparsityRule("0.qkv.weight", P("2:4"), role="k", rows=(8, 16)),
        ]
        q, k = resolve_rules(blocks(1), rules)
        assert (q.label, q.shape, q.role) == ("0.qkv.weight[0:8]", (8, 8), "q")
        assert (k.label, k.shape, k.role) == ("0.qkv.weight[8:16]", (8, 8), "k")
        weight = torch.arange(24.0)[:, None].expand(24, 8)
        assert k.part_of(weight)[:, 0].tolist() == [8, 9, 10, 11, 12, 13, 14, 15]

    def test_the_output_axis_of_a_slice_is_the_slice(self):
        rule = SparsityRule("0.qkv.weight", P("1:16"), axis="output", rows=(0, 8))
        with pytest.raises(ValueError, match="M = 16 does not divide its output axis of length 8"):
            resolve_rules(blocks(1), [rule])

    @pytest.mark.parametrize("rows", [(0, 25), (-1, 8), (8, 8), (9, 8), (24, 32)])
    def test_rows_outside_the_matrix_are_refused(self, rows):
        with pytest.raises(ValueError, match=re.escape(f"0.qkv.weight: rows {rows} are outside its 24 rows")):
            resolve_rules(blocks(1), [SparsityRule("0.qkv.weight", P("1:4"), rows=rows)])


class TestRefusals:
    def test_a_rule_that_matches_nothing_lists_what_exists(self):
        with pytest.raises(ValueError, match="no weight matches") as refusal:
            resolve_rules(blocks(1), [SparsityRule("*.mlp.weight", P("1:4"))])
        assert str(refusal.value) == (
            "no weight matches '*.mlp.weight'. Available: ['0.fc1.weight', '0.fc2.weight', '0.qkv.weight']"
        )

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (SparsityRule("*.fc1.weight", P("1:4")), SparsityRule("0.*.weight", P("1:4"))),
            (SparsityRule("0.fc1.weight", P("1:4")), SparsityRule("0.fc1.weight", P("2:4"))),
            (SparsityRule("0.fc1.weight", P("1:4"), rows=(0, 8)), SparsityRule("0.fc1.weight", P("1:4"), rows=(7, 9))),
            (SparsityRule("0.fc1.weight", P("1:4"), rows=(8, 9)), SparsityRule("0.fc1.weight", P("1:4"))),
        ],
    )
    def test_two_rules_for_the_same_entries_are_refused(self, first, second):
        with pytest.raises(ValueError, match=r"0\.fc1\.weight.* is asked for twice"):
            resolve_rules(blocks(1), [first, second])

    def test_slices_that_only_touch_are_fine(self):
        rules = [SparsityRule("0.fc1.weight", P("1:4"), rows=rows) for rows in ((8, 16), (0, 8))]
        assert names(resolve_rules(blocks(1), rules)) == ["0.fc1.weight[8:16]", "0.fc1.weight[0:8]"]

    def test_every_axis_that_m_does_not_divide_is_listed_with_every_other_fault(self):
        rules = [SparsityRule("*.fc?.weight", P("1:16")), SparsityRule("nothing", P("1:4"))]
        with pytest.raises(ValueError, match="M = 16") as refusal:
            resolve_rules(blocks(2), rules)
        assert str(refusal.value).splitlines()[:2] == [
            "0.fc1.weight: M = 16 does not divide its input axis of length 8",
            "1.fc1.weight: M = 16 does not divide its input axis of length 8",
        ]
        assert "no weight matches 'nothing'" in str(refusal.value).splitlines()[2]
        assert "fc2" not in str(refusal.value).splitlines()[0]  # 16 entries long: fine

    def test_indivisible_skip_leaves_a_tensor_dense_and_says_so(self):
        rule = SparsityRule("*.fc?.weight", P("1:16"), indivisible="skip")
        with pytest.warns(UserWarning, match="stays dense") as warned:
            tensors = resolve_rules(blocks(1), [rule])
        assert names(tensors) == ["0.fc2.weight"]
        assert [str(warning.message) for warning in warned] == [
            "0.fc1.weight: M = 16 does not divide its input axis of length 8; it stays dense"
        ]

    @pytest.mark.filterwarnings("ignore:.*stays dense")
    def test_skipping_everything_is_refused(self):
        with pytest.raises(ValueError, match="no tensor is left sparse"):
            resolve_rules(blocks(1), [SparsityRule("*", P("1:5"), indivisible="skip")])

    def test_an_unknown_axis_is_refused(self):
        with pytest.raises(ValueError, match="axis 'rows' is unknown"):
            resolve_rules(blocks(1), [SparsityRule("0.fc1.weight", P("1:4"), axis="rows")])


class TestSharedWeights:
    def shared(self):
        model = nn.ModuleDict({"first": nn.Linear(8, 8), "second": nn.Linear(8, 8), "own": nn.Linear(8, 8)})
        model["second"].weight = model["first"].weight
        return model

    def test_a_shared_weight_counts_once_under_its_first_name(self):
        assert names(resolve_rules(self.shared(), [SparsityRule("*", P("1:4"))])) == ["first.weight", "own.weight"]

    def test_any_of_its_names_asks_for_it(self):
        assert names(resolve_rules(self.shared(), [SparsityRule("second.weight", P("1:4"))])) == ["first.weight"]

    def test_two_patterns_under_two_names_are_refused(self):
        rules = [SparsityRule("first.weight", P("1:4")), SparsityRule("second.weight", P("2:4"))]
        with pytest.raises(ValueError, match=r"first\.weight is asked for twice"):
            resolve_rules(self.shared(), rules)


class TestConvolutions:
    def test_the_input_axis_of_a_grouped_convolution_is_that_of_one_group(self):
        model = nn.Sequential(nn.Conv2d(16, 8, 3, groups=4))
        (tensor,) = resolve_rules(model, [SparsityRule("0.weight", P("1:4"))])
        assert (tensor.shape, tensor.axis_length) == ((8, 4, 3, 3), 4)

    @pytest.mark.parametrize(
        "wrap", [lambda layer: (layer, "weight"), lambda layer: (nn.Sequential(layer), "0.weight")]
    )
    def test_output_groups_never_straddle_convolution_groups(self, wrap):
        model, name = wrap(nn.Conv2d(8, 16, 1, groups=4))  # 4 filters per convolution group
        (tensor,) = resolve_rules(model, [SparsityRule(name, P("1:4"), axis="output")])
        assert tensor.axis_length == 4
        with pytest.raises(ValueError, match="M = 8 does not divide its output axis of length 4"):
            resolve_rules(model, [SparsityRule(name, P("1:8"), axis="output")])

    def test_wide_phases_stay_inside_a_convolution_group_too(self):
        model = nn.Sequential(nn.Conv2d(8, 16, 1, groups=2))
        (tensor,) = resolve_rules(model, [SparsityRule("0.weight", P("1:4"), axis="output")])
        assert str(tensor.fit(P("4:16"))) == "2:8"

    def test_the_linear_layers_of_gpt_2_are_refused_because_their_axes_are_swapped(self):
        model = nn.Sequential(Conv1D(12, 8), nn.Conv1d(8, 12, 1))  # [8, 12] and [12, 8, 1]
        told = r"^0\.weight: transformers' Conv1D layers, whose weights are \[in, out, \.\.\.\], cannot be sparse$"
        with pytest.raises(ValueError, match=told):
            resolve_rules(model, [SparsityRule("*.weight", P("1:4"))])
        assert len(resolve_rules(model, [SparsityRule("1.weight", P("1:4"))])) == 1

    def test_transposed_convolutions_are_refused_because_their_axes_are_swapped(self):
        with pytest.raises(ValueError, match=r"0\.weight: transposed convolutions"):
            resolve_rules(nn.Sequential(nn.ConvTranspose2d(8, 8, 1)), [SparsityRule("*", P("1:4"))])


class TestFittingAPhase:
    """Geometric and densify groups may be wider than an axis; the density of the phase is kept where it can be."""

    @pytest.mark.parametrize(
        ("length", "target", "phase", "fitted"),
        [
            # geometric: 16:512, 8:256, 4:128, 2:64, 1:32 on a width of 192 = 3 * 64
            (192, "1:32", "16:512", "2:64"),
            (192, "1:32", "4:128", "2:64"),
            (192, "1:32", "2:64", "2:64"),
            (192, "1:32", "1:32", "1:32"),
            (3072, "1:32", "16:512", "16:512"),
            (32, "1:32", "16:512", "1:32"),
            (256, "1:32", "16:512", "8:256"),
            (96, "2:4", "32:64", "16:32"),
            (40, "3:8", "48:128", "3:8"),
            # densify: N:8M, N:4M, N:2M, N:M
            (192, "1:32", "1:256", "1:64"),
            (192, "1:32", "1:128", "1:64"),
            (32, "1:32", "1:256", "1:32"),
            # stepwise patterns share the target's M
            (192, "1:32", "31:32", "31:32"),
            (192, "1:32", "2:32", "2:32"),
            # custom
            (192, "1:32", "1:4", "1:4"),
        ],
    )
    def test_falls_back_to_the_widest_group_that_divides_the_axis(self, length, target, phase, fitted):
        tensor = SparseTensor("weight", "", (4, length), "input", P(target))
        assert str(tensor.fit(P(phase))) == fitted

    def test_the_axis_in_question_is_the_tensors_own(self):
        tensor = SparseTensor("weight", "", (64, 1024), "output", P("1:32"))
        assert str(tensor.fit(P("16:512"))) == "2:64"

    @pytest.mark.parametrize("phase", ["1:5", "6:12", "3:3"])
    def test_a_custom_phase_that_cannot_fit_is_refused_by_its_name(self, phase):
        tensor = SparseTensor("weight", "", (4, 8), "input", P("1:2"), rows=(0, 4))
        with pytest.raises(ValueError, match="does not divide") as refusal:
            tensor.fit(P(phase))
        m = phase.split(":")[1]
        expected = f"weight[0:4]: M = {m} of the phase {phase} does not divide its input axis of length 8"
        assert str(refusal.value) == expected


def test_no_warning_where_everything_fits():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve_rules(blocks(1), [SparsityRule("*", P("1:4"), indivisible="skip")])
