"""Data sets in memory, and the part of each batch that a rank trains on."""
