"""What each weight is in the network: ff, q, k, v, o or conv (method, section 4), by its name in the stock model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from torch import nn

from nmtrain.models.fused import fused_rows
from nmtrain.sparsity import NMPattern, SparsityRule

if TYPE_CHECKING:
    from nmtrain.config.schema import MaskConfig

ROLES = ("ff", "q", "k", "v", "o", "conv")

# Names inside the repeated blocks of transformers; stems, embeddings and most position MLPs are outside of these.
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
        "fused": (r"attn\.(?:qkv|qk|kv)", _BERT + "in_proj"),
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
# blocks.0.attn.rel_pos.mlp.fc1 reads places, not features.
_POSITION_MLP = re.compile(r"(?:^|\.)(?:\w+_)?pos(?:_\w+)?\.")
_STACK = re.compile(r"(?:^|\.)(encoder|decoder)\.")


def weights_by_role(model: nn.Module) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """``(role, parameter name, rows)`` of every weight that has a role; rows where it is a slice of a fused one.

    A role may have several slices of one weight. Fused weights that `unknown_fused` lists have none.
    """
    never = stem_and_head(model)
    for name, module in model.named_modules():
        if name in never:
            continue
        weight = f"{name}.weight"
        if isinstance(module, nn.Conv2d):
            depthwise = module.in_channels == module.groups  # no reduction over channels, so no groups to prune in
            if not depthwise:
                yield "conv", weight, None
        elif (role := _role_of_linear(name, module)) == "fused":
            for part, rows in _slices(model, name) or ():
                yield part, weight, rows
        elif role is not None:
            yield role, weight, None


def weights_as_named(
    model: nn.Module, roles: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """As `weights_by_role`, for a model that says itself which weights have which role, wildcards allowed.

    Raises:
        ValueError: for names that match no weight of a linear layer or a convolution, and for several roles of one.
    """
    layers = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    weights = [name for name, _ in model.named_parameters() if name in layers]
    found: dict[str, str] = {}
    for role, names in roles.items():
        for pattern in names:
            matching = [weight for weight in weights if fnmatchcase(weight, pattern)]
            if not matching:
                raise ValueError(f"the model's role {role} names {pattern}: no weight matches. Available: {weights}")
            for weight in matching:
                if found.setdefault(weight, role) != role:
                    raise ValueError(f"the model's weight {weight} is named by two roles, {found[weight]} and {role}")
    yield from ((role, weight, None) for weight, role in found.items())


def unknown_fused(model: nn.Module) -> list[str]:
    """Fused weights whose rows of q, k and v are not known, each with the class of its attention."""
    return [
        f"{name}.weight ({type(model.get_submodule(name.rpartition('.')[0])).__name__})"
        for name, module in model.named_modules()
        if _role_of_linear(name, module) == "fused" and _slices(model, name) is None
    ]


def stem_and_head(model: nn.Module) -> set[str]:
    """The layers that have no role: the first convolution, all that timm lists as such, and all of the classifier.

    Each branch of a CrossViT has a first convolution of its own. Later layers of a deep stem, and the patch embeddings
    between the stages of a pyramid, are ordinary convolutions.
    """
    layers = list(model.named_modules())
    listed: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}  # of timm's models
    first = next((name for name, module in layers if isinstance(module, nn.Conv2d)), None)
    names = {first, *_names(listed.get("first_conv")), *_names(listed.get("classifier"))}
    timm_model: Any = model
    classifier = timm_model.get_classifier() if hasattr(model, "get_classifier") else None  # may be several, or none
    heads = classifier if isinstance(classifier, tuple | list) else (classifier,)
    inside = {id(part) for head in heads if isinstance(head, nn.Module) for part in head.modules()}
    return {name for name, module in layers if name in names or id(module) in inside}


def _names(listed: str | Iterable[str] | None) -> Iterable[str]:
    return [listed] if isinstance(listed, str) else listed or ()


def _role_of_linear(name: str, module: nn.Module) -> str | None:
    """Its role, ``fused`` for several in one, or None."""
    if not isinstance(module, nn.Linear) or _POSITION_MLP.search(name):
        return None
    return next((role for role, pattern in _BY_NAME.items() if pattern.match(name)), None)


def _slices(model: nn.Module, name: str) -> list[tuple[str, tuple[int, int]]] | None:
    """See `fused_rows`."""
    attention, _, attribute = name.rpartition(".")
    fused = model.get_submodule(name)
    assert isinstance(fused, nn.Linear)
    return fused_rows(model.get_submodule(attention), attribute, fused.out_features)


def sparsity_rules(
    model: nn.Module, mask: MaskConfig, target: NMPattern, named: Mapping[str, Sequence[str]] | None = None
) -> list[SparsityRule]:
    """The rules that the ``mask`` section of a config asks for on this model; ``target`` is the run's pattern.

    Args:
        named: the weights of each role, for a model whose names do not tell them.

    Raises:
        ValueError: for roles that the model lacks and names that match none of its weights, where the message lists
            those it has; and for q, k and v where a fused weight does not tell which rows they are.
    """
    by_role: dict[str, list[SparsityRule]] = {}
    stacks: set[str] = set()
    for role, name, rows in weights_by_role(model) if named is None else weights_as_named(model, named):
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
    if named is None and {"q", "k", "v"} & set(mask.roles) and (unknown := unknown_fused(model)):
        more = f" (and {len(unknown) - 1} more)" if unknown[1:] else ""
        faults.append(
            f"mask.roles=[{','.join(mask.roles)}]: the fused weight {unknown[0]}{more} is laid out in a way that is not"
            " known, so that q, k and v cannot be told apart"
        )
    faults = faults or [
        f"mask.roles=[{','.join(mask.roles)}]: the model has no {role}. Available: {list(by_role)}"
        for role in mask.roles
        if role not in by_role
    ] + [f"mask.names=[{name}]: no weight of the model matches. Available: {weights}" for name in unmatched]
    if faults:
        raise ValueError("\n".join(faults))
    rules = [rule for role in mask.roles for rule in by_role[role]]
    further = SparsityRule("", target, "named", mask.axis, None, mask.indivisible)
    return rules + [replace(further, name=name) for name in mask.names]
