"""Which tensors a run makes sparse, or only measures, resolved against its model and refused where they cannot be."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from nmtrain.config.check import Config
from nmtrain.config.faults import written
from nmtrain.config.schema import MOST_UPDATES
from nmtrain.errors import ConfigError
from nmtrain.models import sparsity_rules
from nmtrain.models.registry import role_map
from nmtrain.sparsity import NMPattern, NoTensorLeft, SparseTensor, SparsityRule, resolve_rules


def measured_tensors(
    config: Config, model: nn.Module, multiplied: Collection[str]
) -> tuple[list[SparsityRule], dict[NMPattern, list[SparseTensor]]]:
    """The rules that a config asks for, and the tensors to measure by sparsity; those of a sparse run are sparse."""
    found = {sparsity: _resolved(config, model, multiplied, sparsity) for sparsity in config.measured_patterns}
    bare = [str(sparsity) for sparsity, (_, tensors) in found.items() if not tensors]
    if bare and config.measure.patterns:
        raise ConfigError([f"measure.patterns={written(bare)}: no tensor of mask.roles has an axis that M divides"])
    (rules, _), *_ = found.values()
    return rules, {sparsity: tensors for sparsity, (_, tensors) in found.items() if tensors}


def _resolved(
    config: Config, model: nn.Module, multiplied: Collection[str], sparsity: NMPattern
) -> tuple[list[SparsityRule], list[SparseTensor]]:
    """The rules and sparse tensors that a config asks for at ``sparsity``, each phase of each tensor tried.

    A dense run only measures these tensors; those that M does not divide are not measured.

    Args:
        multiplied: the names of the weights that products of a forward read.
    """
    mask = config.mask.model_copy(update={"indivisible": "skip"}) if config.is_dense else config.mask
    try:
        rules = sparsity_rules(model, mask, sparsity, role_map(config.model.name))
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from error
    patterns = f" mask.patterns={written(config.values['mask']['patterns'])}" if config.mask.patterns else ""
    try:
        tensors = resolve_rules(model, rules)
    except ValueError as error:
        if config.is_dense and isinstance(error, NoTensorLeft):
            return rules, []
        faults = [f"sparsity={sparsity}{patterns}: {line}" for line in str(error).splitlines()]
        if config.mask.indivisible == "error" and any("does not divide" in fault for fault in faults):
            faults.append("mask.indivisible=skip leaves tensors dense whose axis M does not divide")
        raise ConfigError(faults) from error
    if config.is_dense:
        return rules, tensors
    unread = [tensor for tensor in tensors if tensor.name not in multiplied]
    if faults := _phase_faults(config, tensors) + _unread_faults(model, unread):
        raise ConfigError(faults)
    return rules, tensors


def _phase_faults(config: Config, tensors: list[SparseTensor]) -> list[str]:
    """A line for each phase of a tensor that its axis cannot carry; only patterns that a user lists can be such."""
    phases = {}
    for target, recipe in config.recipes.items():
        longest = MOST_UPDATES if recipe.one_way else 10_000  # either has every phase; the latter are looked at singly
        phases[target] = recipe.phases(longest if config.train.flops is not None else config.total_updates)
    faults: dict[str, None] = {}
    for tensor in tensors:
        for _, state in phases[tensor.pattern]:
            try:
                if state.pattern is not None:
                    tensor.fit(state.pattern, state.exact)
            except ValueError as error:
                faults[f"recipe.patterns={written(config.values['recipe'].get('patterns'))}: {error}"] = None
    return list(faults)


def _unread_faults(model: nn.Module, tensors: list[SparseTensor]) -> list[str]:
    """Of weights whose zeros would spare nothing: those of embeddings, and those that are standardised before use."""
    names: dict[tuple[str, str], list[str]] = {}  # by the option that asks for them and the class that holds them
    for tensor in tensors:
        owner = model.get_submodule(tensor.name.rpartition(".")[0])
        option = f"mask.names=[{tensor.name}]" if tensor.role == "named" else f"mask.roles=[{tensor.role}]"
        names.setdefault((option, type(owner).__name__), []).append(tensor.name)
    return [
        f"{option}: no matmul or convolution reads {found[0]}{f' (nor {len(found) - 1} more)' if found[1:] else ''} as"
        f" it is: {owner} looks up its rows or makes another weight of it, for which N:M would not hold"
        for (option, owner), found in names.items()
    ]
