"""The claims of the report, computed from records."""

from nnpar_lib.analysis.claims.benchmarks import (
    ALLREDUCES,
    CLAIMS,
    Claim,
    table,
    text,
)

__all__ = [
    "ALLREDUCES",
    "CLAIMS",
    "Claim",
    "table",
    "text",
]
