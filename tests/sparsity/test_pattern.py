import dataclasses

import pytest

from nmtrain.sparsity import NMPattern


@pytest.mark.parametrize(
    ("written", "n", "m"), [("1:32", 1, 32), ("2:4", 2, 4), ("4:4", 4, 4), ("1:1", 1, 1), (" 3 : 12 ", 3, 12)]
)
def test_reads_what_it_writes(written, n, m):
    pattern = NMPattern.parse(written)
    assert (pattern.n, pattern.m) == (n, m)
    assert str(pattern) == f"{n}:{m}"
    assert NMPattern.parse(str(pattern)) == pattern


def test_a_parsed_pattern_passes_through():
    pattern = NMPattern(2, 4)
    assert NMPattern.parse(pattern) is pattern


def test_density_is_the_fraction_kept():
    assert NMPattern(1, 32).density == 0.03125
    assert NMPattern(3, 12).density == 0.25
    assert NMPattern(4, 4).density == 1.0


def test_equal_patterns_are_one_dictionary_key():
    assert {NMPattern(1, 4): "a"}[NMPattern.parse("1:4")] == "a"
    assert NMPattern(1, 4) != NMPattern(2, 8)  # same density, other freedom


def test_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        NMPattern(1, 4).n = 2


@pytest.mark.parametrize(("number", "meant"), [(124, "2:4"), (64, "1:4"), (92, "1:32"), (248, "4:8"), (119, "1:59")])
def test_a_number_is_refused_with_the_yaml_fix(number, meant):
    with pytest.raises(TypeError) as refusal:
        NMPattern.parse(number)
    assert str(refusal.value) == f'{number} is what YAML reads from an unquoted {meant}; write "{meant}"'
    with pytest.raises(ValueError, match=f"'{number}' is not .*unquoted {meant} in YAML"):
        NMPattern.parse(str(number))


@pytest.mark.parametrize("number", [0, 4, 59, -124, 120, 182])  # 120 and 182 would be 2:0 and 3:2
def test_a_number_that_no_pattern_reads_as_gets_no_false_fix(number):
    with pytest.raises(TypeError, match=f'^{number} is not a pattern; write it as a string "N:M"'):
        NMPattern.parse(number)


@pytest.mark.parametrize("value", [True, False, None, 2.5, 124.0, ["1:4"], (1, 4), b"1:4"])
def test_what_is_no_string_is_refused_by_its_value(value):
    with pytest.raises(TypeError) as refusal:
        NMPattern.parse(value)
    assert str(refusal.value).startswith(f"{value!r} is not a pattern")


@pytest.mark.parametrize("written", ["a:b", "1:", ":4", "", "1", "4", "1:4:8", "1/4", "-1:4", "1.0:4", "1:4x", "120"])
def test_a_string_of_another_form_is_refused(written):
    with pytest.raises(ValueError, match='is not of the form "N:M"') as refusal:
        NMPattern.parse(written)
    assert repr(written) in str(refusal.value)
    assert "YAML" not in str(refusal.value)


@pytest.mark.parametrize("written", ["32:1", "5:4"])
def test_n_above_m_is_refused_naming_both(written):
    n, m = written.split(":")
    with pytest.raises(ValueError, match=f"^{written}: N = {n} exceeds M = {m}"):
        NMPattern.parse(written)


@pytest.mark.parametrize("written", ["0:4", "0:0", "1:0"])
def test_zero_is_refused_naming_both(written):
    with pytest.raises(ValueError, match=f"^{written}: N and M must be at least 1"):
        NMPattern.parse(written)


@pytest.mark.parametrize(("n", "m"), [(True, 4), (1, True), ("1", 4), (1, 4.0), (None, 4)])
def test_made_from_two_ints_only(n, m):
    with pytest.raises(TypeError, match="takes two ints"):
        NMPattern(n, m)


def test_negative_values_are_refused():
    with pytest.raises(ValueError, match=r"^-1:4: N and M must be at least 1"):
        NMPattern(-1, 4)
