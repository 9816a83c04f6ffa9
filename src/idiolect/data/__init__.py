"""Token shards on disk, batches computed from (data, seed, step), nats to bits per byte."""
