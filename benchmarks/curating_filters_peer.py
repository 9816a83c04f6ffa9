"""datatrove's two Gopher filters over a jsonl file of documents, one process, run by the peers' own Python: DOCUMENTS.

The documents are in memory and its tokenizer is loaded before the clock starts; each filter finds the words anew.
"""

import json
import logging
import sys
import time


def main(path):
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils.logging import logger

    logger.remove()
    logging.disable()
    with open(path, encoding="utf-8") as file:
        documents = [Document(text=json.loads(line)["text"], id=str(number)) for number, line in enumerate(file)]
    found = {}
    for name, made in (("gopher_quality", GopherQualityFilter()), ("gopher_repetition", GopherRepetitionFilter())):
        made.filter(documents[0])
        began = time.perf_counter()
        kept = [made.filter(document) is True for document in documents]
        found[name] = {"rate": len(documents) / (time.perf_counter() - began), "kept": kept}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
