"""What a training step is made of: weights, gradient, optimizer, stages and their state."""
