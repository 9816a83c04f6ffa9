"""Programs over a model: examples before a question, labels chosen by their probability."""
