"""The search for metaparameters: what to try next, the trials that are done, and where they are
kept."""
