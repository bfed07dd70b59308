"""Shared by all tests: one torch thread per worker, no network, small configs to run, and the command line."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"

# A run of a second: 12 updates of a one-layer ViT on scanned digits.
TINY = [
    "experiment=smoke",
    "sparsity=1:8",
    "train.updates=12",
    "train.batch_size=32",
    "train.log_every=5",
    "train.keep_after=true",  # tests go on from the checkpoints of a finished run
    "train.eval_every=0.12",  # every fourth update
    "model.options.depth=1",
    "model.options.embed_dim=64",
]


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Command-line overrides of a run of a second, in a results folder of its own."""
    return [*TINY, f"results_dir={tmp_path}/runs"]


@pytest.fixture
def make_config(tiny: list[str]) -> Callable:
    """A checked tiny config with further overrides, as the command line would give it."""

    def make(*overrides: str):
        from nmtrain.config.check import check_config
        from nmtrain.config.compose import compose_values, prepare_overrides

        return check_config(compose_values(prepare_overrides([*tiny, *overrides])))

    return make


@pytest.fixture(autouse=True)
def _handlers_as_before():
    """The terminal handlers of a command, ours and Hydra's, belong to its test's captured output; so do levels."""
    loggers = [logging.getLogger("nmtrain"), logging.getLogger()]
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture
def nm(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder of its own: ``status, stdout, stderr``."""
    from nmtrain import cli

    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["nmtrain"])

    def command(*arguments):
        try:
            status = cli._main(list(arguments))
        except SystemExit as end:  # Hydra's own commands
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return command


@pytest.fixture
def refused(nm):
    """The message of a command that must be refused, before anything is read or written."""

    def message(*arguments):
        status, out, err = nm(*arguments)
        assert status == 2, (out, err)
        assert out == ""
        assert err.endswith("\n")
        assert list(Path.cwd().iterdir()) == []
        return err.removesuffix("\n")

    return message


@pytest.fixture
def registries_as_before(monkeypatch):
    """What a test registers or a command of it loads is gone after it; folders of the environment are not loaded."""
    from nmtrain import data, recipes
    from nmtrain.launch import plugins
    from nmtrain.models import registry
    from nmtrain.runs import loaded

    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    held = [recipes.RECIPES, data._SOURCES, registry._BUILDERS, registry._ROLE_MAPS, plugins._CONF]
    lists = [loaded.LOADED, plugins._FOLDERS]
    before = [dict(names) for names in held]
    plugins._load_packages.cache_clear()
    yield
    plugins._load_packages.cache_clear()
    for names, content in zip(held, before, strict=True):
        names.clear()
        names.update(content)
    for found in lists:
        found.clear()
    for name in [name for name in sys.modules if name.startswith("nmtrain_plugins_")]:
        del sys.modules[name]


CUBIC = """\
from dataclasses import dataclass

from nmtrain.recipes import Recipe, SparsityState, register


@register
@dataclass(frozen=True, kw_only=True)
class Cubic(Recipe):
    name = "cubic"
    options = ("gradient", "finetune_fraction")

    def between(self, done, length):
        return SparsityState(self.target, (1 - done / length) ** 3, self.gradient)
"""


@pytest.fixture
def own(tmp_path, registries_as_before) -> Callable:
    """Make a folder of one's own with ``files`` (path: content), and the recipe cubic if there are none."""

    def make(files: dict[str, str] | None = None, name: str = "my folder, a=b") -> Path:
        folder = tmp_path / name
        yaml = "# The mask decays as (1 - j/L)^3.\nname: cubic\ngradient: masked\nfinetune_fraction: 0.1\n"
        for path, content in ({"cubic.py": CUBIC, "recipe/cubic.yaml": yaml} if files is None else files).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content)
        folder.mkdir(exist_ok=True)
        return folder

    make.cubic = CUBIC
    return make


_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4}
_T5 |= {"decoder_start_token_id": 1}
_BART = {f"{stack}_{size}": n for stack in ("encoder", "decoder") for size, n in (("ffn_dim", 64), ("layers", 1))}
_BART |= {"d_model": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
_BERT = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_BERT |= {"max_position_embeddings": 64}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
# Tiny architectures of transformers: kind of model, type, options.
FAMILIES = {
    "t5": ("text_to_text", "t5", _T5),
    "t5_v1_1": ("text_to_text", "t5", _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("text_to_text", "mt5", _T5),
    "umt5": ("text_to_text", "umt5", _T5),
    "byt5": ("text_to_text", "t5", _T5 | {"vocab_size": 384, "decoder_start_token_id": 0}),
    "longt5_local": ("text_to_text", "longt5", _T5 | {"local_radius": 7}),
    "longt5_global": (
        "text_to_text",
        "longt5",
        _T5 | {"local_radius": 7, "global_block_size": 4, "encoder_attention_type": "transient-global"},
    ),
    "bart": ("text_to_text", "bart", _BART),
    "mbart": ("text_to_text", "mbart", _BART),
    "pegasus": ("text_to_text", "pegasus", _BART | {"decoder_start_token_id": 1}),
    "marian": ("text_to_text", "marian", _BART | {"decoder_start_token_id": 1}),
    "blenderbot": ("text_to_text", "blenderbot", _BART),
    "blenderbot_small": ("text_to_text", "blenderbot-small", _BART),
    "m2m_100": ("text_to_text", "m2m_100", _BART),
    "plbart": ("text_to_text", "plbart", _BART),
    "led": (
        "text_to_text",
        "led",
        _BART | {"attention_window": 8, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64},
    ),
    "bert": ("text_classifier", "bert", _BERT),
    "roberta": ("text_classifier", "roberta", _BERT),
    "electra": ("text_classifier", "electra", _BERT | {"embedding_size": 32}),
    "deberta": ("text_classifier", "deberta", _BERT),
    "deberta_relative": ("text_classifier", "deberta", _BERT | _RELATIVE),
    "deberta_v2": (
        "text_classifier",
        "deberta-v2",
        _BERT | _RELATIVE | {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 16},
    ),
    "distilbert": (
        "text_classifier",
        "distilbert",
        {"dim": 64, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
    ),
}
_WORDS = ["<s>", "<pad>", "</s>", "<unk>", *"0123456789[]", "MIN", "MAX", "MED", "SM"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable:
    """A folder as from_pretrained reads it: a member of `FAMILIES` with random weights, and a tokenizer of words.

    Its ids are RoBERTa's: <s> 0, <pad> 1, </s> 2, <unk> 3. ``settings`` are further ones of the configuration.
    """

    def make(family: str, **settings) -> Path:
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import (
            AutoConfig,
            AutoModelForSeq2SeqLM,
            AutoModelForSequenceClassification,
            PreTrainedTokenizerFast,
        )

        from nmtrain.data.text.tokens import ByteTokenizer

        folder = tmp_path / family
        kind, model_type, options = FAMILIES[family]
        tokens = {"vocab_size": len(_WORDS), "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
        if family == "byt5":
            tokens |= {"pad_token_id": 0, "eos_token_id": 1}
            ByteTokenizer().save(folder)
        else:
            raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token="<unk>"))
            raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            special = [("<s>", 0), ("</s>", 2)]
            raw.post_processor = processors.TemplateProcessing(
                single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=special
            )
            names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
            PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained(folder)
        torch.manual_seed(0)
        library = AutoModelForSeq2SeqLM if kind == "text_to_text" else AutoModelForSequenceClassification
        config = AutoConfig.for_model(model_type, **(tokens | options | settings))
        library.from_config(config).save_pretrained(folder)
        return folder

    make.families = FAMILIES
    return make


@pytest.fixture
def stopped() -> Callable:
    """Train a config, and leave its folder as a kill after the checkpoint at update 2 would. Returns the summary."""

    def leave(config):
        from nmtrain.training.run import run

        summary = run(replace(config, train=config.train.model_copy(update={"keep": 1000, "keep_after": True})))
        for path in (config.run_folder / "checkpoints").iterdir():
            if int(path.name.split("-")[0]) > 2:
                path.unlink()
        for name in ("summary.json", "model.safetensors"):
            (config.run_folder / name).unlink()
        (config.run_folder / "status.json").write_text('{"state": "running", "reason": null}')
        return summary

    return leave
