"""Two small models with known shapes, and how to train them a little."""

import pytest
import torch
from torch import nn

from nmtrain.sparsity import NMPattern, SparsityRule, SparsityState, sparsify_model, sparsity_control

SMALL_RULES = (SparsityRule("0.weight", NMPattern(1, 4)),)
BLOCK_RULES = (
    SparsityRule("qkv.weight", NMPattern(1, 4), "q", rows=(0, 8)),
    SparsityRule("qkv.weight", NMPattern(2, 4), "k", rows=(8, 16)),
    SparsityRule("fc?.weight", NMPattern(1, 8), "ff"),
)


class Block(nn.Module):
    """Attention with a fused qkv matrix, a feed-forward part, and norms: what a transformer block holds."""

    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


@pytest.fixture
def small():
    """Makes Linear(4, 2) with known weights: 1:4 keeps 3 and -8, 2:4 also -2 and 7. Dense for the rules None."""

    def make(rules=SMALL_RULES):
        model = nn.Sequential(nn.Linear(4, 2))
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 0.5], [-8.0, 7.0, -6.0, 5.0]]))
            model[0].bias.copy_(torch.tensor([10.0, 20.0]))
        if rules:
            sparsify_model(model, rules)
        return model

    return make


@pytest.fixture
def block_rules():
    return BLOCK_RULES


@pytest.fixture
def block_strict():
    """Every target of the block in force, strictly."""
    return {rule.pattern: SparsityState(rule.pattern) for rule in BLOCK_RULES}


@pytest.fixture
def block():
    """Makes a block of width 8: Q 1:4, K 2:4, V dense, feed-forward 1:8. Dense for the rules None."""

    def make(rules=BLOCK_RULES, seed=0):
        torch.manual_seed(seed)
        model = Block()
        if rules:
            sparsify_model(model, rules)
        return model

    return make


@pytest.fixture
def images():
    """Draws a batch for the block: [count, 5 tokens, 8]."""
    return lambda count=3, seed=1: torch.randn(count, 5, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def train(images):
    """Trains a block for three updates, the masks refreshed before each."""

    def run(model, states):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for update in range(3):
            sparsity_control(model).update(states)
            model(images(seed=update)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    return run
