"""Benchmarks of era_vision: the floor ablation, confidently wrong samples and the head's overhead."""
