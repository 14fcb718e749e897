"""Compressing a trained model: what `experiments.compress` does, step by step."""
