"""datatrove's MinHash over a jsonl file of documents, one process, run by the peers' own Python: DOCUMENTS.

Its four steps, each given the documents in memory where it reads documents: signatures and what they are sorted into on
disk, pairs that share a bucket, clusters, and the documents without all but one of each cluster. It is warm before the
clock starts: its tokenizer is loaded.
"""

import json
import logging
import sys
import tempfile
import time

BUCKETS, ROWS = 14, 8


def steps(documents, base):
    """The documents that are kept."""
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    config = MinhashConfig(n_grams=5, num_buckets=BUCKETS, hashes_per_bucket=ROWS)
    for _ in MinhashDedupSignature(f"{base}/signatures", config=config).run(iter(documents), 0, 1) or ():
        pass
    for bucket in range(BUCKETS):
        MinhashDedupBuckets(f"{base}/signatures", f"{base}/buckets", config=config).run(None, bucket, BUCKETS)
    MinhashDedupCluster(f"{base}/buckets", f"{base}/remove", config=config).run(None, 0, 1)
    return list(MinhashDedupFilter(f"{base}/remove").run(iter(documents), 0, 1))


def main(path):
    from datatrove.data import Document
    from datatrove.utils.logging import logger

    logger.remove()
    logging.disable()
    with open(path, encoding="utf-8") as file:
        documents = [Document(text=json.loads(line)["text"], id=str(number)) for number, line in enumerate(file)]
    with tempfile.TemporaryDirectory() as base:
        steps([Document(text="a document of no more than a few words " * 3, id=str(i)) for i in range(3)], base)
    with tempfile.TemporaryDirectory() as base:
        began = time.process_time()
        kept = {int(document.id) for document in steps(documents, base)}
        seconds = time.process_time() - began
    dropped = [number for number in range(len(documents)) if number not in kept]
    print(json.dumps({"rate": len(documents) / seconds, "dropped": dropped}))


if __name__ == "__main__":
    main(*sys.argv[1:])
