"""Ranking by a kernel of torch.compile gives the same masks, and a machine that cannot make one does without."""

import pytest
import torch

from nmtrain.sparsity import NMPattern, nm_mask
from nmtrain.sparsity.compiled import compiled
from nmtrain.sparsity.mask import _rows_mask


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["1:4", "2:4", "3:8", "1:32", "5:48"])
def test_a_kernel_keeps_what_eager_operations_keep(pattern):
    generator = torch.Generator().manual_seed(0)
    parsed = NMPattern.parse(pattern)
    for groups in (40, 96):
        matrix = torch.randn(groups, parsed.m, generator=generator).mul(2).round()  # many ties
        assert compiled(_rows_mask)(matrix, parsed).equal(nm_mask(matrix, parsed))


def test_a_machine_without_a_compiler_is_told_once_tries_once_and_does_without(monkeypatch, caplog):
    make, tried = torch.compile, []

    def no_compiler(*arguments):
        tried.append(arguments)
        raise RuntimeError("gcc: not found")

    monkeypatch.setattr(torch, "compile", lambda function, **options: make(function, backend=no_compiler))

    def rank(matrix, pattern):
        return nm_mask(matrix, pattern)

    matrix = torch.randn(8, 32)
    for _ in range(3):
        assert compiled(rank)(matrix, NMPattern(1, 32)).equal(nm_mask(matrix, "1:32"))
    assert len(tried) == 1
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("nmtrain")]
    assert told.startswith("masks are ranked by eager operations")
    assert "gcc: not found" in told
