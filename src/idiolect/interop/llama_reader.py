"""What llama.cpp makes of a GGUF file, told by a process of its own: it ends the process at whatever it cannot compute.

`python -m idiolect.interop.llama_reader FILE` reads {"texts": […], "rows": [[ids], …]} as JSON from its input. It
answers with a line of JSON, {"version", "bos", "eos", "pad", "add_bos", "ids": of each text, "special": of each text
with what llama.cpp puts around it}, and then with the logits of each row, [T, V] float32, as they lie in memory.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Reads, answers and returns; exits with 1 and a line on stderr for a file that cannot be loaded."""
    asked = json.load(sys.stdin)
    import llama_cpp

    model = llama_cpp.llama_model_load_from_file(os.fsencode(sys.argv[1]), llama_cpp.llama_model_default_params())
    if model is None:
        sys.exit("llama.cpp cannot load the file")
    vocab = llama_cpp.llama_model_get_vocab(model)
    facts = {
        "version": llama_cpp.__version__,
        **{role: getattr(llama_cpp, f"llama_vocab_{role}")(vocab) for role in ("bos", "eos", "pad")},
        "add_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocab)),
        "ids": [_encode(llama_cpp, vocab, text, special=False) for text in asked["texts"]],
        "special": [_encode(llama_cpp, vocab, text, special=True) for text in asked["texts"]],
    }
    out = sys.stdout.buffer
    out.write(json.dumps(facts).encode() + b"\n")
    for logits in _logits(llama_cpp, model, llama_cpp.llama_vocab_n_tokens(vocab), asked["rows"]):
        out.write(logits)
    out.flush()


def _encode(llama_cpp: Any, vocab: Any, text: str, special: bool) -> list[int]:
    raw = text.encode()
    ids = (llama_cpp.llama_token * (len(raw) + 8))()  # a token stands for a byte at least; the rest is for marks
    count = llama_cpp.llama_tokenize(vocab, raw, len(raw), ids, len(ids), special, False)
    if count < 0:
        sys.exit(f"llama.cpp cannot tokenize {text[:40]!r}")
    return list(ids[:count])


def _logits(llama_cpp: Any, model: Any, vocabulary: int, rows: list[list[int]]) -> Any:
    """The logits of each row as bytes: numbers and what is remembered of earlier tokens are kept as float32."""
    import ctypes

    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(map(len, rows))
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, params)
    if context is None:
        sys.exit("llama.cpp cannot compute this model")
    batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
    for row in rows:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch.n_tokens = len(row)
        for i, id_ in enumerate(row):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = id_, i, 1, 0, True
        if llama_cpp.llama_decode(context, batch):
            sys.exit("llama.cpp cannot read the tokens")
        yield ctypes.string_at(llama_cpp.llama_get_logits(context), 4 * len(row) * vocabulary)


if __name__ == "__main__":
    main()
