"""Measurements of the language-model companion."""
