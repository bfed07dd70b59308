"""Batches and digests stay what they were, to the bit: a run begun with an older version must go on as it began."""

import hashlib
import json
import random

import pytest

from nmtrain.data import load_data
from nmtrain.data.text.batches import TextBatch
from nmtrain.data.text.tokens import ByteTokenizer, Framed

WORDS = ["a", "the", "red", "green", "house", "tree", "runs", "sleeps", "often", "ä", "für", "größer", "naïve", "学习"]


class WithTypes(ByteTokenizer):
    """Pairs as BERT's kind of tokenizer puts them."""

    fingerprint = "bytes with types"

    def frame(self, texts, longest):
        types = ([0] * (len(first.encode()) + 1) + [1] * (len(second.encode()) + 1) for first, second in texts)
        return [
            Framed(one.ids, kind[: len(one.ids)], one.is_cut)
            for one, kind in zip(super().frame(texts, longest), types, strict=True)
        ]


def sentences(name: str, count: int) -> list[str]:
    draw = random.Random(name)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(30))) for _ in range(count)]


def write_wmt(folder):
    for split, count in (("train", 2500), ("validation", 30)):
        for language in ("en", "de"):
            lines = "".join(line + "\n" for line in sentences(f"{split} {language}", count))
            (folder / f"{split}.{language}").write_text(lines, encoding="utf-8")


def write_corpus(folder):
    for name, count in (("a", 900), ("b", 1500)):
        (folder / f"{name}.txt").write_text("\n".join(sentences(name, count)), encoding="utf-8")


def write_glue(folder):
    for split, count in (("train", 1200), ("validation", 30)):
        columns = [sentences(f"{split} {column}", count) for column in ("one", "two")]
        rows = [{"sentence1": one, "sentence2": two, "label": len(one) % 2} for one, two in zip(*columns, strict=True)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def of(batches) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for batch in batches:
        assert isinstance(batch, TextBatch)
        for tensor in (batch.input_ids, batch.attention_mask, batch.labels, batch.classes, batch.token_types):
            digest.update(b"none" if tensor is None else str((tensor.dtype, *tensor.shape)).encode())
            digest.update(b"" if tensor is None else tensor.numpy().tobytes())
    return digest.hexdigest()


SETS = {
    "wmt": (write_wmt, {"input_length": 90}),
    "wmt some": (write_wmt, {"train_size": 1700, "val_size": 11, "pair": "de-en"}),
    "text": (write_corpus, {"window": 32, "val_fraction": 0.3}),
    "text test": (write_corpus, {"window": 33, "test_fraction": 0.2, "evaluate": "test"}),
    "glue": (write_glue, {"task": "mrpc"}),
    "glue pairs": (write_glue, {"task": "mrpc", "for_classifier": True, "input_length": 40}),
    "glue types": (write_glue, {"task": "mrpc", "for_classifier": True, "tokenizer": WithTypes()}),
    "g2p": (None, {}),
    "listops": (None, {"train_size": 3000, "val_size": 50, "test_size": 50}),
}
# Hashes of training batches and of validation batches, and the digest.
BEFORE = {
    "wmt": ("fbf82aed0ede9e50", "aed649c914aafc70", "e22c6845a1805a7b12b56f2a48013fc2"),
    "wmt some": ("dc899ff22d061d30", "d15817ea6537df23", "5654730bc7ca771535cbc9c0a1ab032e"),
    "text": ("8fd812e155ddc26d", "d62e11906fef5cf7", "b0990431d33d7ed67e33af91b36ab8a1"),
    "text test": ("d4ea7f82dc63cfb6", "153a0f79722cd093", "7258dbdebd3097dd999e83cab064d542"),
    "glue": ("a2e30c4e8563af58", "5a230ccf629ea2c1", "a06e6bafb9a2834405bd6e61c3b704a5"),
    "glue pairs": ("a3ecd89ac062ec38", "f9997a677e05185d", "39886b58e6308768de1909b5020d99ba"),
    "glue types": ("59b61215a1394ee8", "a6855c8eb89d754b", "9dc7d3b7fb3503dc1936b36e3047770d"),
    "g2p": ("861895cfb9629434", "8708416640a3240d", "8ead58f3ffca48db728de34b3e1535ac"),
    "listops": ("67b731bdfdd96136", "33e88cf861e04d80", "3775eada40ca8f15e9fd0df597819579"),
}


@pytest.mark.parametrize("name", SETS)
def test_batches_and_digest_are_those_of_before_texts_were_mapped(name, tmp_path):
    write, options = SETS[name]
    if write is not None:
        (tmp_path / "set").mkdir()
        write(tmp_path / "set")
        options = {"path": str(tmp_path / "set")} | options
    if name != "g2p":
        options = {"cache_dir": str(tmp_path / "cache")} | options
    source = name.split()[0]
    for _ in range(2):  # made, and from the cache
        data = load_data(source, **{"seed": 3, "tokenizer": ByteTokenizer()} | options)
        train = [data.train_batch(update, 24) for update in (*range(20), 1000)]
        val = [batch for part in data.val_sets.values() for batch in part.batches(7)]
        assert (of(train), of(val), data.digest()) == BEFORE[name]
