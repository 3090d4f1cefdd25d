"""The engine side: one process for each rank; it knows nothing of notebooks."""
