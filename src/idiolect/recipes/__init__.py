"""One stage function and its recipe files for each way of training."""
