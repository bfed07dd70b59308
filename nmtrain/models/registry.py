"""Image models from outside, which timm does not know, and what is sparse in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from torch import nn

from nmtrain.config.choices import groups
from nmtrain.config.faults import written
from nmtrain.data import DataShape
from nmtrain.errors import PluginError
from nmtrain.models.roles import ROLES
from nmtrain.runs.loaded import enter, in_plugin, provider

RoleMap = Mapping[str, Sequence[str]]
_Builder = TypeVar("_Builder", bound=Callable[..., nn.Module])

_BUILDERS: dict[str, Callable[..., nn.Module]] = {}
_ROLE_MAPS: dict[str, RoleMap] = {}


@overload
def register(build: _Builder) -> _Builder: ...
@overload
def register(*, roles: RoleMap) -> Callable[[_Builder], _Builder]: ...
def register(build: Any = None, *, roles: RoleMap | None = None) -> Any:
    """Make an image classifier of one's own known by the name of the function that builds it: its decorator.

    ``build(shape, **options)`` gets the data's `DataShape` and ``model.options``, and returns a module that maps
    images ``[batch, channels, image_size, image_size]`` to logits ``[batch, num_classes]``. It is also called on the
    meta device, to plan.

    Args:
        roles: the weights of each role by their names, with wildcards: ``{"ff": ["blocks.*.fc1.weight"]}``. Without it
            convolutions have the role ``conv``, and linear layers that of the timm or transformers names they have.

    Raises:
        PluginError: for what is no function, for unknown roles, and for a name that is taken.
    """
    if build is None:
        return lambda function: register(function, roles=roles)  # type: ignore[call-overload]
    name = getattr(build, "__name__", None)
    if not callable(build) or name is None:
        raise PluginError(f"model {build!r}: is no function that builds a model from (shape, **options)")
    given = {} if roles is None else roles
    if not isinstance(given, Mapping) or not set(given) <= set(ROLES):
        raise PluginError(f"model {name}: roles={roles!r} does not map roles to names of weights. Available: {ROLES}")
    if wrong := [role for role, names in given.items() if isinstance(names, str) or not all(map(_is_text, names))]:
        raise PluginError(f"model {name}: roles[{wrong[0]!r}] is no list of names of weights")
    enter("model", name, build, _BUILDERS, groups()["model"])
    if roles is not None:
        _ROLE_MAPS[name] = roles
    return build


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def is_registered(name: str) -> bool:
    return name in _BUILDERS


def role_map(name: str) -> RoleMap | None:
    """What a registered model says of its roles; None for all others, whose weights tell it by their names."""
    return _ROLE_MAPS.get(name)


def build_registered(name: str, shape: DataShape, options: dict[str, Any]) -> nn.Module:
    """A registered model, randomly initialised from torch's global generator, for images of the given shape.

    Raises:
        ValueError: if timm has a model of this name, or what was registered builds none with these options.
    """
    import timm

    if timm.is_model(name):
        owner = provider("model", name)
        of = f"of {owner.origin} " if owner else ""
        raise ValueError(f"model.name={name}: the model {of}has the name of one of timm's; give it another")
    try:
        model = _BUILDERS[name](shape, **options)
    except Exception as error:  # whatever a function from outside raises
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"model.name={name}: cannot be built with model.options={written(options)}: {reason}{in_plugin(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model.name={name}: what was registered builds {type(model).__name__}, not a torch module")
    return model
