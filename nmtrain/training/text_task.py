"""Learning from text: text to text by an encoder-decoder, or one of several labels or a number by an encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import GenerationConfig

from nmtrain.config.schema import TrainConfig
from nmtrain.data import TextShape
from nmtrain.data.text.batches import IGNORED, TextBatch, TextData, ValSet, widths
from nmtrain.data.text.tokens import Tokenizer
from nmtrain.measure import Lengths
from nmtrain.models.language import reads_token_types
from nmtrain.training.distillation import Teacher
from nmtrain.training.distribution.ranks import ALONE, Ranks
from nmtrain.training.distribution.shares import share
from nmtrain.training.task import Work


@dataclass(frozen=True)
class _Part:
    """A micro-batch, and what its summed loss is divided by to be its part of the update's mean."""

    batch: TextBatch
    count: Tensor  # target tokens (or samples) of the whole update, over the number of ranks


class _TextTask:
    """What both tasks share.

    Args:
        model: the stock module itself, not its compiled or distributed wrapper.
    """

    teacher: Teacher | None = None
    _columns = 2  # of the lengths: input and target

    def __init__(self, model: Any, data: TextData, train: TrainConfig, ranks: Ranks = ALONE) -> None:
        self.model, self.data, self.train, self.ranks = model, data, train, ranks
        self.headline, self.signatures = data.headline, data.signatures
        self.damaged: dict[str, str] = {}

    def close(self) -> None:
        """Nothing is read ahead."""

    def lengths(self) -> Lengths:
        """See `Task.lengths`."""
        validation = torch.cat([val.lengths for val in self.data.val_sets.values()])
        return Lengths(
            self.data.train.lengths, validation, lambda update: self.data.train_lengths(update, self.train.batch_size)
        )

    def work(self, total: int) -> Work:
        """Tokens of inputs and targets, and the share of padding among all that the model was given."""
        given = tokens = 0
        for update in range(total):
            lengths = self.data.train_lengths(update, self.train.batch_size)[:, : self._columns]
            tokens += int(lengths.sum())
            given += len(lengths) * sum(widths(lengths))
        return Work("tokens", tokens, 1 - tokens / given)

    def _parts(self, batch: TextBatch, count: Tensor) -> Iterator[_Part]:
        """Equal parts of this rank's share of an update's batch. Each is moved to the device when its turn
        comes."""
        if (world := self.ranks.world) > 1:
            batch, count = batch.at(share(self.train, self.ranks.rank, world)), count / world
        size = self.train.batch_size // self.train.micro_batches // world
        for start in range(0, size * self.train.micro_batches, size):
            yield _Part(batch.part(start, start + size).to(self.model.device), count)

    def _val_batches(self, val: ValSet, batch_size: int) -> Iterator[TextBatch]:
        """Those that are this rank's to score, on the device."""
        for batch in self.ranks.marked(val.batches(batch_size, **self.ranks.turns), "evaluating"):
            yield batch.to(self.model.device)


def generation_settings(model: Any, shape: TextShape, tokenizer: Tokenizer, train: TrainConfig) -> GenerationConfig:
    """How ``model`` writes the answers that are scored: by beams, length penalty and target length, and nothing else.

    To be made the model's own ``generation_config``. A checkpoint brings one of its own (least lengths, forced or
    forbidden tokens, penalties), from which transformers takes all that the settings handed to ``generate`` leave open.
    """
    return GenerationConfig(
        max_new_tokens=shape.target_length,
        num_beams=train.beams,
        length_penalty=train.length_penalty,
        do_sample=False,
        decoder_start_token_id=model.config.decoder_start_token_id,  # as teacher forcing starts
        pad_token_id=tokenizer.pad,
        eos_token_id=tokenizer.end,
    )


class TextToText(_TextTask):
    """Cross entropy of the target's tokens, each given those before it (teacher forcing); a mean over tokens."""

    def __init__(self, model: Any, data: TextData, train: TrainConfig, ranks: Ranks = ALONE) -> None:
        super().__init__(model, data, train, ranks)
        self._start: int = model.config.decoder_start_token_id
        model.generation_config = generation_settings(model, data.shape, data.tokenizer, train)
        self._label_tokens = [[*tokens, data.tokenizer.end] for tokens in data.tokenizer.encode(data.shape.labels)]

    def batches(self, update: int) -> Iterator[_Part]:
        batch = self.data.train_batch(update, self.train.batch_size)
        return self._parts(batch, (batch.labels != IGNORED).sum())

    def loss(self, model: nn.Module, part: _Part) -> Tensor:
        logits = self._logits(model, part.batch)
        labels = part.batch.labels
        loss = _summed_over_tokens(logits, labels, self.train.label_smoothing) / part.count
        if self.teacher is not None:
            given, told = labels != IGNORED, self._logits(self.teacher, part.batch)
            loss = self.teacher.blended(loss, logits[given], told[given], part.count)
        return loss

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch_size: int) -> dict[str, float]:
        """``loss``, ``perplexity`` and ``token_accuracy``, teacher-forced, over the tokens of all validation targets;
        and what the data score, of each validation set, from what the model itself writes. ``invalid``, where there
        are labels, is the share of what it wrote that is none of them; a ranking can choose nothing else."""
        model.eval()
        metrics = self._teacher_forced(model, batch_size)
        if self.headline not in metrics:
            with parametrize.cached():  # sparse weights are made once, not at every token
                writes = self.train.score_by == "generation"
                metrics |= _scores(self.data, lambda val: self._predictions(val, batch_size), count_invalid=writes)
        model.train()
        return metrics

    def _teacher_forced(self, model: nn.Module, batch_size: int) -> dict[str, float]:
        loss = correct = count = torch.zeros((), dtype=torch.float64)
        for val in self.data.val_sets.values():
            for batch in self._val_batches(val, batch_size):
                logits = self._logits(model, batch)
                loss = loss + _summed_over_tokens(logits, batch.labels, 0.0).double()
                correct = correct + (logits.argmax(-1) == batch.labels).sum()
                count = count + (batch.labels != IGNORED).sum()
        total, right, tokens = self.ranks.summed(loss, correct, count)
        mean = total / tokens
        return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "token_accuracy": right / tokens}

    def _logits(self, model: nn.Module | Teacher, batch: TextBatch) -> Tensor:
        """``[batch, length, vocabulary]``."""
        logits: Tensor = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            decoder_input_ids=self._shifted(batch.labels),
            use_cache=False,
        ).logits.float()
        return logits

    def _shifted(self, labels: Tensor) -> Tensor:
        """What the decoder reads while it writes ``labels``."""
        before = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, self.data.tokenizer.pad)
        return torch.cat([before.new_full((len(labels), 1), self._start), before], 1)

    def _predictions(self, val: ValSet, batch_size: int) -> list[str]:
        write = self._ranked if self.train.score_by == "ranking" else self._generated
        written = [write(batch) for batch in self._val_batches(val, batch_size)]
        return _in_order(val, self.ranks.whole(written))

    def _generated(self, batch: TextBatch) -> list[str]:
        tokens = self.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=self.model.generation_config,
            synced_gpus=False,  # ranks have batches of their own, of whole weights
        )
        return [self.data.tokenizer.decode(row[1:]) for row in tokens.tolist()]  # without the start token

    def _ranked(self, batch: TextBatch) -> list[str]:
        """The label whose tokens are most likely, summed over them, end token included."""
        encoded = self.model.get_encoder()(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        scores = []
        for word in self._label_tokens:
            labels = torch.tensor([word], device=self.model.device).expand(len(batch.input_ids), -1)
            logits = self.model(
                encoder_outputs=encoded, attention_mask=batch.attention_mask, decoder_input_ids=self._shifted(labels)
            ).logits.float()
            scores.append(logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).sum((1, 2)))
        return [self.data.shape.labels[i] for i in torch.stack(scores).argmax(0).tolist()]


def _summed_over_tokens(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """The model's own loss would be a mean."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=label_smoothing)


class TextClassification(_TextTask):
    """Cross entropy over the data's labels, for an encoder with a classifier's head."""

    _columns = 1  # targets are classes, not tokens

    def __init__(self, model: Any, data: TextData, train: TrainConfig, ranks: Ranks = ALONE) -> None:
        super().__init__(model, data, train, ranks)
        self._reads_types = reads_token_types(model)

    def batches(self, update: int) -> Iterator[_Part]:
        batch = self.data.train_batch(update, self.train.batch_size)
        return self._parts(batch, torch.tensor(self.train.batch_size))

    def loss(self, model: nn.Module, part: _Part) -> Tensor:
        logits = self._logits(model, part.batch)
        loss = self._summed_loss(logits, _classes(part.batch), self.train.label_smoothing) / part.count
        if self.teacher is not None:
            loss = self.teacher.blended(loss, logits, self._logits(self.teacher, part.batch), part.count)
        return loss

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch_size: int) -> dict[str, float]:
        """``loss`` over all validation samples, and what the data score of the model's answers."""
        model.eval()
        loss = torch.zeros((), dtype=torch.float64)

        def predictions(val: ValSet) -> list[str]:
            answers: list[list[str]] = []
            for batch in self._val_batches(val, batch_size):
                logits = self._logits(model, batch)
                loss.add_(self._summed_loss(logits, _classes(batch), 0.0).double().cpu())
                answers.append(self._answers(logits))
            return _in_order(val, self.ranks.whole(answers))

        scores = _scores(self.data, predictions)
        model.train()
        return {"loss": self.ranks.summed(loss)[0] / self.data.shape.val_size, **scores}

    def _logits(self, model: nn.Module | Teacher, batch: TextBatch) -> Tensor:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        reads_types = reads_token_types(model.model) if isinstance(model, Teacher) else self._reads_types
        if batch.token_types is not None and reads_types:
            inputs["token_type_ids"] = batch.token_types
        logits: Tensor = model(**inputs).logits.float()
        return logits

    def _summed_loss(self, logits: Tensor, classes: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(logits, classes, reduction="sum", label_smoothing=label_smoothing)

    def _answers(self, logits: Tensor) -> list[str]:
        """The most likely labels."""
        return [self.data.shape.labels[i] for i in logits.argmax(1).tolist()]


class TextRegression(TextClassification):
    """Squared error of one number, for an encoder with a head of one output."""

    def _summed_loss(self, logits: Tensor, numbers: Tensor, label_smoothing: float) -> Tensor:
        return F.mse_loss(logits.squeeze(1), numbers, reduction="sum")

    def _answers(self, logits: Tensor) -> list[str]:
        """The numbers themselves, to the last digit."""
        return [str(number) for number in logits.squeeze(1).tolist()]


def _classes(batch: TextBatch) -> Tensor:
    assert batch.classes is not None, "free text has no classes; the config's checks refuse it"
    return batch.classes


def _in_order(val: ValSet, texts: list[str]) -> list[str]:
    """Texts in the order of the references; they come in the order of the batches."""
    return [text for _, text in sorted(zip(val.order.tolist(), texts, strict=True))]


def _scores(
    data: TextData, predictions: Callable[[ValSet], list[str]], count_invalid: bool = False
) -> dict[str, float]:
    """The metrics of each validation set, named after it; the headline is their mean where there are several."""
    metrics: dict[str, float] = {}
    for name, val in data.val_sets.items():
        given = predictions(val)
        scores = val.score(given)
        if count_invalid and val.is_label is not None:
            scores["invalid"] = fmean(not val.is_label(text) for text in given)
        metrics |= {f"{metric}_{name}" if name else metric: value for metric, value in scores.items()}
    if data.headline not in metrics:
        metrics[data.headline] = fmean(metrics[f"{data.headline}_{name}"] for name in data.val_sets)
    return metrics
