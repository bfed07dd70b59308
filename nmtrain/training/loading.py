"""The task of a config: its data, what its model learns from them, and whether they are those that a run began with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from nmtrain.config.check import Config
from nmtrain.data import load_data, local_digests
from nmtrain.data.digest import EXAMPLES, changed_files, file_digests
from nmtrain.data.images.batches import ImageBatches
from nmtrain.training.distribution.ranks import ALONE, Ranks
from nmtrain.training.image_task import ImageClassification
from nmtrain.training.task import Task


def load_task(config: Config, model: nn.Module, device: torch.device, ranks: Ranks = ALONE) -> Task:
    """The data of a config, and what its model learns from them.

    Args:
        model: on ``device``; the stock module itself, not its compiled or distributed wrapper.

    Raises:
        DataError: if the data cannot be read.
    """
    if not config.model.reads_text:
        images = load_data(**config.data, seed=config.seed)
        assert isinstance(images, ImageBatches)
        return ImageClassification(images.to(device), config.train, config.seed, ranks)
    from nmtrain.data.text.batches import TextData
    from nmtrain.models.language import build_tokenizer
    from nmtrain.training.text_task import TextClassification, TextRegression, TextToText

    classifies = config.model.kind == "text_classifier"
    text = load_data(
        **config.data, seed=config.seed, tokenizer=build_tokenizer(config.model), for_classifier=classifies
    )
    assert isinstance(text, TextData)
    if not classifies:
        return TextToText(model, text, config.train, ranks)
    return (TextRegression if text.shape.is_regression else TextClassification)(model, text, config.train, ranks)


def load_same_task(
    config: Config,
    model: nn.Module,
    device: torch.device,
    ranks: Ranks,
    before: dict[str, str],
    refuse: Callable[[str], None],
) -> tuple[Task, dict[str, str]]:
    """`load_task`, and what the data are: a digest of each local file that they are read from, of those that describe a
    checkpoint and its tokenizer, and of all examples.

    Args:
        before: the digests when the run began; empty where they are not known.
        refuse: is told what is not as it was, files before anything is read of them.
    """
    now = input_digests(config)
    names = changed_files(before, now) if before else []
    if names:
        refuse(other_files(names))
    task = load_task(config, model, device, ranks)
    now[EXAMPLES] = task.data.digest()
    if before and before[EXAMPLES] != now[EXAMPLES] and not names:
        refuse(other_examples(config))
    return task, now


def other_files(names: list[str]) -> str:
    """That files are not as they were."""
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not what this run began with"


def other_examples(config: Config) -> str:
    """That the examples are not as they were, though no file says so."""
    return f"the examples of data={config.data['name']} are not what this run began with"


def input_digests(config: Config) -> dict[str, str]:
    """Of the local files that the data are read from, and of those that describe a checkpoint and its tokenizer."""
    digests = local_digests(**config.data)
    if not config.model.reads_text:
        return digests
    from nmtrain.models.language import checkpoint_files

    return digests | file_digests(checkpoint_files(config.model))
