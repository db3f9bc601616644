"""Runs of the TorchRL trainer that are more than one command."""
