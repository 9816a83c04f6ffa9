"""Peers that decode greedily, and the model that all decode, run by the peers' own Python.

make FOLDER                              the model: a folder that transformers writes, and GGUF files of its weights
default|compiled|llama.cpp FOLDER PRECISION THREADS      the timings of one peer, as JSON
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

PROMPT, NEW, REPEATS = 128, 256, 3
VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT = 32_000, 768, 12, 12, 2048, 1024
SPREAD, SURE = 0.06, 8.0
"""Standard deviation of the blocks' weights; by how many deviations of all logits the known text's next token leads."""
CONTROL = 3
"""Ids below are control tokens of the tokenizer that is put beside the model."""


def make(folder):
    """Random weights that know one text by heart: those of the head are set so that its next token leads everywhere.

    Weights drawn at random alone are sure of nothing: in bf16 one argmax in twelve is another, whoever computes it.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "tie_word_embeddings": False}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **sizes, **heads, **ends)
    model = LlamaForCausalLM(config).eval()
    text = torch.randperm(VOCABULARY - CONTROL)[: PROMPT + NEW] + CONTROL
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, SPREAD)
        model.model.embed_tokens.weight.normal_()
        hidden = model.model(text[None]).last_hidden_state[0]
        size = (hidden**2).sum(-1, keepdim=True)
        model.lm_head.weight.normal_(0, float(size.mean() ** -0.5))
        model.lm_head.weight[text[1:]] += (SURE * hidden / size)[:-1]
    model.save_pretrained(folder)
    (folder / "text.json").write_text(json.dumps(text.tolist()))
    for kind in ("fp32", "bf16"):
        _write_gguf(folder / f"{kind}.gguf", model, kind)
    read = sum(w.numel() for w in model.parameters()) - VOCABULARY * WIDTH
    return {"read": read, "epsilon": config.rms_norm_eps}


def _write_gguf(path, model, kind):
    import gguf

    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(CONTEXT)
    w.add_embedding_length(WIDTH)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(HIDDEN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(HEADS)
    w.add_rope_dimension_count(WIDTH // HEADS)
    w.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    w.add_vocab_size(VOCABULARY)
    w.add_tokenizer_model("no_vocab")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if kind == "bf16" else gguf.LlamaFileType.ALL_F32)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, weight in model.state_dict().items():
        array = weight.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp turns neighbours, not halves
            array = array.reshape(HEADS, 2, -1, WIDTH).swapaxes(1, 2).reshape(array.shape)
        to = names.get_name(name, try_suffixes=(".weight",))
        if kind == "bf16" and array.ndim == 2:
            bf16 = gguf.GGMLQuantizationType.BF16
            w.add_tensor(to, gguf.quants.quantize(array, bf16), raw_dtype=bf16)
        else:
            w.add_tensor(to, np.ascontiguousarray(array))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def by_transformers(folder, prompt, precision, threads, compiled):
    """`generate` with its default cache, or with a static one and the step compiled."""
    import torch
    from transformers import CompileConfig, LlamaForCausalLM

    torch.set_num_threads(threads)
    model = LlamaForCausalLM.from_pretrained(folder, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    options = {}
    if compiled:
        compile_config = CompileConfig(mode="default", fullgraph=False, dynamic=False)
        compile_config._compile_all_devices = True
        options = {"cache_implementation": "static", "compile_config": compile_config}
    ids = torch.tensor([prompt])

    def generate(new):
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, **options)
        return found[0, len(prompt) :].tolist()

    return generate


def by_llama_cpp(folder, prompt, precision, threads):
    """llama.cpp's C interface: the prompt as one batch, then a token at a time, the argmax by numpy."""
    import llama_cpp as lc

    lc.llama_backend_init()
    path = str(folder / f"{precision}.gguf").encode()
    model = lc.llama_model_load_from_file(path, lc.llama_model_default_params())
    params = lc.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = threads
    if precision == "fp32":
        params.type_k = params.type_v = lc.GGML_TYPE_F32
    context = lc.llama_init_from_model(model, params)
    batch = lc.llama_batch_init(len(prompt), 0, 1)

    def read(ids, first):
        batch.n_tokens = len(ids)
        for i, id_ in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = id_, first + i, 1, 0
            batch.logits[i] = i == len(ids) - 1
        assert lc.llama_decode(context, batch) == 0
        logits = lc.llama_get_logits_ith(context, len(ids) - 1)
        return int(np.ctypeslib.as_array(logits, shape=(VOCABULARY,)).argmax())

    def generate(new):
        lc.llama_memory_clear(lc.llama_get_memory(context), True)
        found = [read(prompt, 0)]
        while len(found) < new:
            found.append(read(found[-1:], len(prompt) + len(found) - 1))
        return found

    return generate


def timed(generate, warm_up=8):
    """Decoding and prompt reading, tokens a second, and the ids: medians of several calls, after one to warm up."""
    generate(warm_up)
    times = {1: [], NEW: []}
    for _ in range(REPEATS):
        for new, seconds in times.items():
            began = time.perf_counter()
            ids = generate(new)
            seconds.append(time.perf_counter() - began)
    one, all_ = (statistics.median(times[new]) for new in (1, NEW))
    return {"rate": (NEW - 1) / (all_ - one), "prefill": PROMPT / one, "ids": list(ids)}


def main():
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        return make(folder)
    precision, threads = sys.argv[3], int(sys.argv[4])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    prompt = json.loads((folder / "text.json").read_text())[:PROMPT]
    if what == "llama.cpp":
        return timed(by_llama_cpp(folder, prompt, precision, threads))
    compiled = what == "compiled"
    return timed(by_transformers(folder, prompt, precision, threads, compiled), NEW if compiled else 8)


if __name__ == "__main__":
    print(json.dumps(main()))
