"""What a run and a study are asked: frozen, validated parameters."""

from nnpar_lib.config.run import RunConfig
from nnpar_lib.config.study import StudyConfig

__all__ = ["RunConfig", "StudyConfig"]
