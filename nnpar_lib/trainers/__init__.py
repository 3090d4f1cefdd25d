"""The engine side: one process a rank; it knows nothing of notebooks."""
