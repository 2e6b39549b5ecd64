"""LAVITA and its baselines under one budget: a fair, checkable benchmark suite for video diffusion."""

__version__ = "0.2.0"
