"""Applications on top: what is measured for the report, and in which order."""
