"""What a run and a study are asked: frozen, validated parameters."""

from nnpar_lib.config.run import RunConfig

__all__ = ["RunConfig"]
