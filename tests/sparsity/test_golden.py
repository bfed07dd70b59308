"""The transform against figures from executing the published code (tests/golden/reference_vectors.json)."""

import json
import math
from pathlib import Path

import pytest
import torch

from nmtrain.sparsity import NMPattern, nm_mask, nm_sparsify

REFERENCE = json.loads((Path(__file__).parents[1] / "golden" / "reference_vectors.json").read_text())
DECAY = {
    "mdgf_linear": lambda case: max(0.0, 1 - case["coef"] * case["step"]),
    "mdgf_exponential": lambda case: math.exp(-case["coef"] * case["step"]),
}


def setting(case):
    what = "-".join(str(case[key]) for key in ("coef", "step", "lam") if key in case)
    shape = "x".join(map(str, case["shape"]))
    return f"{case['kind']}{what and '-' + what}-{case['n']}:{case['m']}-{shape}-{case['axis']}"


def test_the_reference_file_is_whole():
    assert len(REFERENCE["cases"]) == 117


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=setting)
def test_agrees_with_the_published_code(case):
    pattern = NMPattern(case["n"], case["m"])
    weight = torch.tensor(case["weight"]).reshape(case["shape"])
    if case["kind"] == "mask":
        assert nm_mask(weight, pattern, case["axis"]).int().flatten().tolist() == case["mask"]
        return
    weight.requires_grad_()
    decay = DECAY.get(case["kind"], lambda case: 0.0)(case)
    output = nm_sparsify(weight, pattern, case["axis"], decay, case["gradient"], case.get("lam", 0.0))
    output.backward(torch.tensor(case["upstream"]).reshape(case["shape"]))
    expected = [torch.tensor(case[key]).reshape(case["shape"]) for key in ("output", "grad")]
    torch.testing.assert_close(output.detach(), expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(weight.grad, expected[1], atol=1e-5, rtol=0)
