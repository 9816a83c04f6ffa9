"""Scores of texts and models: log-probability, perplexity, bits per byte, baselines."""
