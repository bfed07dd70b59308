"""Language models of transformers: roles, stacks, tied weights, checkpoints from folders, refusals."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import nmtrain.sparsity.control
from nmtrain.config.schema import MaskConfig, ModelConfig
from nmtrain.data.shapes import TextShape
from nmtrain.data.text.tokens import ByteTokenizer, PretrainedTokenizer
from nmtrain.errors import DataError
from nmtrain.models import build_model, sparsity_rules
from nmtrain.models.language import build_tokenizer, language_architecture, new_weights
from nmtrain.models.roles import weights_by_role
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


@pytest.mark.parametrize("name", ["t5", "t5_v1_1_base"])
def test_a_forward_sparsifies_each_weight_once_though_t5_reads_some_several_times(name, monkeypatch):
    model = build_model(config_of(name), SHAPE)
    tensors = sparsify_model(model, sparsity_rules(model, mask(["ff"]), NMPattern(1, 16)))
    computed = []
    original = nmtrain.sparsity.control.apply_mask

    def counting(weight, *arguments, value=None, **options):
        computed.extend([weight.shape] if value is None else [])
        return original(weight, *arguments, value=value, **options)

    monkeypatch.setattr(nmtrain.sparsity.control, "apply_mask", counting)
    loss_of(model, "text_to_text").backward()
    assert sorted(computed) == sorted(tensor.shape for tensor in tensors)


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


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_stacks_are_refused_where_there_is_only_one(stack):
    model = build_model(config_of("bert"), SHAPE)
    message = rf"mask\.stacks=\[{stack}\]: has no effect, since the model's only stack is its encoder"
    with pytest.raises(ValueError, match=message):
        sparsity_rules(model, mask(["ff"], stacks=[stack]), NMPattern(1, 8))


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


def test_a_folder_with_a_configuration_but_no_vocabulary_is_no_tokenizer(tmp_path):
    # transformers would make one that takes every word for an unknown one
    build_model(config_of("t5"), SHAPE).save_pretrained(tmp_path)
    folder = str(tmp_path)
    for config in (config_of("t5", pretrained=folder), config_of("t5", tokenizer=folder), config_of(folder)):
        with pytest.raises(ValueError, match=r"^model\.\w+=.*has no tokenizer with a vocabulary"):
            build_tokenizer(config)


def test_a_configuration_in_the_hub_s_cache_does_not_stand_for_the_tokenizer(tmp_path, monkeypatch):
    from huggingface_hub import constants

    snapshot = tmp_path / "models--google-t5--t5-base" / "snapshots" / "0123"
    build_model(config_of("t5"), SHAPE).config.save_pretrained(snapshot)
    (tmp_path / "models--google-t5--t5-base" / "refs").mkdir()
    (tmp_path / "models--google-t5--t5-base" / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = config_of("t5_base", pretrained="google-t5/t5-base", options={})
    assert language_architecture(config, SHAPE).d_model == 64
    with pytest.raises(DataError, match=r"^model\.pretrained=google-t5/t5-base is not on"):
        build_tokenizer(config)


def test_a_tokenizer_that_the_model_cannot_embed_is_refused(tmp_path):
    small = config_of("t5", options=T5 | {"vocab_size": 64})
    build_model(small, SHAPE).save_pretrained(tmp_path)
    config = config_of("t5_small", pretrained=str(tmp_path), tokenizer="bytes", options={})
    with pytest.raises(ValueError, match=r"model\.tokenizer=bytes: has 384 tokens, and the model embeds only 64"):
        build_model(config, SHAPE)


def test_a_folder_without_weights_is_refused_before_training(tmp_path):
    build_model(config_of("t5"), SHAPE).config.save_pretrained(tmp_path)
    config = config_of("t5", pretrained=str(tmp_path), options={})
    with pytest.raises(ValueError, match=r"^model\.pretrained=.*has no weights in safetensors"):
        new_weights(config, SHAPE, download=False)
    build_model(config, SHAPE, pretrained=False)  # that of a run which goes on needs none


def test_the_decoder_starts_with_padding_where_a_configuration_does_not_say(tmp_path):
    model = build_model(config_of("t5"), SHAPE)
    del model.config.decoder_start_token_id
    model.config.save_pretrained(tmp_path)
    assert language_architecture(config_of(str(tmp_path), options={}), SHAPE).decoder_start_token_id == 0


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


def test_options_that_a_checkpoints_architecture_refuses_are_named_and_settings_of_its_own_are_not_theirs(checkpoint):
    folder = checkpoint("bart")
    for options, told in (({"d_model": "wide"}, "d_model"), ({"encoder_layerdrop": 0}, "expected float, got int")):
        with pytest.raises(ValueError, match=rf"^model.options={{.*}}: transformers refuses them for bart: .*{told}"):
            build_model(pretrained(folder, "text_to_text", **options), SHAPE)
    with pytest.raises(ValueError, match=r"bart, model.options={activation_function:nosuch}: is no text_to_text"):
        build_model(config_of(str(folder), options={"activation_function": "nosuch"}), SHAPE)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"encoder_layers": "two"}))
    with pytest.raises(ValueError, match=r"^model.pretrained=.*: transformers cannot load it: .*encoder_layers"):
        build_model(pretrained(folder, "text_to_text", d_model=16), SHAPE)


def test_a_folder_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"^model\.pretrained=/nowhere/t5: .*there is no such folder"):
        build_model(config_of("t5", pretrained="/nowhere/t5"), SHAPE)


def test_a_classifier_is_asked_for_by_kind_and_others_refuse(tmp_path):
    from transformers import AutoConfig

    AutoConfig.for_model("bert", vocab_size=300, **BERT).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is no text_to_text of transformers"):
        build_model(config_of(str(tmp_path), options={}), SHAPE)


def pretrained(folder, kind, **options):
    return ModelConfig(kind=kind, name="mine", roles=["ff"], options=options, pretrained=str(folder))


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", {"classifier.bias": [2], "classifier.weight": [2, 64]}),
        ("roberta", {"classifier.out_proj.bias": [2], "classifier.out_proj.weight": [2, 64]}),
    ],
)
def test_a_head_of_another_size_is_made_anew_by_the_seed_and_told(family, head, checkpoint):
    folder = checkpoint(family)
    config = pretrained(folder, "text_classifier")
    sizes = {name: [3, *size[1:]] for name, size in head.items()}
    told = ", ".join(f"{name} ({sizes[name]}, and {size} in the checkpoint)" for name, size in head.items())
    expected = f"model.pretrained={folder}: new weights, which start at random: {told}"
    assert new_weights(config, SHAPE, download=False) == [expected]
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build_model(config, SHAPE).state_dict())
    stored = load_file(folder / "model.safetensors")
    for name, tensor in models[0].items():
        assert torch.equal(tensor, models[1][name])
        assert torch.equal(tensor, models[2][name]) == (name not in head or name.endswith("bias"))
        if name not in head:
            assert torch.equal(tensor, stored[name])


def test_a_head_of_the_same_size_is_kept_and_nothing_is_told(checkpoint):
    folder = checkpoint("bert", num_labels=3)
    config = pretrained(folder, "text_classifier")
    assert new_weights(config, SHAPE, download=False) == []
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(build_model(config, SHAPE).classifier.weight, stored["classifier.weight"])


def test_layers_that_a_checkpoint_has_not_are_told(checkpoint):
    folder = checkpoint("t5")
    layer = "encoder.block.2.layer.0.SelfAttention"
    assert new_weights(pretrained(folder, "text_to_text", num_layers=3), SHAPE, download=False) == [
        f"model.pretrained={folder}: new weights, which start at random:"
        f" {layer}.k.weight, {layer}.o.weight, {layer}.q.weight, {layer}.v.weight and 4 more"
    ]


def test_weights_of_another_size_or_of_another_architecture_are_refused(checkpoint):
    folder = checkpoint("bert")
    sizes = r"bert\.embeddings\.position_embeddings\.weight is \[128, 64\], and \[64, 64\] in the checkpoint"
    with pytest.raises(ValueError, match=rf"^model\.pretrained=.*max_position_embeddings:128.* {sizes}$"):
        new_weights(pretrained(folder, "text_classifier", max_position_embeddings=128), SHAPE, download=False)
    other = json.loads((checkpoint("electra") / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"^model\.pretrained=.*: its weights are not those of an? electra$"):
        new_weights(pretrained(folder, "text_classifier"), SHAPE, download=False)


def test_weights_that_are_not_on_this_machine_are_not_downloaded_for_a_dry_run(monkeypatch, tmp_path):
    monkeypatch.setattr("nmtrain.data.hub.require_hub", lambda *told: pytest.fail("the hub was asked"))
    monkeypatch.setattr("nmtrain.models.language.language_architecture", lambda *given: None)
    config = ModelConfig(kind="text_to_text", name="x", roles=["ff"], options={}, pretrained="nobody/nothing")
    assert new_weights(config, SHAPE, download=False) == []


def test_a_classifier_that_is_an_encoder_decoder_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"is an encoder-decoder \(bart\), which model\.kind=text_classifier does not"):
        build_model(pretrained(checkpoint("bart"), "text_classifier"), SHAPE)


def test_rows_of_q_k_and_v_in_deberta_s_fused_weight_are_those_that_the_gradient_of_each_reaches(checkpoint):
    model = build_model(pretrained(checkpoint("deberta"), "text_classifier"), SHAPE)
    attention = model.deberta.encoder.layer[0].attention.self
    rows = {}
    for role, name, span in weights_by_role(model):
        if name == "deberta.encoder.layer.0.attention.self.in_proj.weight":
            rows.setdefault(role, set()).update(range(*span))
    q, k, v = attention.transpose_for_scores(attention.in_proj(torch.randn(1, 3, 64))).chunk(3, dim=-1)
    for role, part in {"q": q, "k": k, "v": v}.items():
        attention.in_proj.weight.grad = None
        part.sum().backward(retain_graph=True)
        assert set(attention.in_proj.weight.grad.abs().sum(1).nonzero().flatten().tolist()) == rows[role]
    assert len(rows["q"] | rows["k"] | rows["v"]) == 192
