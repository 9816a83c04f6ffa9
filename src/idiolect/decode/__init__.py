"""Filters on logits, generation, beam search: a generator turns a prompt into text."""
