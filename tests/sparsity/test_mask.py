import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtrain.sparsity import NMPattern, nm_mask
from nmtrain.sparsity import mask as mask_module

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ALL_UP_TO_16 = [(n, m) for m in range(1, 17) for n in range(1, m + 1)]
# Networks of odd sizes, both sides of the step from networks to topk (32), all kinds of N.
WIDER = [
    (1, 24), (1, 31), (1, 32), (1, 128), (64, 128),
    (100, 128), (127, 128), (2, 64), (48, 96), (7, 100), (5, 24), (12, 24), (3, 17), (16, 31),
    (31, 32), (2, 32), (16, 33), (2, 33), (32, 33), (1, 33), (4, 40), (1, 127), (63, 127),
]  # fmt: skip
repeatable = settings(max_examples=60, deadline=None, derandomize=True)


def slow_mask(weight, n, m, dim):
    """The definition, entry by entry: sort each group by falling magnitude, then by index, and keep the first n."""
    rows = weight.movedim(dim, -1)
    kept = []
    for row in rows.reshape(-1, rows.shape[-1]).tolist():
        groups = [range(start, start + m) for start in range(0, len(row), m)]
        first = {i for group in groups for i in sorted(group, key=lambda i: (-abs(row[i]), i))[:n]}
        kept.append([i in first for i in range(len(row))])
    return torch.tensor(kept).reshape(rows.shape).movedim(-1, dim)


def sorted_mask(weight, n, m, dim):
    """The same, vectorized: a stable sort leaves equal magnitudes in the order of their indices."""
    groups = weight.abs().movedim(dim, -1).unflatten(-1, (-1, m))
    order = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, True).flatten(-2).movedim(-1, dim)


def assert_exactly_n_per_group(mask, n, m, dim=1):
    assert mask.dtype == torch.bool
    assert mask.unflatten(dim, (-1, m)).sum(dim + 1).unique().tolist() == [n]


@st.composite
def weights(draw):
    """(weight, n, m) of few rows and groups; half of them with few distinct values, so that magnitudes tie."""
    m = draw(st.integers(1, 12))
    n = draw(st.integers(1, m))
    rows, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    few = st.integers(-2, 2).map(float)
    many = st.floats(-8, 8, width=16, allow_subnormal=False)  # exact in float16 also after scaling by 2**-4 to 2**4
    values = draw(st.lists(draw(st.sampled_from([few, many])), min_size=rows * groups * m, max_size=rows * groups * m))
    return torch.tensor(values, dtype=draw(st.sampled_from(DTYPES))).reshape(rows, groups * m), n, m


class TestByEye:
    def test_keeps_the_largest_magnitudes_of_each_group(self):
        weight = torch.tensor([[4.0, -1.0, 2.0, -3.0, 0.1, 0.2, -0.4, 0.3]])
        assert nm_mask(weight, "1:4").int().tolist() == [[1, 0, 0, 0, 0, 0, 1, 0]]
        assert nm_mask(weight, "2:4").int().tolist() == [[1, 0, 0, 1, 0, 0, 1, 1]]
        assert nm_mask(weight, "3:4").int().tolist() == [[1, 0, 1, 1, 0, 1, 1, 1]]
        assert nm_mask(weight, "2:8").int().tolist() == [[1, 0, 0, 1, 0, 0, 0, 0]]

    def test_groups_run_down_the_rows_along_the_output_axis(self):
        weight = torch.tensor([[1.0, 9], [2, 8], [3, 7], [4, 6]])
        assert nm_mask(weight, "1:2", "output").int().tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
        assert nm_mask(weight, "1:4", "output").int().tolist() == [[0, 1], [0, 0], [0, 0], [1, 0]]

    def test_convolution_groups_run_over_input_channels_at_one_kernel_position(self):
        weight = torch.tensor([[[[1.0, 9]], [[2, 8]], [[4, 6]], [[3, 7]]]])  # [1 filter, 4 channels, 1, 2]
        assert nm_mask(weight, "1:4").int().tolist() == [[[[0, 1]], [[0, 0]], [[1, 0]], [[0, 0]]]]
        assert nm_mask(weight, "1:2").int().tolist() == [[[[0, 1]], [[1, 0]], [[1, 0]], [[0, 1]]]]

    def test_the_lower_index_wins_a_tie(self):
        weight = torch.tensor([[1.0, -1, 1, -1], [0, 2, -2, 2], [3, 1, -1, 3], [0, 0, 0, -0.0]])
        assert nm_mask(weight, "1:4").int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
        assert nm_mask(weight, "2:4").int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0]]
        assert nm_mask(weight, "3:4").int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]

    def test_a_group_without_ties_beside_one_with_ties_is_left_alone(self):
        weight = torch.tensor([[5.0, 5, 5, 5], [1, 2, 3, 4]])
        assert nm_mask(weight, "2:4").int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]

    def test_bfloat16_ranks_the_values_it_holds(self):
        weight = torch.tensor([[1.000, 1.001, 1.002, 1.003]])
        assert nm_mask(weight, "1:4").int().tolist() == [[0, 0, 0, 1]]
        assert nm_mask(weight.bfloat16(), "1:4").int().tolist() == [[1, 0, 0, 0]]  # all are 1 in bfloat16


class TestProperties:
    @repeatable
    @given(weights())
    def test_exactly_n_of_every_group(self, drawn):
        weight, n, m = drawn
        assert_exactly_n_per_group(nm_mask(weight, NMPattern(n, m)), n, m)

    @repeatable
    @given(weights())
    def test_equals_the_definition(self, drawn):
        weight, n, m = drawn
        assert torch.equal(nm_mask(weight, NMPattern(n, m)), slow_mask(weight, n, m, 1))

    @repeatable
    @given(weights(), st.integers(-4, 4), st.booleans())
    def test_scale_and_sign_change_nothing(self, drawn, exponent, negate):
        weight, n, m = drawn
        scaled = weight * 2.0**exponent * (-1 if negate else 1)
        assert torch.equal(nm_mask(scaled, NMPattern(n, m)), nm_mask(weight, NMPattern(n, m)))

    @repeatable
    @given(weights())
    def test_a_masked_weight_has_the_same_mask(self, drawn):
        weight, n, m = drawn
        mask = nm_mask(weight, NMPattern(n, m))
        assert torch.equal(nm_mask(weight * mask, NMPattern(n, m)), mask)

    @repeatable
    @given(weights())
    def test_output_axis_is_the_input_axis_of_the_transpose(self, drawn):
        weight, n, m = drawn
        assert torch.equal(nm_mask(weight.t(), NMPattern(n, m), "output").t(), nm_mask(weight, NMPattern(n, m)))

    @repeatable
    @given(weights(), st.integers(1, 3), st.integers(1, 2))
    def test_convolutions_are_linear_at_each_kernel_position(self, drawn, height, width):
        weight, n, m = drawn
        kernel = torch.stack([weight.roll(i, 1) for i in range(height * width)], -1).unflatten(-1, (height, width))
        rows = kernel.movedim(1, -1)
        linear = nm_mask(rows.reshape(-1, rows.shape[-1]), NMPattern(n, m)).reshape(rows.shape).movedim(-1, 1)
        assert torch.equal(nm_mask(kernel, NMPattern(n, m)), linear)

    @repeatable
    @given(weights())
    def test_n_equal_m_keeps_everything(self, drawn):
        weight, _, m = drawn
        assert nm_mask(weight, NMPattern(m, m)).all()

    @repeatable
    @given(weights())
    def test_the_kept_entries_of_a_group_outrank_the_pruned_ones(self, drawn):
        weight, n, m = drawn
        groups = weight.abs().unflatten(1, (-1, m))
        mask = nm_mask(weight, NMPattern(n, m)).unflatten(1, (-1, m))
        least_kept = groups.where(mask, torch.inf).amin(-1)
        assert (groups.where(~mask, -torch.inf).amax(-1) <= least_kept).all()


class TestEveryPathAgreesWithTheDefinition:
    """Selection networks for groups of up to 32, wider ones by the maximum (N = 1) or by topk, on both sides of 32."""

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("axis", ["input", "output"])
    def test_every_pattern_up_to_m_16(self, axis, dtype, device):
        generator = torch.Generator().manual_seed(0)
        dim = 1 if axis == "input" else 0
        for n, m in ALL_UP_TO_16:
            plain = torch.randn(3, 2 * m, generator=generator)
            tied = torch.randint(-2, 3, (3, 2 * m), generator=generator).float()
            weight = torch.cat([plain, tied]).to(dtype)
            weight = weight.t().contiguous() if dim == 0 else weight
            mask = nm_mask(weight.to(device), NMPattern(n, m), axis).cpu()
            assert torch.equal(mask, slow_mask(weight, n, m, dim)), f"{n}:{m}"

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("axis", ["input", "output"])
    @pytest.mark.parametrize(("n", "m"), WIDER, ids=lambda value: str(value))
    def test_wider_patterns(self, n, m, axis, device):
        generator = torch.Generator().manual_seed(n * m)
        dim = 1 if axis == "input" else 0
        few = torch.randint(-9, 10, (4, 2 * m), generator=generator).float()
        for weight in (torch.randn(4, 2 * m, generator=generator), few, few.bfloat16(), torch.ones(4, 2 * m)):
            weight = weight.t().contiguous() if dim == 0 else weight
            mask = nm_mask(weight.to(device), NMPattern(n, m), axis).cpu()
            assert torch.equal(mask, slow_mask(weight, n, m, dim))
            assert_exactly_n_per_group(mask, n, m, dim)

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (5, 24), (48, 96)])
    def test_all_equal_keeps_the_first_n(self, n, m, dtype, device):
        mask = nm_mask(torch.full((2, 3 * m), -0.5, dtype=dtype, device=device), NMPattern(n, m)).cpu()
        assert torch.equal(mask, (torch.arange(3 * m) % m < n).expand(2, -1))

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize(("n", "m"), [(1, 4), (3, 8), (4, 64)])
    def test_memory_order_does_not_matter(self, n, m, device):
        generator = torch.Generator().manual_seed(0)
        base = torch.randint(-5, 6, (128, 256), generator=generator).float().to(device)
        for view in (base.t(), base[:, ::2], base[::3, 64:128], base[:1].expand(5, 256)):
            assert not view.is_contiguous()
            for axis, dim in (("input", 1), ("output", 0)):
                if view.shape[dim] % m == 0:
                    mask = nm_mask(view, NMPattern(n, m), axis).cpu()
                    assert torch.equal(mask, sorted_mask(view.cpu().contiguous(), n, m, dim))

    @pytest.mark.parametrize("axis", ["input", "output"])
    @pytest.mark.parametrize(("n", "m"), [(1, 4), (3, 8), (4, 64)])
    def test_channels_last_convolutions(self, n, m, axis):
        weight = torch.randn(64, 128, 3, 2, generator=torch.Generator().manual_seed(0))
        mask = nm_mask(weight.to(memory_format=torch.channels_last), NMPattern(n, m), axis)
        assert torch.equal(mask, sorted_mask(weight, n, m, 1 if axis == "input" else 0))

    def test_convolutions_over_one_and_three_dimensions(self):
        for shape in ((4, 8, 5), (4, 8, 2, 3, 2)):
            weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            assert torch.equal(nm_mask(weight, "3:8"), slow_mask(weight, 3, 8, 1))


class TestPieces:
    """A tensor too large for the cache is ranked piece by piece; the pieces cut across the other axis only."""

    @pytest.mark.parametrize("limit", [1, 64, 100, 1000])
    @pytest.mark.parametrize("axis", ["input", "output"])
    @pytest.mark.parametrize("shape", [(32, 64), (64, 32), (32, 32, 3, 2)])
    def test_any_piece_size_gives_the_mask_of_the_whole(self, monkeypatch, shape, axis, limit):
        weight = torch.randint(-6, 7, shape, generator=torch.Generator().manual_seed(0)).float()
        whole = [nm_mask(weight, pattern, axis) for pattern in ("1:4", "2:4", "7:32")]
        monkeypatch.setattr(mask_module, "_CPU_PIECE", limit)
        assert all(
            torch.equal(nm_mask(weight, pattern, axis), expected)
            for pattern, expected in zip(("1:4", "2:4", "7:32"), whole, strict=True)
        )

    def test_a_large_tensor_is_cut_and_a_small_one_is_not(self, monkeypatch):
        lengths = []
        piece_mask = mask_module._piece_mask
        monkeypatch.setattr(
            mask_module, "_piece_mask", lambda w, *rest: lengths.append(w.shape[0]) or piece_mask(w, *rest)
        )
        nm_mask(torch.ones(1024, 512), "1:4")  # 2**19 entries
        assert lengths == [1024]
        nm_mask(torch.ones(1025, 512), "1:4")
        assert lengths == [1024, 1024, 1]

    @pytest.mark.parametrize("axis", ["input", "output"])
    @pytest.mark.parametrize("pattern", ["1:4", "2:4", "16:64"])
    def test_a_large_tensor_equals_a_stable_sort(self, pattern, axis):
        n, m = map(int, pattern.split(":"))
        weight = torch.randn(1024, 1088, generator=torch.Generator().manual_seed(0)).bfloat16()
        assert weight.numel() > 2**20
        assert torch.equal(nm_mask(weight, pattern, axis), sorted_mask(weight, n, m, 1 if axis == "input" else 0))

    @pytest.mark.cuda
    def test_a_large_tensor_on_the_gpu_equals_a_stable_sort(self):
        weight = torch.randn(2**14, 2**13, device="cuda").bfloat16()  # two pieces of 2**26 entries
        for n, m in ((1, 32), (2, 4), (16, 64)):
            assert torch.equal(nm_mask(weight, NMPattern(n, m)), sorted_mask(weight, n, m, 1))

    @pytest.mark.slow
    def test_no_copy_of_a_large_weight_is_made(self):
        script = """
            import resource, torch
            from nmtrain.sparsity import nm_mask
            weight = torch.empty(18, 4000, 4000)  # 1.15 GB
            for part in weight:
                part.uniform_(-1, 1)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            mask = nm_mask(weight, "1:8")
            assert int(mask.count_nonzero()) * 8 == mask.numel()
            print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        before, peak = map(int, done.stdout.split())  # MB
        assert peak < 8000
        assert peak - before < 1000  # the mask takes 288; one copy of the weight would take 1152


class TestRefusals:
    @pytest.mark.parametrize(("axis", "length"), [("input", 6), ("output", 10)])
    def test_an_axis_that_m_does_not_divide_is_named_with_its_length(self, axis, length):
        with pytest.raises(ValueError, match=f"M = 4 of 1:4 does not divide the {axis} axis of length {length}"):
            nm_mask(torch.ones(10, 6), "1:4", axis)

    @pytest.mark.parametrize(("shape", "pattern"), [((2, 6), "1:4"), ((4, 64), "1:128")])
    def test_groups_never_straddle_rows(self, shape, pattern):
        m = int(pattern.split(":")[1])
        assert shape[0] * shape[1] % m == 0  # the published code reshapes across rows here
        with pytest.raises(ValueError, match=f"M = {m} of {pattern} does not divide the input axis"):
            nm_mask(torch.ones(shape), pattern)

    @pytest.mark.parametrize("axis", ["rows", "", 0, None])
    def test_an_unknown_axis_is_refused(self, axis):
        with pytest.raises(ValueError, match=r"axis .* is unknown. Available: \['input', 'output'\]"):
            nm_mask(torch.ones(4, 4), "1:4", axis)

    @pytest.mark.parametrize("shape", [(), (8,)])
    def test_a_vector_has_no_axes(self, shape):
        with pytest.raises(ValueError, match=r"N:M needs \[out, in, ...\]"):
            nm_mask(torch.ones(shape), "1:4")

    def test_an_int_pattern_is_refused(self):
        with pytest.raises(TypeError, match='write "2:4"'):
            nm_mask(torch.ones(4, 4), 124)


def test_leaves_the_weight_and_its_graph_alone():
    weight = torch.tensor([[1.0, -2, 3, -4]], requires_grad=True)
    mask = nm_mask(weight * 1, "2:4")
    assert not mask.requires_grad
    assert weight.tolist() == [[1, -2, 3, -4]]


def test_works_on_the_meta_device():
    mask = nm_mask(torch.empty(8, 64, device="meta"), "2:4")
    assert (mask.shape, mask.dtype, mask.device.type) == ((8, 64), torch.bool, "meta")


@pytest.mark.parametrize("axis", ["input", "output"])
@pytest.mark.parametrize("pattern", ["1:8", "2:4", "5:8", "1:32", "16:32"])
@pytest.mark.parametrize("most", [2**26, 2**13])
def test_weights_ranked_together_get_the_masks_that_each_gets_alone(most, pattern, axis, monkeypatch):
    monkeypatch.setattr(mask_module, "_DEVICE_PIECE", most)  # that are ranked at once
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 96), (32, 32), (512, 512), (32, 64, 3, 3), (96, 64)]  # the third is ranked by itself
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    weights[1] = weights[1].round()  # ties
    weights.append(torch.randn(192, 128, generator=generator)[64:128])  # the rows of a fused weight
    masks = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
    parsed = NMPattern.parse(pattern)
    mask_module.write_masks(list(zip(masks, weights, strict=True)), parsed, axis)
    assert all(torch.equal(mask, nm_mask(weight, pattern, axis)) for mask, weight in zip(masks, weights, strict=True))
    assert [int(mask.sum()) for mask in masks] == [weight.numel() * parsed.n // parsed.m for weight in weights]
