"""Measurements on a GPU machine that has PyTorch but no network."""
