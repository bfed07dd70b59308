"""What each weight is in the network: ff, q, k, v, o or conv (method, section 4), by its name in the stock model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from torch import nn

from nmtrain.sparsity import NMPattern, SparsityRule

if TYPE_CHECKING:
    from nmtrain.schema import MaskConfig

ROLES = ("ff", "q", "k", "v", "o", "conv")

# Names inside the repeated blocks of transformers; heads, stems, embeddings and position MLPs are outside of these.
# First timm's; then those of the library transformers, by family: T5, BERT and its kin, DistilBERT, BART and its kin.
_BLOCK = r"^(?:.*\.)?(?:block|blocks|layer|layers|stages)\.\d+\.(?:.*\.)?"
_T5 = r"\w*(?:SelfAttention|EncDecAttention)\."
_BERT = r"(?:(?:cross)?attention\.self|self_attn\.longformer_self_attn)\."  # the latter is LED's
_DISTILBERT = r"attention\."
_BART = r"(?:self_attn|encoder_attn)\."
_BY_NAME = {
    role: re.compile(f"{_BLOCK}(?:{'|'.join(names)})$")
    for role, names in {
        "ff": (
            r"mlp\w*\.(?:fc1|fc2|fc1_g|fc1_x|w1|w2|w3|w12)",
            r"DenseReluDense\.(?:wi|wi_0|wi_1|wo)",
            r"intermediate\.dense",
            r"(?<!attention\.)output\.dense",
            r"ffn\.lin[12]",
            r"(?<=\d\.)fc[12]",
        ),
        "qkv": (r"attn\.qkv",),
        "qkv by head": (_BERT + "in_proj",),  # DeBERTa's
        "q": (r"attn\.q(?:_proj)?", _T5 + "q", _BERT + "query(?:_proj)?", _DISTILBERT + "q_lin", _BART + "q_proj"),
        "k": (r"attn\.k(?:_proj)?", _T5 + "k", _BERT + "key(?:_proj)?", _DISTILBERT + "k_lin", _BART + "k_proj"),
        "v": (r"attn\.v(?:_proj)?", _T5 + "v", _BERT + "value(?:_proj)?", _DISTILBERT + "v_lin", _BART + "v_proj"),
        "o": (
            r"attn\.proj",
            _T5 + "o",
            r"(?:cross)?attention\.output\.dense",
            _DISTILBERT + "out_lin",
            _BART + "out_proj",
            r"self_attn\.output",
        ),
    }.items()
}
_STACK = re.compile(r"(?:^|\.)(encoder|decoder)\.")


def weights_by_role(model: nn.Module) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """``(role, parameter name, rows)`` of every weight that has a role; rows where it is a slice of a fused QKV."""
    stem_passed = False
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if isinstance(module, nn.Conv2d):
            depthwise = module.in_channels == module.groups  # no reduction over channels, so no groups to prune in
            if stem_passed and not depthwise:
                yield "conv", weight, None
            stem_passed = True
        elif isinstance(module, nn.Linear):
            role = next((role for role, pattern in _BY_NAME.items() if pattern.match(name)), None)
            if role == "qkv":
                third = module.out_features // 3
                for i, part in enumerate("qkv"):
                    yield part, weight, (i * third, (i + 1) * third)
            elif role == "qkv by head":
                attention: Any = model.get_submodule(name.rpartition(".")[0])
                height = attention.attention_head_size
                for i, row in enumerate(range(0, module.out_features, height)):
                    yield "qkv"[i % 3], weight, (row, row + height)
            elif role is not None:
                yield role, weight, None


def sparsity_rules(model: nn.Module, mask: MaskConfig, target: NMPattern) -> list[SparsityRule]:
    """The rules that the ``mask`` section of a config asks for on this model; ``target`` is the run's pattern.

    Raises:
        ValueError: for roles that the model lacks and names that match none of its weights; the message lists those
            it has.
    """
    by_role: dict[str, list[SparsityRule]] = {}
    stacks: set[str] = set()
    for role, name, rows in weights_by_role(model):
        stack = _STACK.search(name)
        stacks |= {stack[1]} if stack else set()
        if mask.stacks is not None and (stack is None or stack[1] not in mask.stacks):
            continue
        pattern = mask.patterns.get(role, target)
        rule = SparsityRule(name, pattern, role, mask.axis, rows, mask.indivisible)
        by_role.setdefault(role, []).append(rule)
    weights = [name for name, parameter in model.named_parameters() if parameter.dim() >= 2]
    unmatched = [name for name in mask.names if not any(fnmatchcase(weight, name) for weight in weights)]
    if mask.stacks is not None and len(stacks) == 1:
        given = ",".join(mask.stacks)
        raise ValueError(f"mask.stacks=[{given}]: has no effect, since the model's only stack is its {stacks.pop()}")
    faults = [
        f"mask.stacks=[{','.join(mask.stacks or ())}]: the model has no {stack}. Available: {sorted(stacks)}"
        for stack in mask.stacks or ()
        if stack not in stacks
    ]
    faults = faults or [
        f"mask.roles=[{','.join(mask.roles)}]: the model has no {role}. Available: {list(by_role)}"
        for role in mask.roles
        if role not in by_role
    ] + [f"mask.names=[{name}]: no weight of the model matches. Available: {weights}" for name in unmatched]
    if faults:
        raise ValueError("\n".join(faults))
    rules = [rule for role in mask.roles for rule in by_role[role]]
    named = SparsityRule("", target, "named", mask.axis, None, mask.indivisible)
    return rules + [replace(named, name=name) for name in mask.names]
