"""The search for metaparameters: the next trials, the finished ones, and their storage."""
