"""What a model writes depends on beams, length penalty and target length, whatever its checkpoint's folder says."""

import json

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import ConfigError
from nmtrain.models import build_model
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run
from nmtrain.training.loading import load_task
from nmtrain.training.run import run
from nmtrain.training.text_task import TextToText

DATA = ["data=wmt", "data.pair=en-de", "data.target_length=12", "data.input_length=16"]
SHORT = ["train=text", "train.updates=2", "train.batch_size=4", "train.eval_every=1", "measure=off", "sparsity=1:4"]

# An odd value of every setting that decides which tokens `generate` gives back, and how.
ODD = {
    "max_length": 3,
    "max_new_tokens": 2,
    "min_length": 9,
    "min_new_tokens": 9,
    "early_stopping": "never",
    "max_time": 0.0001,
    "stop_strings": ["3"],
    "do_sample": True,
    "num_beams": 4,
    "use_cache": False,
    "cache_implementation": "static",
    "temperature": 9.0,
    "top_k": 2,
    "top_p": 0.1,
    "min_p": 0.5,
    "top_h": 0.5,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "repetition_penalty": 50.0,
    "encoder_repetition_penalty": 50.0,
    "length_penalty": -9.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[5], [6], [7], [8], [9]],
    "renormalize_logits": True,
    "forced_bos_token_id": 4,
    "forced_eos_token_id": 4,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [1, 90.0],
    "suppress_tokens": [4, 5, 6, 7, 8, 9],
    "begin_suppress_tokens": [4, 5, 6, 7, 8, 9],
    "sequence_bias": [[[5], 90.0]],
    "token_healing": True,
    "guidance_scale": 9.0,
    "watermarking_config": {"greenlist_ratio": 0.1, "bias": 90.0},
    "num_return_sequences": 4,
    "output_scores": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict_in_generate": True,
    "pad_token_id": 9,
    "bos_token_id": 9,
    "eos_token_id": 9,
    "decoder_start_token_id": 9,
    "prompt_lookup_num_tokens": 2,
    "num_assistant_tokens": 1,
    "penalty_alpha": 0.9,
    "dola_layers": "high",
    "diversity_penalty": 0.5,
    "num_beam_groups": 2,
    "constraints": ["x"],
    "force_words_ids": [[4]],
    "low_memory": True,
    "prefill_chunk_size": 1,
    "is_assistant": True,
    "disable_compile": True,
}
# Those that stand in config.json by right: the model is trained by them.
OF_THE_MODEL = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


@pytest.fixture
def make_config(tmp_path):
    words = ["1 2 3 [ MAX 4 5 ]", "SM 7 7", "MIN 0 9 2 [ MED 1 2 3 ]", "8 8 8 8"]
    (tmp_path / "wmt").mkdir()
    for split in ("train", "validation"):
        for language in ("en", "de"):
            (tmp_path / "wmt" / f"{split}.{language}").write_text("\n".join(words) + "\n")

    def make(folder, *overrides):
        line = ["model=t5", f"model.pretrained={folder}", *DATA, f"data.path={tmp_path}/wmt", *SHORT]
        line += [f"results_dir={tmp_path}/runs", f"data.cache_dir={tmp_path}/cache", *overrides]
        return check_config(compose_values(prepare_overrides(line)))

    return make


@pytest.fixture
def folder(checkpoint):
    """A BART that writes something else for each input, and that a setting can easily make write something else."""
    return checkpoint("bart", init_std=0.7)


def task_of(config, data=None):
    torch.manual_seed(0)
    model = build_model(config.model, config.data_shape).eval()
    return TextToText(model, data, config.train) if data else load_task(config, model, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["train.beams=1"], ["train.beams=3", "train.length_penalty=0.6"]])
def test_no_setting_of_a_checkpoint_changes_what_is_written(overrides, folder, make_config):
    config = make_config(folder, *overrides)
    data = task_of(config).data
    (batch,) = data.val_sets[""].batches(4)

    @torch.no_grad()
    def written():
        return task_of(config, data)._generated(batch)

    expected = written()
    assert len(set(expected)) == 4
    assert all(expected)
    for file in ("generation_config.json", "config.json"):
        before = (folder / file).read_text()
        for name, value in ODD.items():
            if file == "config.json" and name in OF_THE_MODEL:
                continue
            (folder / file).write_text(json.dumps(json.loads(before) | {name: value}))
            assert written() == expected, (name, file)
        (folder / file).write_text(before)


def test_beams_and_length_penalty_do_change_what_is_written(folder, make_config):
    written = []
    for overrides in ([], ["train.beams=4"], ["train.beams=4", "train.length_penalty=-4.0"]):
        task = task_of(make_config(folder, *overrides))
        (batch,) = task.data.val_sets[""].batches(4)
        with torch.no_grad():
            written.append(tuple(task._generated(batch)))
    assert len(set(written)) == 3


def test_a_length_penalty_divides_the_sum_of_log_likelihoods_by_the_length_to_its_power(folder, make_config):
    """Beams as many as there are continuations miss none: the one written has the best score of all."""
    penalty = 0.6
    config = make_config(folder, "train.beams=2", f"train.length_penalty={penalty}")
    task = task_of(config)
    size = task.model.config.vocab_size
    task.model.generation_config.max_new_tokens, task.model.generation_config.num_beams = 2, size
    (batch,) = task.data.val_sets[""].batches(4)
    words = [(2,), *((word, end) for word in range(size) if word != 2 for end in range(size))]  # 2 ends a text
    with torch.no_grad():
        for row in range(4):
            inputs = {
                "input_ids": batch.input_ids[row : row + 1],
                "attention_mask": batch.attention_mask[row : row + 1],
            }
            logits = task.model(**inputs, decoder_input_ids=torch.tensor([[2]])).logits[0, 0].log_softmax(-1)
            scores = {}
            for answer in words:
                score = logits[answer[0]]
                if len(answer) == 2:
                    prefix = torch.tensor([[2, answer[0]]])
                    score = (
                        score + task.model(**inputs, decoder_input_ids=prefix).logits[0, 1].log_softmax(-1)[answer[1]]
                    )
                scores[answer] = float(score) / len(answer) ** penalty
            best = max(scores, key=scores.get)
            given = task.model.generate(**inputs)[0, 1:].tolist()
            assert given[: len(best)] == list(best)


@pytest.mark.parametrize("overrides", [[], ["train.beams=3", "train.length_penalty=0.6"]])
def test_an_export_writes_by_itself_what_was_scored(overrides, folder, make_config, tmp_path):
    odd = {"min_length": 15, "num_return_sequences": 7, "temperature": 3.0, "forced_bos_token_id": 4}  # invalid, too
    (folder / "generation_config.json").write_text(json.dumps(odd))
    config = make_config(folder, "recipe=ste", *overrides)
    summary = run(config)
    assert evaluate_run(config.run_folder)["metrics"]["val/bleu"] == summary["metrics"]["val/bleu"]
    export_run(config.run_folder, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings.pop("transformers_version")
    beams, penalty = (3, 0.6) if overrides else (1, 1.0)
    assert settings == {
        "max_new_tokens": 12,
        "num_beams": beams,
        "length_penalty": penalty,
        "do_sample": False,
        "decoder_start_token_id": 2,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    lines = (tmp_path / "wmt" / "validation.en").read_text().splitlines()
    inputs = tokenizer([f"translate English to German: {line}" for line in lines], padding=True, return_tensors="pt")
    rows = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    task = task_of(config)
    val = task.data.val_sets[""]
    scored = val.score(tokenizer.batch_decode([row[1:] for row in rows.tolist()], skip_special_tokens=True))
    assert scored["bleu"] == summary["metrics"]["val/bleu"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model=t5"], "train.length_penalty=0.6: has no effect with train.beams=1"),
        (["model=bert"], "train.length_penalty=0.6: has no effect with model.kind=text_classifier"),
        (["model=vit"], "train.length_penalty=0.6: has no effect with model.kind=image_classifier"),
        (
            ["model=t5", "data=text", "train.beams=2"],
            "train.beams=2: has no effect with data=text, which is not generated\n"
            "train.length_penalty=0.6: has no effect with data=text, which is not generated",
        ),
        (
            ["model=t5", "train.score_by=ranking"],
            "train.length_penalty=0.6: has no effect with train.score_by=ranking",
        ),
    ],
)
def test_a_length_penalty_without_effect_is_refused(overrides, line, tmp_path):
    line_of = [*overrides, "train.length_penalty=0.6", f"results_dir={tmp_path}"]
    with pytest.raises(ConfigError) as refused:
        check_config(compose_values(prepare_overrides(line_of)))
    assert str(refused.value) == line
