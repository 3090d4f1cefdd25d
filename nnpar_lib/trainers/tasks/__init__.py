"""What a kernel may ask of ranks: each task is a function."""
