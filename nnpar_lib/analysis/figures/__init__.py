"""Figures: frames in, axes out."""
