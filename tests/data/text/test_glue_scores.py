"""The scores of GLUE's tasks against figures by hand."""

import math

import pytest

from nmtrain.data.text.glue_tasks import TASKS, score


def words(task: str, classes: list[int]) -> list[str]:
    return [TASKS[task].labels[index] for index in classes]


def test_accuracy_counts_matches_and_nothing_else():
    given = ["entailment", " neutral ", "contradictio", "", "entailment"]
    assert score("mnli", [0, 1, 2, 0, 1], given) == {"accuracy": pytest.approx(2 / 5)}


def test_matthews_by_hand():
    # 2 of each kind right, 1 of each kind wrong: (2*2 - 1*1) / sqrt(3 * 3 * 3 * 3)
    truth = [1, 1, 1, 0, 0, 0]
    assert score("cola", truth, words("cola", [1, 1, 0, 0, 0, 1])) == {"matthews": pytest.approx(1 / 3)}
    assert score("cola", truth, words("cola", [1] * 6)) == {"matthews": 0.0}


def test_matthews_counts_what_is_no_label_as_a_class_of_its_own():
    # Of s answers c are right; answers and truth have p_k and t_k of class k:
    # (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)), here (16 * 20 - 160) / sqrt(256 * 200).
    truth = [1, 0] * 10
    given = ["?", "", "Acceptable", "unaccept", *words("cola", truth[4:])]
    assert score("cola", truth, given)["matthews"] == pytest.approx(math.sqrt(0.5), abs=1e-12)
    assert score("cola", truth, ["?"] * 20) == {"matthews": 0.0}
    assert score("cola", truth, words("cola", [1 - label for label in truth])) == {"matthews": -1.0}


def test_f1_by_hand():
    # 2 found, 1 missed, 1 taken wrongly: F1 = 2*2 / (2*2 + 1 + 1); 5 of 7 right.
    values = score("mrpc", [1, 1, 1, 0, 0, 0, 0], words("mrpc", [1, 1, 0, 0, 0, 0, 1]))
    assert values == pytest.approx({"accuracy": 5 / 7, "f1": 2 / 3, "score": (5 / 7 + 2 / 3) / 2})
    garbled = score("qqp", [1, 1, 1, 0, 0, 0, 0], [*words("qqp", [1, 1]), "no", *words("qqp", [0, 0, 0]), "no"])
    assert garbled == pytest.approx(values)
    assert score("mrpc", [1, 0], ["", ""]) == {"accuracy": 0.0, "f1": 0.0, "score": 0.0}


def test_correlations_by_hand():
    # Deviations (-2, -1, 3) and (-1, 0, 1): 5 / sqrt(14 * 2); the order is the same.
    values = score("stsb", [0.0, 1.0, 5.0], ["0.0", "1.0", "2.0"])
    assert values == pytest.approx(
        {"pearson": 5 / math.sqrt(28), "spearman": 1.0, "score": (5 / math.sqrt(28) + 1) / 2}
    )


def test_what_is_no_similarity_counts_as_minus_one_and_nothing_is_cut():
    truth = [0.0, 1.2, 2.4, 3.6, 5.0]
    values = score("stsb", truth, ["0.0", "1.2", "alike", "3.6", "5.0"])
    # Deviations (-2.44, -1.24, -0.04, 1.16, 2.56) and (-1.76, -0.56, -2.76, 1.84, 3.24); ranks 1 to 5 and 2 3 1 4 5.
    assert (
        values["pearson"]
        == pytest.approx(15.528 / math.sqrt(15.392 * 24.912), abs=1e-6)
        == pytest.approx(0.793, abs=5e-4)
    )
    assert values["spearman"] == pytest.approx(1 - 6 * 6 / 120)
    for junk in ("", "nan", "inf", "3,6"):
        assert score("stsb", truth, ["0.0", "1.2", junk, "3.6", "5.0"]) == values
    # Deviations (-2, -1, 3) and (-34, -32, 66) for 0, 2 and 100.
    assert score("stsb", [0.0, 1.0, 5.0], ["0", "2", "100"])["pearson"] == pytest.approx(298 / math.sqrt(14 * 6536))
    assert score("stsb", [0.0, 1.0, 5.0], ["a", "b", "c"]) == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}
