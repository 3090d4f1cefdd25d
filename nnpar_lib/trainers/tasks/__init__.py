"""What a kernel may ask of ranks, each task a function of its own."""
