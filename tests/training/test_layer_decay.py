"""Which layer learns at which rate: timm's own numbers, of a sparse model too, and rows of blocks of transformers."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from nmtrain.config.schema import AdamWConfig
from nmtrain.sparsity import NMPattern, SparsityRule, sparsify_model
from nmtrain.sparsity.rules import stock_name
from nmtrain.training.layer_decay import layer_scales
from nmtrain.training.optim import build_optimizer, learning_rate, set_learning_rate

MODELS = {
    "vit": ("vit_tiny_patch16_224", {"depth": 3}),
    "swinv2": ("swinv2_tiny_window8_256", {"depths": (2, 2), "num_heads": (2, 4)}),
    "resnet": ("resnet18", {}),
    "convnext": ("convnext_atto", {}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {"depth": 2}),
}


def config(**changed):
    settings = {"name": "adamw", "lr": 1e-2, "schedule": "cosine", "weight_decay": 0.05, "betas": [0.9, 0.99]}
    settings |= {"eps": 1e-8, "warmup_fraction": 0.2, "final_lr": 1e-4, "clip_norm": None}
    return AdamWConfig(**settings | changed)


def rates(model, optimizer, key="lr"):
    names = {id(parameter): stock_name(name) for name, parameter in model.named_parameters()}
    return {names[id(p)]: group[key] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sparse", [False, True])
def test_layers_of_timm_s_models_are_those_of_timm(name, sparse):
    architecture, arguments = MODELS[name]
    with torch.device("meta"):
        model = timm.create_model(architecture, **arguments)
    groups = param_groups_layer_decay(model, layer_decay=0.7)
    names = {id(p): name for name, p in model.named_parameters()}
    expected = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    if sparse:
        sparsify_model(model, [SparsityRule("*.weight", NMPattern(1, 1))])
    assert layer_scales(model, 0.7) == expected
    assert len(set(expected.values())) > 3
    optimizer = build_optimizer(model, config(layer_decay=0.7))
    assert rates(model, optimizer, "lr_scale") == expected
    plain = build_optimizer(model, config())
    assert rates(model, plain, "weight_decay") == rates(model, optimizer, "weight_decay")


def test_the_schedule_is_multiplied_by_each_layer_s_scale_from_first_to_last_update():
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", depth=3)
    settings = config(layer_decay=0.5)
    optimizer = build_optimizer(model, settings)
    for update in (0, 3, 9):
        set_learning_rate(optimizer, rate := learning_rate(settings, update, 10))
        found = rates(model, optimizer)
        assert found["head.weight"] == rate
        assert found["blocks.2.mlp.fc1.weight"] == rate * 0.5
        assert found["blocks.0.mlp.fc1.weight"] == rate * 0.125
        assert found["patch_embed.proj.weight"] == rate * 0.0625


def test_stacks_of_a_t5_are_counted_from_their_last_blocks():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(**sizes, vocab_size=32, tie_word_embeddings=False))
    sparsify_model(model, [SparsityRule("*.wi.weight", NMPattern(1, 4))])
    scales = layer_scales(model, 0.5)
    assert scales["encoder.final_layer_norm.weight"] == scales["decoder.final_layer_norm.weight"] == 1
    assert scales["encoder.block.2.layer.1.DenseReluDense.wi.weight"] == 0.5
    assert scales["decoder.block.1.layer.0.SelfAttention.q.weight"] == 0.5
    assert scales["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] == 0.25
    assert scales["encoder.block.0.layer.0.SelfAttention.q.weight"] == 0.125
    assert scales["shared.weight"] == 0.0625


def test_a_bert_has_embeddings_below_and_pooler_and_classifier_above():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    scales = layer_scales(BertForSequenceClassification(BertConfig(**sizes, vocab_size=32)), 0.5)
    assert scales["classifier.weight"] == scales["bert.pooler.dense.weight"] == 1
    assert scales["bert.encoder.layer.1.output.dense.weight"] == 0.5
    assert scales["bert.encoder.layer.0.output.dense.weight"] == 0.25
    assert scales["bert.embeddings.LayerNorm.bias"] == scales["bert.embeddings.word_embeddings.weight"] == 0.125


def test_a_model_of_unknown_layers_is_refused():
    with pytest.raises(ValueError, match="its layers are not known; allowed: models of timm, and of transformers"):
        layer_scales(torch.nn.Sequential(torch.nn.Linear(4, 4)), 0.5)
