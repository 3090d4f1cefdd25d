"""The training loop and what surrounds it: placement, checkpoints, budgets, tuning."""
