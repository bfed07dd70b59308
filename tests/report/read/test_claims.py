from __future__ import annotations

import pytest

from nmtrain.errors import ReportError
from nmtrain.recipes import RECIPES, build_recipe
from nmtrain.report.read.claims import Claim, read_claims

CLAIM = 'recipe: mdgf\nover: sr_ste\npatterns: ["1:8", " 1 : 32"]\nat: updates\n'
ONE = Claim("claims.yaml", "", "mdgf", "sr_ste", ("1:8", "1:32"), "updates")


def own(folders):
    """The claims that we do not ship, without their places."""
    return [Claim(**vars(claim) | {"place": ""}) for claim in read_claims(folders) if claim.place is not None]


def test_a_file_holds_one_claim_or_a_list(tmp_path):
    (tmp_path / "claims.yaml").write_text(CLAIM)
    assert own([tmp_path]) == [ONE]
    (tmp_path / "claims.yaml").write_text(
        "- {recipe: mdgf, over: sr_ste, patterns: ['1:8', '1:32'], at: updates}\n"
        "- {recipe: a, over: b, patterns: '2:4', at: flops, metric: f1, model: t5, data: glue, roles: [q, ff]}\n"
    )
    second = Claim("claims.yaml", "", "a", "b", ("2:4",), "flops", "f1", "t5", "glue", "ff+q")
    assert own([tmp_path]) == [ONE, second]


def test_claims_are_those_beside_the_runs_each_file_once(tmp_path):
    (tmp_path / "my runs" / "claims").mkdir(parents=True)
    (tmp_path / "my runs" / "deeper").mkdir()
    (tmp_path / "my runs" / "claims.yaml").write_text(CLAIM)
    for name in ("b.yaml", "a.yaml", "notes.txt"):
        (tmp_path / "my runs" / "claims" / name).write_text(CLAIM)
    (tmp_path / "my runs" / "deeper" / "claims.yaml").write_text(CLAIM)  # of another folder
    (tmp_path / "link").symlink_to(tmp_path / "my runs")
    found = own([tmp_path / "my runs", tmp_path / "my runs" / "..", tmp_path / "link"])
    assert [claim.source for claim in found] == ["claims.yaml", "a.yaml", "b.yaml"]


def test_what_we_ship_can_be_read_and_names_our_recipes(tmp_path):
    claims = read_claims([tmp_path])
    assert {claim.source for claim in claims} == {"paper", "ours"}
    variants = {build_recipe(recipe, "1:4").variant for recipe in RECIPES}
    variants |= {"mdgf_linear", "sdgf_geometric"}
    variants |= {f"MDGF {decay}, straight-through gradient" for decay in ("exponential", "linear")}
    assert {name for claim in claims for name in (claim.recipe, claim.over)} <= variants


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"patterns": "[1:8]"}, 'patterns: 68 is what YAML reads from an unquoted 1:8; write "1:8"'),
        ({"patterns": '["8:1"]'}, "patterns: 8:1: N = 8 exceeds M = 1"),
        ({"patterns": "[]"}, "patterns: is an empty list"),
        ({"patterns": None}, "patterns: is missing"),
        ({"at": "epochs"}, "at: 'epochs' is unknown. Available: ['updates', 'flops']"),
        ({"at": None}, "at: is missing"),
        ({"over": "mdgf"}, "over: 'mdgf' is the recipe itself"),
        ({"recipe": "[a, b]"}, "recipe: ['a', 'b'] is no name"),
        ({"metrics": "loss"}, "metrics: a claim has no such key. Available: ['recipe',"),
        ({"metrics": "loss"}, "did you mean metric?"),
        ({"roles": "[1]"}, "roles: 1 is no role"),
    ],
)
def test_a_wrong_claim_is_told_with_file_key_and_value(change, fault, tmp_path):
    keys = {"recipe": "mdgf", "over": "sr_ste", "patterns": '["1:8"]', "at": "updates"} | change
    (tmp_path / "claims.yaml").write_text("".join(f"{key}: {value}\n" for key, value in keys.items() if value))
    with pytest.raises(ReportError) as raised:
        read_claims([tmp_path])
    assert str(raised.value).startswith(f"{tmp_path / 'claims.yaml'}: ")
    assert fault in str(raised.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "holds no claim"),
        ("[]", "holds no claim"),
        ("mdgf over sr_ste", "'mdgf over sr_ste' is no claim; write its keys ['recipe', 'over', 'patterns', 'at']"),
        ("a: [", "cannot be read: while parsing"),
        (b"\xff\xfe\x00", "cannot be read: "),
    ],
)
def test_what_is_no_claim_is_told(content, fault, tmp_path):
    (tmp_path / "claims.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ReportError, match=r"claims\.yaml: ") as raised:
        read_claims([tmp_path])
    assert fault in str(raised.value)


def test_all_faults_are_told_together_and_by_number(tmp_path):
    (tmp_path / "claims.yaml").write_text("- {recipe: a}\n- {recipe: a, over: b, patterns: ['1:8'], at: once}\n")
    with pytest.raises(ReportError) as raised:
        read_claims([tmp_path])
    assert str(raised.value).splitlines() == [
        f"{tmp_path}/claims.yaml: claim 1: over: is missing",
        f"{tmp_path}/claims.yaml: claim 1: patterns: is missing",
        f"{tmp_path}/claims.yaml: claim 1: at: is missing",
        f"{tmp_path}/claims.yaml: claim 2: at: 'once' is unknown. Available: ['updates', 'flops']",
    ]
