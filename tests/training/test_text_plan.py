"""What planning finds out about a language model: texts that it cannot take, and dropout that it keeps."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.config.schema import ModelConfig
from nmtrain.data.source import TextShape
from nmtrain.errors import ConfigError
from nmtrain.models import build_model
from nmtrain.models.indices import RealIndices
from nmtrain.models.language import language_architecture
from nmtrain.training.plan import make_plan, shape_faults
from nmtrain.training.text_plan import require_texts_fit

# How many tokens of input and of target go through; None where there is no limit. All have 64 positions: RoBERTa's
# begin behind the padding id 1, M2M100 makes more as they are needed, and relative positions are not counted out.
USABLE = {
    "t5": (None, None),
    "longt5_local": (None, None),
    "bart": (64, 64),
    "mbart": (64, 64),
    "pegasus": (64, 64),
    "marian": (64, 64),
    "blenderbot": (64, 64),
    "blenderbot_small": (64, 64),
    "plbart": (64, 64),
    "m2m_100": (None, None),
    "led": (64, 64),
    "bert": (64, None),
    "roberta": (62, None),
    "electra": (64, None),
    "deberta": (64, None),
    "deberta_v2": (None, None),
    "distilbert": (64, None),
}


def config_of(checkpoint, family, tmp_path, *overrides, **settings):
    data = {"text_to_text": ["model=t5", "data=wmt"], "text_classifier": ["model=bert", "data=glue"]}
    line = [*data[checkpoint.families[family][0]], f"model.pretrained={checkpoint(family, **settings)}"]
    line += ["train=text", "train.updates=2", "train.batch_size=2", "sparsity=1:4", f"results_dir={tmp_path}/runs"]
    return check_config(compose_values(prepare_overrides([*line, "data.input_length=40", *overrides])))


def plan_faults(config):
    with pytest.raises(ConfigError) as refused:
        make_plan(config)
    assert shape_faults([config]) == refused.value.faults
    return refused.value.faults


@pytest.mark.parametrize("family", USABLE)
def test_longer_texts_than_a_model_has_positions_for_are_refused_when_planning(family, checkpoint, tmp_path):
    source, target = USABLE[family]
    config = config_of(checkpoint, family, tmp_path)
    of_targets = config.model.kind == "text_to_text"
    with torch.device("meta"), RealIndices():
        model = build_model(config.model, config.data_shape, pretrained=False)

    def faults(source, target):
        data = config.data | {"input_length": source, "target_length": target}
        shape = replace(config.data_shape, input_length=source, target_length=target)
        try:
            require_texts_fit(replace(config, data=data, data_shape=shape), model)
        except ValueError as error:
            return str(error).splitlines()
        return []

    assert faults(source or 70, target or 70) == []
    assert faults(70, 70) == [
        f"data.{what}_length=70: gives {what}s of up to 70 tokens, and the model has positions for {usable};"
        f" allowed: {what}s of at most {usable} tokens"
        for what, usable in (("input", source), ("target", target))
        if usable is not None
    ]

    # That is what the real model does, at the longest text and at one that is longer by a token.
    real = build_model(config.model, config.data_shape).eval()

    def goes_through(source, target):
        inputs = {"input_ids": torch.full((1, source), 5), "attention_mask": torch.ones(1, source, dtype=torch.long)}
        try:
            real(**inputs, **({"decoder_input_ids": torch.full((1, target), 5)} if of_targets else {}))
        except (IndexError, RuntimeError):
            return False
        return True

    assert goes_through(source or 70, target or 70)
    assert source is None or not goes_through(source + 1, 1)
    assert target is None or not goes_through(1, target + 1)


def test_a_text_that_is_too_long_is_a_fault_of_the_config(checkpoint, tmp_path):
    config = config_of(checkpoint, "roberta", tmp_path, "data.input_length=63")
    assert plan_faults(config) == [
        "data.input_length=63: gives inputs of up to 63 tokens, and the model has positions for 62;"
        " allowed: inputs of at most 62 tokens"
    ]
    line = ["model=bert", f"model.pretrained={tmp_path}/roberta", f"results_dir={tmp_path}/runs"]
    listops = check_config(compose_values(prepare_overrides([*line, "data=listops", "data.max_length=64"])))
    assert plan_faults(listops) == [
        "data.max_length=64: gives inputs of up to 66 tokens, and the model has positions for 62;"
        " allowed: inputs of at most 62 tokens"
    ]


def test_padding_up_to_a_batch_s_width_needs_positions_too(checkpoint, tmp_path):
    # A batch's inputs are padded to a multiple of 8: of 59 positions only 56 can be used.
    config = config_of(checkpoint, "bert", tmp_path, "data.input_length=59", max_position_embeddings=59)
    assert plan_faults(config) == [
        "data.input_length=59: gives inputs of up to 59 tokens, and the model has positions for 56;"
        " allowed: inputs of at most 56 tokens"
    ]


def rewrite(folder, file, **changes):
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused_when_planning(checkpoint, tmp_path):
    config = config_of(checkpoint, "bart", tmp_path, vocab_size=12)
    assert plan_faults(config) == [
        f"model.pretrained={tmp_path}/bart: has 20 tokens, and the model embeds only 12",
    ]
    own = check_config(
        compose_values(prepare_overrides(["model=t5", "model.options.vocab_size=64", f"results_dir={tmp_path}"]))
    )
    assert plan_faults(own) == ["model.name=t5: has 384 tokens, and the model embeds only 64"]


def test_a_decoder_that_starts_with_a_token_it_does_not_embed_is_refused_when_planning(checkpoint, tmp_path):
    config = config_of(checkpoint, "bart", tmp_path)
    rewrite(tmp_path / "bart", "config.json", decoder_start_token_id=99)
    assert plan_faults(config) == [
        f"model.pretrained={tmp_path}/bart: its decoder starts with token 99, and the model embeds the tokens 0 to 19"
    ]


def test_a_tokenizer_without_a_padding_token_is_refused_when_planning(checkpoint, tmp_path):
    config = config_of(checkpoint, "bart", tmp_path)
    rewrite(tmp_path / "bart", "tokenizer_config.json", pad_token=None)
    (fault,) = plan_faults(config)
    assert fault.startswith(f"model.pretrained={tmp_path}/bart: ")
    assert "has no padding token" in fault


def test_a_model_whose_cost_depends_on_routing_is_refused(tmp_path):
    from transformers import AutoConfig

    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
    config = AutoConfig.for_model("switch_transformers", vocab_size=384, num_experts=2, **sizes)
    config.save_pretrained(tmp_path / "switch")
    line = ["model=t5", f"model.name={tmp_path}/switch", "model.tokenizer=bytes", "mask.roles=[q]", "sparsity=1:4"]
    config = check_config(compose_values(prepare_overrides([*line, f"results_dir={tmp_path}/runs"])))
    with pytest.raises(ConfigError, match="its FLOPs cannot be told: what a text costs depends on the experts"):
        make_plan(config)


def test_a_new_head_is_told_by_the_plan(checkpoint, tmp_path):
    (warning,) = make_plan(config_of(checkpoint, "bert", tmp_path, num_labels=5)).warnings
    assert warning == (
        f"model.pretrained={tmp_path}/bert: new weights, which start at random: classifier.bias ([2], and [5] in the"
        " checkpoint), classifier.weight ([2, 64], and [5, 64] in the checkpoint)"
    )


# Dropout


def built(*overrides):
    config = check_config(compose_values(prepare_overrides([*overrides, "data=listops", "train=text"])))
    shape = TextShape(10, 5, 12, 4, ("a", "b"))
    return config, language_architecture(config.model, shape)


def test_small_random_models_have_no_dropout_and_their_config_says_so():
    config, architecture = built("model=t5")
    assert config.values["model"]["options"] == {"dropout_rate": 0.0}
    assert architecture.dropout_rate == 0.0
    config, architecture = built("model=bert")
    assert (architecture.hidden_dropout_prob, architecture.attention_probs_dropout_prob) == (0.0, 0.0)
    config, architecture = built("model=t5", "model.options.dropout_rate=0.2", "model.options.num_layers=4")
    assert config.values["model"]["options"] == {"dropout_rate": 0.2, "num_layers": 4}
    assert architecture.dropout_rate == 0.2


@pytest.mark.parametrize("option", ["model.pretrained", "model.name"])
@pytest.mark.parametrize(
    ("family", "rates"),
    [
        ("t5", {"dropout_rate": 0.3}),
        ("bart", {"dropout": 0.3, "attention_dropout": 0.2}),
        ("bert", {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}),
        ("distilbert", {"dropout": 0.3, "seq_classif_dropout": 0.4}),
    ],
)
def test_a_checkpoint_keeps_its_own_dropout_unless_one_is_set(family, rates, option, checkpoint):
    model = "t5" if checkpoint.families[family][0] == "text_to_text" else "bert"
    folder = checkpoint(family, **rates)
    config, architecture = built(f"model={model}", f"{option}={folder}")
    assert config.values["model"]["options"] == {}
    assert {name: getattr(architecture, name) for name in rates} == rates
    changed = next(iter(rates))
    _, architecture = built(f"model={model}", f"{option}={folder}", f"model.options.{changed}=0.05")
    assert {name: getattr(architecture, name) for name in rates} == rates | {changed: 0.05}


def test_an_option_that_a_checkpoint_s_architecture_lacks_is_still_refused(checkpoint):
    config = ModelConfig(
        kind="text_classifier",
        name="bert",
        roles=["ff"],
        options={"hidden_dropout_prob": 0.0},
        pretrained=str(checkpoint("distilbert")),
    )
    with pytest.raises(ValueError, match=r"model\.options\.hidden_dropout_prob=0\.0: distilbert has no such option"):
        language_architecture(config, TextShape(10, 5, 12, 4, ("a", "b")))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model=t5"], "t5-listops-1of32-sdgf_stepwise-s0-ead4b473"),
        (["model=bert"], "bert-listops-1of32-sdgf_stepwise-s0-bb9536ec"),
        (["model=t5", "train.beams=4"], "t5-listops-1of32-sdgf_stepwise-s0-26416aea"),
        (["model=vit"], "vit-glyphs-1of32-sdgf_stepwise-s0-ab355ae8"),
        (
            ["model=t5", "model.options.dropout_rate=0.0", "train.length_penalty=1"],
            "t5-listops-1of32-sdgf_stepwise-s0-ead4b473",
        ),
    ],
)
def test_runs_made_before_these_keys_keep_their_names(overrides, name):
    assert check_config(compose_values(prepare_overrides(overrides))).run_name == name


def test_a_length_penalty_makes_another_run_and_an_old_config_without_the_key_is_the_same_run():
    values = compose_values(prepare_overrides(["model=t5", "train.beams=4"]))
    before = check_config(copy.deepcopy(values))
    del values["train"]["length_penalty"]
    old = check_config(copy.deepcopy(values))
    assert old.train.length_penalty == 1.0
    assert old.run_name == before.run_name
    values["train"]["length_penalty"] = 0.6
    assert check_config(values).run_name != before.run_name


@pytest.mark.parametrize("family", ["longt5_local", "bert"])
def test_plans_of_text_that_share_a_model_are_what_each_is_alone(family, checkpoint, tmp_path):
    lines = (["recipe=dense"], ["recipe=sr_ste"], ["recipe=mdgf", "sparsity=1:8"], ["mask.roles=[ff,o]"])
    configs = [config_of(checkpoint, family, tmp_path, *line) for line in lines]
    shared: dict = {}
    for config in configs:
        alone, together = make_plan(config), make_plan(config, shared)
        for figure in ("cost", "training_cost", "bytes", "memory", "flops", "tensors"):
            assert getattr(alone, figure) == getattr(together, figure), figure
        assert torch.equal(alone.by_length.steps, together.by_length.steps)
    assert len(shared) == 4  # the model, and what it costs dense, with FF and with FF and O sparse
