"""PE7: soft prompts: learnt vectors in the input, n × d numbers and no more, in generation with the cache, too."""

import torch

from idiolect.adapt.edits import edit, trained
from idiolect.adapt.settings import SoftPromptSettings
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings
from idiolect.testing import ByteTokenizer

N, D = 7, 22


def test_PE7_n_times_d_numbers_train_and_the_cache_gives_what_reading_all_anew_does():
    model = build(DecoderSettings(layers=2, heads=11, width=D, context=61), 258).eval()
    report = edit(model, SoftPromptSettings(tokens=N))
    assert report.trainable == N * D and list(trained(model)) == ["prompt"]
    with torch.no_grad():
        model.prompt.normal_(generator=torch.Generator().manual_seed(4))
    settings = DecodeSettings(max_tokens=13, temperature=0.0)
    texts = ["one", "a longer prompt than that", "three"]
    written = complete(model, ByteTokenizer(), texts, settings)
    for text, answer in zip(texts, written, strict=True):
        ids = [0, *ByteTokenizer().encode(text)]
        with torch.no_grad():
            for id_ in answer.ids:
                logits = model.head(model.body(torch.tensor([ids]))[0, -1])
                logits[1] = -torch.inf  # padding is never written
                assert int(logits.argmax()) == id_
                ids.append(id_)
        assert len(answer.ids) == 13 or answer.finish_reason == "stop"
