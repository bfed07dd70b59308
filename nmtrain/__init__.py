"""Train N:M structured-sparse networks and measure what the sparsity costs and saves."""

__version__ = "0.1.0"
