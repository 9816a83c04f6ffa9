"""A peer that trains, run by the peers' own Python: KIND CHECKOUT SETTINGS, the last a JSON object on one line.

KIND is nanogpt (the GPT of nanoGPT's model.py, trained as its train.py does) or lstm (the RNNModel of
word_language_model, trained as its main.py does). Both take their ids from the .npy files `train` and `held` and print
{"rate": median tokens a second of a step, "loss": nats a token of `held` in windows, …}. `score` only computes the
loss of a checkpoint that nanoGPT's train.py left.
"""

import contextlib
import json
import math
import statistics
import sys
import time

import numpy as np
import torch
from torch import nn

SKIP = 3
"""Steps that warm up and are not counted."""


def windows(ids, length, rows):
    """Non-overlapping windows of ids as (inputs, labels) [rows, length]; what is left over is left out."""
    count = (len(ids) - 1) // length
    x = torch.from_numpy(ids[: count * length].astype(np.int64)).view(count, length)
    y = torch.from_numpy(ids[1 : count * length + 1].astype(np.int64)).view(count, length)
    return [(x[i : i + rows], y[i : i + rows]) for i in range(0, count, rows)]


def held_loss(logits_of, ids, s):
    """Mean nats a token over all windows of the held-out ids."""
    total = count = 0
    with torch.no_grad():
        for x, y in windows(ids, s["context"], s["rows"]):
            logits = logits_of(x).flatten(0, 1).float()
            total += nn.functional.cross_entropy(logits, y.flatten(), reduction="sum").item()
            count += y.numel()
    return total / count


def nanogpt(s):
    """train.py's loop: random windows, AdamW as the model configures it, warm-up and cosine, clipping at 1."""
    from model import GPT, GPTConfig

    torch.manual_seed(s["seed"])
    config = GPTConfig(s["context"], s["vocabulary"], s["layers"], s["heads"], s["width"], dropout=0.0, bias=False)
    with contextlib.redirect_stdout(sys.stderr):
        raw = GPT(config)
        optimizer = raw.configure_optimizers(0.1, s["rate"], (0.9, 0.99), "cpu")
    model = torch.compile(raw) if s["compile"] else raw
    ids, held = np.load(s["train"], mmap_mode="r"), np.load(s["held"])
    arithmetic = torch.autocast("cpu", torch.bfloat16, enabled=s["precision"] == "bf16")
    times = []
    for step in range(s["steps"]):
        began = time.perf_counter()
        share = (step + 1) / (s["warmup"] + 1)
        if step >= s["warmup"]:
            done = (step - s["warmup"]) / (s["steps"] - s["warmup"])
            share = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = s["rate"] * share
        starts = torch.randint(len(ids) - s["context"], (s["rows"],)).tolist()
        parts = [torch.from_numpy(ids[i : i + s["context"] + 1].astype(np.int64)) for i in starts]
        both = torch.stack(parts)
        with arithmetic:
            _, loss = model(both[:, :-1].contiguous(), both[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        times.append(time.perf_counter() - began)
    raw.eval()

    def logits_of(x):
        with arithmetic:
            return raw(x, x)[0]  # with labels it returns the logits of every position

    return times, held_loss(logits_of, held, s) if s["held_out"] else None


def lstm(s):
    """main.py's loop: contiguous rows whose state goes on, SGD written out, clipping at 0.25."""
    from model import RNNModel

    torch.manual_seed(s["seed"])
    model = RNNModel("LSTM", s["vocabulary"], s["width"], s["width"], s["layers"], s["dropout"], False)
    ids, held = np.load(s["train"]).astype(np.int64), np.load(s["held"])
    rows, context = s["rows"], s["context"]
    data = torch.from_numpy(ids)[: len(ids) // rows * rows].view(rows, -1).t().contiguous()
    criterion, hidden, times = nn.NLLLoss(), model.init_hidden(rows), []
    model.train()
    for step in range(s["steps"]):
        began = time.perf_counter()
        i = step * context % (len(data) - context - 1)
        model.zero_grad()
        out, hidden = model(data[i : i + context], tuple(h.detach() for h in hidden))
        loss = criterion(out, data[i + 1 : i + 1 + context].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), s["clip"])
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-s["rate"])
        loss.item()
        times.append(time.perf_counter() - began)
    model.eval()

    def logits_of(x):
        out, _ = model(x.t().contiguous(), model.init_hidden(len(x)))
        return out.view(x.shape[1], x.shape[0], -1).transpose(0, 1)

    return times, held_loss(logits_of, held, s)


def score(s):
    """The held-out loss of a checkpoint of nanoGPT's own train.py."""
    from model import GPT, GPTConfig

    kept = torch.load(s["checkpoint"], weights_only=True)
    with contextlib.redirect_stdout(sys.stderr):
        model = GPT(GPTConfig(**kept["model_args"]))
    model.load_state_dict(kept["model"])
    model.eval()
    return [0.0] * (SKIP + 1), held_loss(lambda x: model(x, x)[0], np.load(s["held"]), s)


def main():
    kind, checkout, settings = sys.argv[1:]
    sys.path.insert(0, checkout)
    s = json.loads(settings)
    times, loss = {"nanogpt": nanogpt, "lstm": lstm, "score": score}[kind](s)
    step = statistics.median(times[SKIP:])
    print(json.dumps({"rate": s["rows"] * s["context"] / step if step else 0.0, "loss": loss, "first": times[0]}))


if __name__ == "__main__":
    main()
