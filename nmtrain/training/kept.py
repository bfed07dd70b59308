"""What a run folder keeps of its model beside the weights: enough to build it with neither data nor checkpoint there.

``model/shape.json`` is what the model was made to fit, and ``model/preprocessing.json`` what images went through before
it, with the names of the classes. Of a language model there are also ``model/config.json``, the
configuration of transformers, and ``model/tokenizer/``, unless its tokens are bytes.
"""

from __future__ import annotations

from dataclasses import asdict

from nmtrain.config.check import Config
from nmtrain.config.schema import ModelConfig
from nmtrain.data import DataShape, TextShape
from nmtrain.data.images.batches import ImageBatches, Preprocessing
from nmtrain.errors import RunFolderError
from nmtrain.runs.folder import RunFolder, write_whole

_IMAGES = "model/preprocessing.json"
_MODEL, _SHAPE, _ARCHITECTURE, _TOKENIZER = "model", "model/shape.json", "model/config.json", "model/tokenizer"


def keep_model(folder: RunFolder, config: Config) -> None:
    """Write ``model/``; its shape.json last, so that with it all is there."""
    (folder / _MODEL).mkdir(exist_ok=True)
    if isinstance(config.data_shape, TextShape):
        from nmtrain.models.language import build_tokenizer, language_architecture, reads_bytes

        content = language_architecture(config.model, config.data_shape).to_json_string().encode()
        write_whole(folder / _ARCHITECTURE, lambda file: file.write(content))
        if not reads_bytes(config.model):
            build_tokenizer(config.model).save(folder / _TOKENIZER)
    folder.write_json(_SHAPE, asdict(config.data_shape))


def kept_shape(folder: RunFolder) -> DataShape | TextShape | None:
    """The shape of the data that the model was trained on; None in folders of before, which keep nothing.

    Raises:
        RunFolderError: where it cannot be read.
    """
    if not (folder / _SHAPE).exists():
        return None
    written = folder.read_json(_SHAPE)
    try:
        if "labels" in written:
            return TextShape(**written | {"labels": tuple(written["labels"])})
        return DataShape(**written)
    except TypeError as error:
        raise RunFolderError(f"{folder / _SHAPE}: is damaged ({error}); force=true repeats the run") from None


def keep_images(folder: RunFolder, data: ImageBatches) -> None:
    """Write what validation images go through before the model, and the names of its classes."""
    (folder / _MODEL).mkdir(exist_ok=True)
    folder.write_json(_IMAGES, asdict(data.preprocessing) | {"class_names": data.class_names})


def kept_images(folder: RunFolder) -> tuple[Preprocessing, list[str]] | None:
    """What `keep_images` wrote; None in folders of before, and of text.

    Raises:
        RunFolderError: where it cannot be read.
    """
    if not (folder / _IMAGES).exists():
        return None
    written = folder.read_json(_IMAGES)
    try:
        names = written.pop("class_names")
        return Preprocessing(**written), names
    except (TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{folder / _IMAGES}: is damaged ({error}); force=true repeats the run") from None


def kept_model(folder: RunFolder, model: ModelConfig) -> ModelConfig:
    """The same model with what `keep_model` wrote in place of its checkpoint, its hub name and its tokenizer."""
    if not model.reads_text:
        return model  # timm's names and options say all
    from nmtrain.models.language import reads_bytes

    return ModelConfig(
        kind=model.kind,
        name=str((folder / _MODEL).absolute()),
        roles=model.roles,
        options=model.options,
        tokenizer="bytes" if reads_bytes(model) else str((folder / _TOKENIZER).absolute()),
    )


def other_classes(folder: RunFolder, data: object) -> str | None:
    """How the classes of ``data`` are called otherwise than those a run was trained on; None where they are not, or
    nothing is known of their names."""
    images = kept_images(folder)
    if images is None or not isinstance(data, ImageBatches):
        return None
    others = [(now, then) for now, then in zip(data.class_names, images[1], strict=False) if now != then]
    return f"{len(others)} of the classes have other names ({others[0][0]} was {others[0][1]})" if others else None
