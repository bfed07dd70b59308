"""Claims that a report decides: ``recipe`` is better than ``over``. A file is YAML, one claim or a list of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import nmtrain.conf
from nmtrain.config.choices import CLAIMS, near
from nmtrain.errors import ReportError
from nmtrain.report.read.grouping import pattern_text, roles_text

UPDATES, FLOPS = "updates", "flops"
_SHIPPED = Path(next(iter(nmtrain.conf.__path__))) / CLAIMS
_REQUIRED = ("recipe", "over", "patterns", "at")
_NARROWING = ("metric", "model", "data", "roles")
_CLAIMED = "claimed"
_LISTS = ("patterns", "roles")


@dataclass(frozen=True)
class Claim:
    """``recipe`` is better than ``over`` at each of ``patterns``, at equal updates or equal training FLOPs (``at``).

    Attributes:
        source: the file, as tables name it.
        place: the file and the claim's number in it, as messages name it; None for those that we ship.
        recipe: as run folders and columns have it: ``mdgf_exponential``, ``MDGF exponential (beta=0.01)``.
        metric: None for the headline metric of the runs.
        model, data, roles: the runs that it is about; None for all.
        claimed: how much better, in the words of who claims it.
    """

    source: str
    place: str | None
    recipe: str
    over: str
    patterns: tuple[str, ...]
    at: str
    metric: str | None = None
    model: str | None = None
    data: str | None = None
    roles: str | None = None
    claimed: str | None = None


def read_claims(folders: Iterable[Path]) -> list[Claim]:
    """Those that we ship, and those in ``claims.yaml`` and ``claims/*.yaml`` of each of ``folders`` itself.

    Raises:
        ReportError: naming file, key and value of every fault.
    """
    claims = [claim for path in sorted(_SHIPPED.glob("*.yaml")) for claim in _read(path, [], shipped=True)]
    faults: list[str] = []
    for path in {path.resolve(): path for folder in folders for path in _files(folder)}.values():
        claims += _read(path, faults)
    if faults:
        raise ReportError("\n".join(faults))
    return claims


def _files(folder: Path) -> list[Path]:
    found = [folder / f"{CLAIMS}.yaml", *sorted((folder / CLAIMS).glob("*.yaml"))]
    return [path for path in found if path.is_file()]


def _read(path: Path, faults: list[str], shipped: bool = False) -> list[Claim]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        faults.append(f"{path}: cannot be read: {' '.join(str(error).split())}")
        return []
    if content in (None, []):
        faults.append(f"{path}: holds no claim")
        return []
    written = content if isinstance(content, list) else [content]
    claims = []
    for number, one in enumerate(written, 1):
        place = f"{path}: claim {number}" if len(written) > 1 else str(path)
        found = _faults(one)
        faults += [f"{place}: {fault}" for fault in found]
        if not found:
            claims.append(_claim(one, path.stem if shipped else path.name, None if shipped else place))
    return claims


def _faults(claim: Any) -> list[str]:
    if not isinstance(claim, Mapping):
        return [f"{claim!r} is no claim; write its keys {list(_REQUIRED)}"]
    known = [*_REQUIRED, *_NARROWING, _CLAIMED]
    faults = [
        f"{key}: a claim has no such key. Available: {known}{near(key, known)}" for key in claim if key not in known
    ]
    faults += [f"{key}: is missing" for key in _REQUIRED if claim.get(key) is None]
    for key in [key for key in known if claim.get(key) is not None]:
        fault = _fault(key, claim[key])
        faults += [f"{key}: {fault}"] if fault else []
    if not faults and claim["recipe"] == claim["over"]:
        faults.append(f"over: {claim['over']!r} is the recipe itself")
    return faults


def _fault(key: str, value: Any) -> str | None:
    if key not in _LISTS:
        if key == "at" and value not in (UPDATES, FLOPS):
            return f"{value!r} is unknown. Available: {[UPDATES, FLOPS]}"
        return None if isinstance(value, str) and value else f"{value!r} is no name"
    values = value if isinstance(value, list) else [value]
    if key == "roles":
        wrong = [one for one in values if not isinstance(one, str)]
        return f"{wrong[0]!r} is no role" if wrong else "is an empty list" if not values else None
    try:
        return None if [pattern_text(one) for one in values] else "is an empty list"
    except (TypeError, ValueError) as error:
        return str(error)


def _claim(written: Mapping[str, Any], source: str, place: str | None) -> Claim:
    lists = {key: written[key] for key in _LISTS if written.get(key) is not None}
    lists = {key: value if isinstance(value, list) else [value] for key, value in lists.items()}
    return Claim(
        source,
        place,
        recipe=written["recipe"],
        over=written["over"],
        patterns=tuple(dict.fromkeys(map(pattern_text, lists["patterns"]))),
        at=written["at"],
        metric=written.get("metric"),
        model=written.get("model"),
        data=written.get("data"),
        roles=roles_text(lists["roles"]) if "roles" in lists else None,
        claimed=written.get(_CLAIMED),
    )
