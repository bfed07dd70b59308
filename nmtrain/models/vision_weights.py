"""Weights that an image model starts from: a file, a folder, or timm's own on the hub.

What timm adapts (the head, input channels, position embeddings) it adapts here too; a trial on the meta device, which
reads no more than names and shapes, says what that will be and refuses what does not fit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, load_state_dict
from torch import Tensor, nn

from nmtrain.config.choices import near
from nmtrain.config.faults import written
from nmtrain.models.saved import shapes_of, some

_SAFE = ".safetensors"
_SUFFIXES = (_SAFE, ".pth", ".pt", ".bin", ".tar")
_PREFERRED = ("model.safetensors", "pytorch_model.bin")  # as exports and timm's repositories call them
# Where checkpoints from elsewhere, whose names timm translates, have the head.
_OTHER_HEADS = ("head", "fc", "classifier", "head.fc")
# Arguments of timm that are adapted, or change nothing about what the weights mean.
_ADAPTED = ("num_classes", "in_chans", "img_size", "weight_init")


def find_weights(source: str, download: bool, option: str = "model.pretrained") -> Path | None:
    """The file that an option such as ``model.pretrained`` of an image model means; None where only the hub has it, and
    ``download`` is False.

    Args:
        source: a file, a folder, or a name on timm's hub: ``resnet18.a1_in1k``, ``timm/resnet18.a1_in1k``,
            ``hf-hub:timm/resnet18.a1_in1k``.

    Raises:
        ValueError: where there is no such file, folder or name.
        DataError: where the hub, which has it, cannot be reached.
    """
    scheme, _, rest = source.partition(":")
    path = Path(rest if scheme == "local-dir" else source).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        if path.suffix not in _SUFFIXES:
            raise ValueError(f"is no file of weights; allowed: {', '.join(_SUFFIXES)}")
        return path
    if scheme == "local-dir" or source.startswith(("/", ".", "~")) or path.suffix in _SUFFIXES:
        raise ValueError("there is no such file or folder")
    return _on_hub(source, download, option)


def described_input(source: str) -> dict[str, Any]:
    """What is said beside weights, or timm says of them, of the images that they are for: some of the keys of
    ``pretrained_cfg``.

    Raises:
        ValueError, DataError: as `find_weights`.
    """
    name = source.partition(":")[2] if source.startswith(("hf-hub:", "hf_hub:")) else source
    try:
        listed = get_pretrained_cfg(name.removeprefix("timm/"))
    except RuntimeError:  # of a known architecture, with another tag
        listed = None
    if listed is not None and not Path(source).expanduser().exists():
        return listed.to_dict()
    file = find_weights(source, download=True)
    assert file is not None  # it has been fetched
    try:
        told = json.loads(file.with_name("config.json").read_text())
    except (OSError, ValueError):
        return {}
    # Some files say it without the section.
    return told.get("pretrained_cfg") or told if isinstance(told, dict) else {}


def _in_folder(folder: Path) -> Path:
    for name in _PREFERRED:
        if (folder / name).is_file():
            return folder / name
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    if len(files) == 1:
        return files[0]
    if files:
        raise ValueError(f"the folder has several files of weights; name one of them: {[file.name for file in files]}")
    raise ValueError(f"the folder has no weights ({', '.join(_PREFERRED)})")


def _on_hub(source: str, download: bool, option: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    from nmtrain.data.hub import require_hub

    repository, names = _repository(source)
    repository, _, revision = repository.partition("@")

    def fetched(only_here: bool) -> Path | None:
        """The weights, and the description beside them, which not every repository has."""
        for name in ("config.json", *names):
            try:
                file = hf_hub_download(repository, name, revision=revision or None, local_files_only=only_here)
            except EntryNotFoundError:
                continue
            if name in names:
                return Path(file)
        return None

    try:
        if (file := fetched(only_here=True)) or not download:
            return file
        require_hub(f"{option}={source}", f"{option}=FILE or =FOLDER")
        file = fetched(only_here=False)
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise ValueError(f"the hub does not give it: {_one_line(error)}") from error
    if file is None:
        raise ValueError(f"the repository {repository} has none of {', '.join(names)}")
    return file


def _repository(source: str) -> tuple[str, tuple[str, ...]]:
    """The repository on the hub, and the names under which its weights may stand."""
    scheme, colon, rest = source.partition(":")
    if colon and scheme in ("hf-hub", "hf_hub"):
        return rest, _PREFERRED
    if "/" in source:
        return source, _PREFERRED
    architecture = source.partition(".")[0]
    known = get_arch_pretrained_cfgs(architecture)
    try:
        listed = get_pretrained_cfg(source)
    except RuntimeError:  # of a known architecture, with another tag
        listed = None
    if listed is None:
        names = list(known) or timm.list_models()
        had = f" timm has {names}" if known else ""
        raise ValueError(f"there is no such file or folder, and timm has no such weights.{had}{near(source, names)}")
    if not listed.hf_hub_id:
        place = f"; it names {listed.url}" if listed.url else ""
        raise ValueError(f"timm has it on no hub{place}: give a file")
    return listed.hf_hub_id, (listed.hf_hub_filename,) if listed.hf_hub_filename else _PREFERRED


def trial(architecture: str, arguments: Mapping[str, Any], file: Path) -> list[str]:
    """What of a file a model will not take as it is, in words; nothing where it takes all.

    Args:
        architecture, arguments: of ``timm.create_model``.

    Raises:
        ValueError: where the weights do not fit otherwise, naming tensors; where the file cannot be read.
    """
    tensors = _tensors(file)
    try:
        told = _trial(architecture, dict(arguments), tensors)
    except Exception as error:  # whatever timm or torch object to
        raise ValueError(f"does not fit {architecture} with {dict(arguments)}: {_misfit(error)}") from error
    return told + _described_otherwise(architecture, arguments, file.with_name("config.json"))


def _trial(architecture: str, arguments: dict[str, Any], tensors: dict[str, Tensor]) -> list[str]:
    with torch.device("meta"):
        fresh = timm.create_model(architecture, **arguments)
        theirs = _source(fresh, arguments, tensors)
        # Where classes or channels are others, timm asks for no tensor any more: so first as the file has them.
        same = arguments | {"num_classes": theirs["num_classes"], "in_chans": theirs["input_size"][0]}
        for asked in (same, arguments):
            overlay = theirs | {"state_dict": dict(tensors)}
            loaded = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, **asked)
    taken = dict(loaded.named_parameters())
    # Every tensor that is loaded is written to once more than when it was made.
    new = [name for name, made in fresh.named_parameters() if taken[name]._version == made._version]
    head, stem = _names(fresh, "classifier"), _names(fresh, "first_conv")
    if absent := [name for name in new if name.rpartition(".")[0] not in (*head, *stem)]:
        raise ValueError(f"it has no {some(absent)}")
    said = []
    classes, channels = theirs["num_classes"], theirs["input_size"][0]
    if classes != arguments["num_classes"]:
        had = f"the file's is for {classes}" if classes else "the file has none"
        said.append(f"a new head for {arguments['num_classes']} classes ({had})")
    if channels != arguments["in_chans"]:
        how = "are new" if {f"{name}.weight" for name in stem} & set(new) else "are made of the file's"
        said.append(f"weights for {arguments['in_chans']} input channels {how} ({channels})")
    adapted = (*head, *(stem if channels != arguments["in_chans"] else ()))
    resized = [
        f"{name} ({list(tensors[name].shape)} to {list(ours.shape)})"
        for name, ours in fresh.state_dict().items()
        if name in tensors and tensors[name].shape != ours.shape and name.rpartition(".")[0] not in adapted
    ]
    return said + ([f"resized {some(resized)}"] if resized else [])


def load_into_new(architecture: str, arguments: Mapping[str, Any], file: Path) -> nn.Module:
    """A model of timm with the weights of a file, adapted by timm; what it does not take is from torch's generator.

    Raises:
        ValueError: as `trial`.
    """
    with torch.device("meta"):
        shapes = timm.create_model(architecture, **arguments)
    overlay = _source(shapes, arguments, _tensors(file)) | {"file": str(file)}
    try:
        return timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    except Exception as error:  # whatever timm or torch object to
        raise ValueError(f"does not fit {architecture} with {dict(arguments)}: {_misfit(error)}") from error


def _source(model: nn.Module, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What timm has to know of a file: how many classes and input channels its weights are for.

    Args:
        model: the one that is to take them; its layers say which tensors tell it.
    """
    listed: Any = model.pretrained_cfg
    heads = (*_names(model, "classifier"), *_OTHER_HEADS)
    head = next((tensors[f"{name}.weight"] for name in heads if f"{name}.weight" in tensors), None)
    channels, *size = listed["input_size"]
    for name in _names(model, "first_conv"):
        stem, weight = model.get_submodule(name), tensors.get(f"{name}.weight")
        if isinstance(stem, nn.Conv2d) and weight is not None and weight.dim() == 4:
            # By the ratio, since some stems read several neighbouring pixels as channels.
            channels = weight.shape[1] * stem.groups * arguments["in_chans"] // stem.in_channels
            break
    return {"num_classes": 0 if head is None else head.shape[0], "input_size": (channels, *size)}


def _names(model: nn.Module, key: str) -> tuple[str, ...]:
    """The layers that timm lists under ``classifier`` or ``first_conv``."""
    listed: Any = model.pretrained_cfg
    names = listed.get(key)
    return (names,) if isinstance(names, str) else tuple(names or ())


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the meta device; of a safetensors file only the header is read.

    Raises:
        ValueError: where the file is none that can be read.
    """
    try:
        # Of pickled files timm takes tensors and plain containers only, and runs nothing that they ask for.
        tensors = shapes_of(file) if file.suffix == _SAFE else load_state_dict(str(file), device="meta")
    except Exception as error:  # of safetensors, pickle, zip files, torch
        raise ValueError(f"{file.name} cannot be read as weights: {_one_line(error)}") from error
    if not isinstance(tensors, dict) or not any(isinstance(tensor, Tensor) for tensor in tensors.values()):
        held = f" ({some(list(map(str, tensors)))})" if isinstance(tensors, dict) and tensors else ""
        raise ValueError(f"{file.name} holds no tensors{held}")
    return tensors


def _described_otherwise(architecture: str, arguments: Mapping[str, Any], description: Path) -> list[str]:
    """What a config.json beside the weights says of their model that this one is not, though all shapes fit."""
    try:
        told = json.loads(description.read_text())
    except (OSError, ValueError):
        return []
    if not isinstance(told, dict) or not isinstance(told.get("architecture"), str):
        return []
    if told["architecture"] != architecture:
        return [f"config.json says they are those of {told['architecture']}, and the model is a {architecture}"]
    return [
        f"config.json says {key}={written(there)}, and the model has {written(here)}"
        for key, there, here in differences(told.get("model_args") or {}, arguments)
        if key in arguments and key in told["model_args"]
    ]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """``(key, there, here)`` of the arguments of two models that make other models of them; None for an absent one.

    What is adapted to the data is none of them, nor is dropout.
    """
    keys = sorted(key for key in there.keys() | here.keys() if key not in _ADAPTED and "drop" not in key)
    pairs = ((key, *(_listed(given.get(key)) for given in (there, here))) for key in keys)
    return [(key, one, other) for key, one, other in pairs if one != other]


def _listed(value: Any) -> Any:
    """A tuple as the list that YAML and JSON make of it."""
    return [_listed(inner) for inner in value] if isinstance(value, list | tuple) else value


_SIZE = re.compile(r"size mismatch for (\S+): .*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)")


def _misfit(error: Exception) -> str:
    """What torch objects to in a state dict, in fewer words: the first tensors of each kind."""
    text = str(error)
    said = []
    for kind, words in (("Missing", "it has no {}"), ("Unexpected", "the model has no {}")):
        if listed := re.search(rf"{kind} key\(s\) in state_dict: (.*)", text):
            said.append(words.format(some(re.findall(r'"([^"]+)"', listed[1]))))
    if sizes := [f"{name} is [{theirs}] in it and [{ours}] in the model" for name, theirs, ours in _SIZE.findall(text)]:
        said.append(some(sizes))
    return "; ".join(said) or _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
