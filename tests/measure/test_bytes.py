"""Bytes by hand: every expected number is written as the sum a reader would do on paper."""

import pytest
import timm
import torch
from torch import nn

from nmtrain.measure import index_bits, index_floor_bits, model_bytes, sparse_bytes
from nmtrain.sparsity import NMPattern, SparseTensor, SparsityRule, remove_sparsity, resolve_rules, sparsify_model

torch.set_num_threads(1)


def tensor(shape, pattern, axis="input", name="w"):
    return SparseTensor(name, "", shape, axis, NMPattern.parse(pattern))


@pytest.mark.parametrize(
    ("pattern", "bits", "floor"),
    [
        ("1:32", 1 * 5, 5),  # 32 choices
        ("1:128", 1 * 7, 7),
        ("2:4", 2 * 2, 3),  # 6 choices fit 3 bits
        ("3:4", 3 * 2, 2),  # 4 choices
        ("4:8", 4 * 3, 7),  # 70 choices: more than 2^6
        ("3:6", 3 * 3, 5),  # 20 choices; 6 places need 3 bits
        ("1:33", 1 * 6, 6),
        ("16:128", 16 * 7, 67),  # 93,343,021,201,262,177,175 choices: between 2^66 and 2^67
        ("4:4", 0, 0),  # nothing to choose
        ("1:1", 0, 0),
    ],
)
def test_index_bits_of_a_group(pattern, bits, floor):
    assert index_bits(NMPattern.parse(pattern)) == bits
    assert index_floor_bits(NMPattern.parse(pattern)) == floor


def test_one_in_32_of_a_vit_base_ff_matrix():
    ff = tensor((3072, 768), "1:32")
    # 3072 * 768 / 32 = 73,728 groups of one value (32 bits) and one index (5 bits).
    assert sparse_bytes([ff]) == 73_728 * 37 // 8 == 340_992
    assert sparse_bytes([ff], floor=True) == 340_992
    assert sparse_bytes([ff, ff], value_bits=16) == 2 * 73_728 * 21 // 8


def test_two_in_four():
    # 8 groups of two values (64 bits) and two indices (4 bits, at least 3).
    assert sparse_bytes([tensor((4, 8), "2:4")]) == 8 * 68 // 8 == 68
    assert sparse_bytes([tensor((4, 8), "2:4")], floor=True) == 8 * 67 // 8 == 67
    assert sparse_bytes([tensor((4, 8), "2:4", axis="output")]) == 68


def test_sixteen_in_128_of_a_convolution():
    conv = tensor((1, 128, 3, 3), "16:128")
    assert sparse_bytes([conv]) == 9 * (16 * 32 + 16 * 7) // 8 == 702
    assert sparse_bytes([conv], floor=True) == 652  # 9 * (512 + 67) = 5211 bits = 651.4 bytes


def test_each_tensor_is_rounded_up_to_whole_bytes():
    one = tensor((1, 4), "1:4")  # 34 bits
    assert sparse_bytes([one]) == 5
    assert sparse_bytes([one, one]) == 10  # not ceil(68 / 8) = 9
    assert sparse_bytes([]) == 0


def test_vit_base_with_sparse_ff():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
    rules = [SparsityRule("blocks.*.mlp.fc?.weight", NMPattern(1, 32))]
    # 86,567,656 parameters of 4 bytes; 24 matrices of 9,437,184 bytes become 340,992 each.
    expected = {"dense": 346_270_624, "sparse": 346_270_624 - 24 * (9_437_184 - 340_992)}
    assert expected["dense"] == 4 * 86_567_656
    assert model_bytes(model, resolve_rules(model, rules)) == expected
    assert model_bytes(model, []) == {"dense": 346_270_624, "sparse": 346_270_624}
    assert model_bytes(model, sparsify_model(model, rules)) == expected  # masks never count


def test_batch_norm_statistics_count():
    with torch.device("meta"):
        model = timm.create_model("resnet50")
    # Beside 25,557,032 parameters: mean and variance of 26,560 channels, and an int64 count in each of 53 layers.
    assert model_bytes(model, [])["dense"] == 4 * 25_557_032 + 2 * 4 * 26_560 + 53 * 8


def test_buffers_that_are_not_saved_do_not_count():
    model = nn.Linear(4, 4, bias=False)
    model.register_buffer("scratch", torch.zeros(100), persistent=False)
    assert model_bytes(model, []) == {"dense": 64, "sparse": 64}


def test_rows_outside_the_slices_stay_dense():
    qkv = nn.Sequential(nn.Linear(8, 24))
    rules = [
        SparsityRule("0.weight", NMPattern(1, 4), "q", rows=(0, 8)),
        SparsityRule("0.weight", NMPattern(2, 8), "k", rows=(8, 16)),
    ]
    # Bias 24 and V's 8 * 8 in full; Q 16 groups of 32 + 2 bits; K 8 groups of 64 + 6 bits.
    expected = {"dense": 4 * (24 + 24 * 8), "sparse": 4 * (24 + 64) + 16 * 34 // 8 + 8 * 70 // 8}
    tensors = sparsify_model(qkv, rules)
    assert model_bytes(qkv, tensors) == expected == {"dense": 864, "sparse": 490}
    remove_sparsity(qkv)
    assert model_bytes(qkv, tensors) == expected


def test_shared_weights_count_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    tensors = resolve_rules(model, [SparsityRule("*.weight", NMPattern(1, 8))])
    # 8 groups of 32 + 3 bits.
    assert model_bytes(model, tensors) == {"dense": 256, "sparse": 35}
    sparsify_model(model, [SparsityRule("*.weight", NMPattern(1, 8))])
    assert model_bytes(model, tensors) == {"dense": 256, "sparse": 35}


def test_values_keep_their_dtype():
    model = nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
    tensors = resolve_rules(model, [SparsityRule("weight", NMPattern(1, 8))])
    assert model_bytes(model, tensors) == {"dense": 128, "sparse": 8 * (16 + 3) // 8}
