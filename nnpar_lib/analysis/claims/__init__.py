"""The claims of the report, computed from records."""

from nnpar_lib.analysis.claims.benchmarks import (
    CLAIMS,
    Claim,
    table,
    text,
)

__all__ = [
    "CLAIMS",
    "Claim",
    "table",
    "text",
]
