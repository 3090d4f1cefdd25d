"""The beginnings of the lines that a rank prints and its launcher reads; JSON follows each."""

from __future__ import annotations

PROGRESS_PREFIX = "NNPAR-PROGRESS "
RECORD_PREFIX = "NNPAR-RECORD "
