"""datatrove's PIIFormatter over a jsonl file, run by the peers' own Python: DOCUMENTS [ROUNDS].

Without rounds it prints the texts with <EMAIL> and <IP> in them, otherwise documents a second of processor time.
"""

import json
import sys
import time


def main(path, rounds=0):
    from datatrove.pipeline.formatters.pii import PIIFormatter

    format_ = PIIFormatter(email_replacement="<EMAIL>", ip_replacement="<IP>").format
    with open(path, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    redacted = [format_(text) for text in texts]
    began = time.process_time()
    for _ in range(int(rounds)):
        for text in texts:
            format_(text)
    seconds = time.process_time() - began
    print(json.dumps({"rate": int(rounds) * len(texts) / seconds} if rounds else {"texts": redacted}))


if __name__ == "__main__":
    main(*sys.argv[1:])
