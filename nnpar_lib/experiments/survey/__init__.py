"""The survey of a machine: what is there, predictions, then measurements, within some minutes."""
