"""Stock models by name, and the role of each of their weights. Nothing of timm or transformers is copied or edited."""

from nmtrain.models.build import build_model
from nmtrain.models.registry import register
from nmtrain.models.roles import ROLES, sparsity_rules

__all__ = ["ROLES", "build_model", "register", "sparsity_rules"]
