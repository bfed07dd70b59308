"""Trees and shards of tiny images in the forms that people have."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


def encoded(label: object, format: str = "PNG") -> bytes:
    colour = label if isinstance(label, int) else 0
    content = io.BytesIO()
    Image.new("RGB", (8, 6), (colour % 256, 0, 0)).save(content, format)
    return content.getvalue()


@pytest.fixture
def grow(tmp_path: Path) -> Callable:
    """Make a tree of ``names`` below a folder: what ends like an image is one, the rest is text."""

    def make(*names: str, folder: str = "my photos, ü") -> Path:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for number, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            is_image = name.lower().endswith((".jpg", ".jpeg", ".png"))
            (root / name).write_bytes(encoded(number) if is_image else b"file_name,label\n")
        return root

    return make


@pytest.fixture
def shard() -> Callable:
    """Write labelled images to a file: Parquet or tar, by its suffix."""

    def make(file: Path, labels, names: list[str] | None = None, **how) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        (_parquet if file.suffix == ".parquet" else _tar)(file, list(labels), names, **how)
        return file

    make.encoded = encoded
    return make


def _parquet(file: Path, labels, names, statistics: bool = True, image: str = "image") -> None:
    import datasets
    import pyarrow
    from pyarrow import parquet

    rows = {image: [{"bytes": encoded(label), "path": f"{n}.png"} for n, label in enumerate(labels)], "label": labels}
    table = pyarrow.table(rows)
    if names is not None:
        features = datasets.Features({image: datasets.Image(), "label": datasets.ClassLabel(names=names)})
        table = table.cast(features.arrow_schema)
    parquet.write_table(table, file, row_group_size=2, write_statistics=statistics)


def _tar(file: Path, labels, names, suffixes: tuple[str, ...] = ("jpg",), label_in: str = "cls") -> None:
    with tarfile.open(file, "w") as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        for number, label in enumerate(labels):
            suffix = suffixes[number % len(suffixes)]
            add(f"{file.stem}/{number:04}.{suffix}", encoded(label, "PNG" if suffix == "png" else "JPEG"))
            add(f"{file.stem}/._{number:04}.{suffix}", b"left by another system")
            content = json.dumps({"caption": "a, b", "label": label}) if label_in == "json" else str(label)
            add(f"{file.stem}/{number:04}.{label_in}", content.encode())
