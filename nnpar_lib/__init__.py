"""Train neural networks in parallel, and measure what that gains."""

__version__ = "0.2.0"
