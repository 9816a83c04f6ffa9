"""One file a family behind one contract: `step(ids, state) -> logits, state`."""
