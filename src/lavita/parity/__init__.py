"""Repeats recorded figures of the official systems with our own networks and functions."""
