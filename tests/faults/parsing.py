"""What every parser that is tried has: whole input to be made malformed, and a way to read it."""

import contextlib
import itertools
import json
import random
from pathlib import Path

import malformed

from idiolect import files
from idiolect.recipes import library

TEXTS = [text[:900] for text in itertools.islice(library.documents(), 12)]


class Parser:
    """Whole input below a folder, and what reads it."""

    sealed: tuple[str, ...] = ()
    """Folders whose manifest is written anew after a change, as if another tool had made it so."""
    cost = 1
    """How much longer than others a case takes; fewer of them are tried."""

    def make(self, root: Path) -> dict[str, malformed.Mutator]:
        """Writes whole files; returns how each is made malformed."""
        raise NotImplementedError

    def read(self, root: Path, path: Path) -> None:
        """Uses what is there, of which the file at `path` was changed. Raises UserError only."""
        raise NotImplementedError

    @contextlib.contextmanager
    def case(self, root: Path, mutators: dict[str, malformed.Mutator], draw: random.Random):
        """A file is malformed inside, and as it was after."""
        name = draw.choice([*mutators])
        path, before = root / name, (root / name).read_bytes()
        seals = [root / folder / files.MANIFEST for folder in self.sealed if name.startswith(folder)]
        sealed = {seal: seal.read_bytes() for seal in seals}
        path.write_bytes(mutators[name](before, draw))
        for seal in seals:
            about = json.loads(sealed[seal])
            seal.unlink()
            files.write_manifest(seal.parent, **{k: about[k] for k in about if k not in ("format", "files", "sha256")})
        try:
            yield lambda: self.read(root, path)
        finally:
            for changed, content in {path: before, **sealed}.items():
                changed.write_bytes(content)
