"""Language models of transformers: roles, stacks, tied weights, checkpoints from folders, refusals."""

import json

import pytest
import torch
import torch.nn.functional as F

from nmtrain.data.source import TextShape
from nmtrain.data.tokens import ByteTokenizer, PretrainedTokenizer
from nmtrain.models import build_model, sparsity_rules
from nmtrain.models.language import build_tokenizer, language_architecture
from nmtrain.models.roles import weights_by_role
from nmtrain.schema import MaskConfig, ModelConfig
from nmtrain.sparsity import NMPattern, SparsityState, remove_sparsity, sparsify_model, sparsity_control

SHAPE = TextShape(train_size=10, val_size=5, input_length=12, target_length=4, labels=("no", "yes", "maybe"))
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2}
BERT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS = {
    "t5": ("text_to_text", T5),
    "t5_v1_1_base": ("text_to_text", T5),
    "bert": ("text_classifier", BERT),
}
ALL_ROLES = ["ff", "q", "k", "v", "o"]


def config_of(name, **changes):
    kind, options = MODELS.get(name, ("text_to_text", {}))
    return ModelConfig(**{"kind": kind, "name": name, "roles": ["ff"], "options": options} | changes)


def mask(roles, **changes):
    values = {"axis": "input", "roles": roles, "patterns": {}, "names": [], "indivisible": "error"}
    return MaskConfig.model_validate(values | changes)


def loss_of(model, kind):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 250, (4, 12), generator=generator)
    if kind == "text_classifier":
        return F.cross_entropy(model(input_ids=tokens).logits, torch.tensor([0, 1, 2, 0]))
    return model(input_ids=tokens, labels=tokens[:, :4].contiguous()).loss


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient_dense_and_sparse(name, sparse):
    torch.manual_seed(0)
    config = config_of(name)
    model = build_model(config, SHAPE)
    if sparse:
        tensors = sparsify_model(model, sparsity_rules(model, mask(ALL_ROLES), NMPattern(1, 16)))
        assert {tensor.role for tensor in tensors} == set(ALL_ROLES)
    loss = loss_of(model, config.kind)
    loss.backward()
    assert loss.isfinite()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


def test_roles_of_t5_are_the_ff_and_attention_matrices_of_both_stacks_and_nothing_else():
    model = build_model(config_of("t5"), SHAPE)
    found = {name: role for role, name, rows in weights_by_role(model) if rows is None}
    expected = {}
    for block in ("encoder.block.0.layer", "encoder.block.1.layer", "decoder.block.0.layer"):
        attentions = ["0.SelfAttention"] + (["1.EncDecAttention"] if block.startswith("decoder") else [])
        expected |= {f"{block}.{attention}.{role}.weight": role for attention in attentions for role in "qkvo"}
        ff = "2.DenseReluDense" if block.startswith("decoder") else "1.DenseReluDense"
        expected |= {f"{block}.{ff}.{matrix}.weight": "ff" for matrix in ("wi", "wo")}
    assert found == expected


def test_gated_ff_has_three_matrices():
    model = build_model(config_of("t5_v1_1_base"), SHAPE)
    ff = {name.split(".")[-2] for role, name, _ in weights_by_role(model) if role == "ff"}
    assert ff == {"wi_0", "wi_1", "wo"}


@pytest.mark.parametrize(
    ("family", "options", "per_layer"),
    [
        ("roberta", {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}, 1),
        ("electra", {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}, 1),
        ("distilbert", {"dim": 64, "hidden_dim": 128, "n_layers": 1, "n_heads": 2}, 1),
    ],
)
def test_encoders_of_other_families_have_all_roles_by_their_own_names(family, options, per_layer, tmp_path):
    from transformers import AutoConfig

    AutoConfig.for_model(family, vocab_size=300, **options).save_pretrained(tmp_path)
    model = build_model(config_of(str(tmp_path), kind="text_classifier", options={}), SHAPE)
    count = dict.fromkeys(ALL_ROLES, 0)
    for role, _, _ in weights_by_role(model):
        count[role] += 1
    assert count == {"ff": 2 * per_layer, "q": per_layer, "k": per_layer, "v": per_layer, "o": per_layer}


@pytest.mark.parametrize(
    ("stacks", "expected"), [(None, 6), (["encoder"], 4), (["decoder"], 2), (["encoder", "decoder"], 6)]
)
def test_stacks_choose_encoder_or_decoder(stacks, expected):
    model = build_model(config_of("t5"), SHAPE)
    rules = sparsity_rules(model, mask(["ff"], stacks=stacks), NMPattern(1, 8))
    assert len(rules) == expected
    assert all(stacks is None or rule.name.split(".")[0] in stacks for rule in rules)


def test_a_stack_that_the_model_lacks_is_refused_with_those_it_has():
    model = build_model(config_of("bert"), SHAPE)
    with pytest.raises(
        ValueError, match=r"mask\.stacks=\[decoder\]: the model has no decoder\. Available: \['encoder'\]"
    ):
        sparsity_rules(model, mask(["ff"], stacks=["decoder"]), NMPattern(1, 8))


def test_tied_embeddings_stay_tied_through_surgery_and_back():
    model = build_model(config_of("t5"), SHAPE)
    sparsify_model(model, sparsity_rules(model, mask(ALL_ROLES), NMPattern(1, 8)))
    sparsity_control(model).update({NMPattern(1, 8): SparsityState(NMPattern(1, 8))})
    loss_of(model, "text_to_text").backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model.lm_head.weight is model.shared.weight is model.encoder.embed_tokens.weight
    remove_sparsity(model)
    assert model.lm_head.weight is model.shared.weight is model.decoder.embed_tokens.weight
    assert sorted(model.state_dict()) == sorted(build_model(config_of("t5"), SHAPE).state_dict())


def test_a_checkpoint_with_a_head_of_its_own_keeps_it(tmp_path):
    source = build_model(config_of("t5_v1_1_base"), SHAPE)
    assert source.config.scale_decoder_outputs is False  # how transformers tells T5 1.1 from T5
    source.lm_head.weight = torch.nn.Parameter(torch.randn(source.lm_head.weight.shape))
    source.save_pretrained(tmp_path)
    model = build_model(config_of("t5_v1_1_base", pretrained=str(tmp_path), options={}), SHAPE)
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    assert model.config.scale_decoder_outputs is False


def test_a_pretrained_folder_gives_its_weights_and_its_tokenizer(tmp_path):
    torch.manual_seed(1)
    source = build_model(config_of("t5"), SHAPE)
    source.save_pretrained(tmp_path)
    ByteTokenizer().save(tmp_path)
    config = config_of("t5_base", pretrained=str(tmp_path), options={"dropout_rate": 0.3})
    model = build_model(config, SHAPE)
    assert model.config.dropout_rate == 0.3
    expected = source.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    tokenizer = build_tokenizer(config)
    assert isinstance(tokenizer, PretrainedTokenizer)
    assert tokenizer.encode(["a[1"]) == ByteTokenizer().encode(["a[1"])
    without = build_model(config, SHAPE, pretrained=False)
    assert not torch.equal(without.shared.weight, model.shared.weight)


def test_pickled_weights_are_not_read(tmp_path):
    source = build_model(config_of("t5"), SHAPE)
    source.config.save_pretrained(tmp_path)
    torch.save(source.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"^model\.pretrained=.*safetensors"):
        build_model(config_of("t5", pretrained=str(tmp_path), options={}), SHAPE)


def test_code_of_a_repository_is_not_run(tmp_path):
    values = {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the repository was run')")
    with pytest.raises(ValueError, match=r"^model\.name="):
        language_architecture(config_of(str(tmp_path), kind="text_classifier"), SHAPE)


def test_options_that_the_architecture_lacks_are_refused():
    with pytest.raises(
        ValueError, match=r"model\.options\.num_layerz=3: t5 has no such option.*did you mean num_layers"
    ):
        build_model(config_of("t5", options={"num_layerz": 3}), SHAPE)


def test_a_folder_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"^model\.pretrained=/nowhere/t5: .*there is no such folder"):
        build_model(config_of("t5", pretrained="/nowhere/t5"), SHAPE)


def test_a_classifier_is_asked_for_by_kind_and_others_refuse(tmp_path):
    from transformers import AutoConfig

    AutoConfig.for_model("bert", vocab_size=300, **BERT).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is no text_to_text of transformers"):
        build_model(config_of(str(tmp_path), options={}), SHAPE)
