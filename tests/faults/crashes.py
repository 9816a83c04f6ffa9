"""The states in which a power cut may leave a disk, from the operations of a real writer.

A system promises little: what was not flushed may be there or not, in any order, whole or torn. So every operation is
recorded with the node (file or folder) it changes. It is durable once that node was flushed after it. A crash after
operation p keeps all durable ones of the first p and any choice of the others; a file whose content was not flushed
may also be empty, cut short or full of zeros. (A rename and a swap are one operation: file systems promise that.)
"""

import contextlib
import itertools
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idiolect import files

RECENT = 8


@dataclass
class Operation:
    """One change of one node, or a flush of it."""

    kind: str
    node: int
    arguments: tuple[Any, ...] = ()


@dataclass
class Node:
    """A file (content) or a folder (names of nodes)."""

    content: bytes = b""
    names: dict[str, int] | None = None


@dataclass
class Disk:
    """Nodes by number; number 0 is the root folder."""

    nodes: dict[int, Node] = field(default_factory=lambda: {0: Node(names={})})

    def apply(self, operation: Operation) -> None:
        """Does nothing where what it needs is not there."""
        node, arguments = self.nodes.get(operation.node), operation.arguments
        if operation.kind == "make":
            name, number, folder = arguments
            self.nodes.setdefault(number, Node(names={} if folder else None))
            node.names[name] = number
        elif operation.kind == "write":
            node = self.nodes.setdefault(operation.node, Node())
            node.content = arguments[0]
        elif operation.kind == "unlink":
            node.names.pop(arguments[0], None)
        elif operation.kind == "rename" and arguments[0] in node.names:
            node.names[arguments[1]] = node.names.pop(arguments[0])
        elif operation.kind == "swap" and {*arguments} <= node.names.keys():
            one, other = arguments
            node.names[one], node.names[other] = node.names[other], node.names[one]

    def tree(self, number: int = 0, path: str = "") -> dict[str, bytes | None]:
        """Everything that can be reached: path → content, None for a folder."""
        out: dict[str, bytes | None] = {}
        for name, child in sorted(self.nodes[number].names.items()):
            node = self.nodes[child]
            out[path + name] = node.content if node.names is None else None
            if node.names is not None:
                out |= self.tree(child, f"{path}{name}/")
        return out


class Recorder:
    """Records what happens below `root` while it is entered.

    Calls of os are seen one by one. What other code writes (safetensors in Rust) is seen as new content at the next
    call, which is all that matters, as nothing of it was flushed before.
    """

    def __init__(self, root: Path, drop: str = "") -> None:
        self.root, self.drop = root, drop
        self.operations: list[Operation] = []
        self.disk = Disk()
        self.acknowledged: list[tuple[int, Any]] = []
        self.real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")}

    def __enter__(self) -> "Recorder":
        self.stack = contextlib.ExitStack()
        for name in self.real:
            self._patch(os, name, getattr(self, f"_{name}"))
        self._patch(os, "remove", self._unlink)
        self._patch(files, "_swap", self._swapping(files._swap))
        return self

    def _patch(self, owner: Any, name: str, value: Any) -> None:
        self.stack.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def __exit__(self, *error: object) -> None:
        self.scan()
        self.stack.close()

    def acknowledge(self, value: Any) -> None:
        """The writer returned: from here on `value` must survive."""
        self.scan()
        self.acknowledged.append((len(self.operations), value))

    def _add(self, kind: str, node: int, *arguments: Any) -> None:
        operation = Operation(kind, node, arguments)
        self.operations.append(operation)
        self.disk.apply(operation)

    def scan(self) -> None:
        """Records what changed since the last call without one of ours."""
        self._scan(0, self.root)

    def _scan(self, number: int, folder: Path) -> None:
        present = {entry.name: entry for entry in os.scandir(folder)}
        names = self.disk.nodes[number].names
        for name in [name for name in names if name not in present]:
            self._add("unlink", number, name)
        for name, entry in sorted(present.items()):
            if name not in names:
                self._add("make", number, name, len(self.disk.nodes), entry.is_dir())
            child = names[name]
            if entry.is_dir():
                self._scan(child, Path(entry.path))
            elif (content := Path(entry.path).read_bytes()) != self.disk.nodes[child].content:
                self._add("write", child, content)

    def _place(self, path: Any, dir_fd: int | None = None) -> tuple[int, str] | None:
        """(number of the folder, name) of a path below the root."""
        path = Path(path) if dir_fd is None else Path(os.readlink(f"/proc/self/fd/{dir_fd}")) / path
        try:
            parts = path.relative_to(self.root).parts
        except ValueError:
            return None
        number = 0
        for part in parts[:-1]:
            number = self.disk.nodes[number].names[part]
        return number, parts[-1] if parts else ""

    def _fsync(self, handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        if self.drop == ("folders" if folder else "files"):
            return
        self.scan()
        place = self._place(path)
        if place is not None:
            number, name = place
            self._add("flush", self.disk.nodes[number].names[name] if name else 0)

    def _rename(self, source: Any, target: Any) -> None:
        self.scan()
        self.real["rename"](source, target)
        (number, old), (other, new) = self._place(source), self._place(target)
        assert number == other, "a rename between folders is two operations"
        self._add("rename", number, old, new)

    _replace = _rename

    def _swapping(self, swap: Any) -> Any:
        def swapping(one: Path, other: Path) -> bool:
            self.scan()
            done = swap(one, other)
            if done:
                (number, old), (_, new) = self._place(one), self._place(other)
                self._add("swap", number, old, new)
            return done

        return swapping

    def _mkdir(self, path: Any, mode: int = 0o777) -> None:
        self.scan()
        self.real["mkdir"](path, mode)
        self.scan()

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self.scan()
        self.real["unlink"](path, dir_fd=dir_fd)
        self.scan()

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self.scan()
        self.real["rmdir"](path, dir_fd=dir_fd)
        self.scan()


@dataclass
class State:
    """What the disk holds after a crash, and what was promised before it."""

    tree: dict[str, bytes | None]
    promised: Any
    case: "Case"


@dataclass
class Case:
    """A crash after so many operations, of which some never reached the disk and some only in part."""

    after: int
    lost: frozenset[int]
    torn: dict[int, bytes]


def states(recorder: Recorder, draw: random.Random, wanted: int) -> Iterator[State]:
    """`wanted` different states: at most half are the telling ones of a crash after each operation, the rest drawn.

    Fewer when there are not so many: when ten times as many drawn ones were not new.
    """
    seen: set[int] = set()
    doubles = 0
    first = [*telling(recorder.operations)]
    draw.shuffle(first)
    for case in itertools.chain(first[: wanted // 2], drawn(recorder.operations, draw)):
        promised = next((value for where, value in reversed(recorder.acknowledged) if where <= case.after), None)
        tree = replay(recorder.operations[: case.after], case)
        if (key := hash((promised, *tree.items()))) in seen:
            doubles += 1
            if doubles > 10 * wanted:
                return
            continue
        seen.add(key)
        yield State(tree, promised, case)
        if len(seen) == wanted:
            return


def telling(operations: list[Operation]) -> Iterator[Case]:
    """All undecided operations lost, none, one of the last RECENT alone, all but it, one torn."""
    for after in range(len(operations) + 1):
        pending = frozenset(undecided(operations[:after]))
        yield Case(after, frozenset(), {})
        yield Case(after, pending, {})
        for i in sorted(pending)[-RECENT:]:
            yield Case(after, frozenset({i}), {})
            yield Case(after, pending - {i}, {})
            for torn in tears(operations[:after], i):
                yield Case(after, frozenset(), {i: torn})


def drawn(operations: list[Operation], draw: random.Random) -> Iterator[Case]:
    """Any choice of the undecided operations lost, any of the others torn anyhow, without end.

    Mostly of crashes when something was written and not flushed, of which at least one write is torn.
    """
    pending = [undecided(operations[:after]) for after in range(len(operations) + 1)]
    writes = [[i for i in some if operations[i].kind == "write"] for some in pending]
    anywhere = [after for after, some in enumerate(pending) if some]
    writing = [after for after, some in enumerate(writes) if some]
    while True:
        after = draw.choice(writing if draw.random() < 0.8 else anywhere)
        share, sure = draw.choice([0.1, 0.5, 0.9]), draw.choice(writes[after] or [None])
        lost = frozenset(i for i in pending[after] if i != sure and draw.random() < share)
        torn = {i for i in writes[after] if i not in lost and (i == sure or draw.random() < 0.5)}
        yield Case(after, lost, {i: torn_anyhow(operations[:after], i, draw) for i in sorted(torn)})


def undecided(operations: list[Operation]) -> list[int]:
    """The operations that no later flush of their node made durable."""
    out = []
    flushed: set[int] = set()
    for i in reversed(range(len(operations))):
        if operations[i].kind == "flush":
            flushed.add(operations[i].node)
        elif operations[i].node not in flushed:
            out.append(i)
    return out[::-1]


def parts(operations: list[Operation], i: int) -> tuple[bytes, bytes]:
    """What of a written file is durable, where it was added to and flushed before; and the rest."""
    node, content = operations[i].node, operations[i].arguments[0]
    before, kept = b"", b""
    for operation in operations[:i]:
        if operation.node == node and operation.kind == "write":
            before = operation.arguments[0]
        elif operation.node == node and operation.kind == "flush":
            kept = before
    kept = kept if content.startswith(kept) else b""
    return kept, content[len(kept) :]


def tears(operations: list[Operation], i: int) -> list[bytes]:
    """How an unflushed write may look: nothing of it, cut in the middle, a byte short, zeros."""
    if operations[i].kind != "write":
        return []
    kept, new = parts(operations, i)
    return [kept + part for part in (b"", new[: len(new) // 2], new[:-1], bytes(len(new)))]


def torn_anyhow(operations: list[Operation], i: int, draw: random.Random) -> bytes:
    """Cut at any byte, or any of its blocks full of zeros."""
    kept, new = parts(operations, i)
    if draw.random() < 0.5:
        return kept + new[: draw.randrange(len(new) + 1)]
    out, block = bytearray(new), draw.choice([8, 64, 512])
    for start in range(0, len(out), block):
        if draw.random() < 0.5:
            out[start : start + block] = bytes(len(out[start : start + block]))
    return kept + bytes(out)


def replay(operations: list[Operation], case: Case) -> dict[str, bytes | None]:
    """The disk after the operations, but for what the case says of them."""
    disk = Disk()
    for i, operation in enumerate(operations):
        if i in case.torn:
            disk.apply(Operation("write", operation.node, (case.torn[i],)))
        elif i not in case.lost:
            if operation.node not in disk.nodes and operation.kind != "write":
                continue  # in a folder that was never made
            disk.apply(operation)
    return disk.tree()


def lay_out(tree: dict[str, bytes | None], root: Path) -> None:
    """Writes a state to a real folder."""
    root.mkdir()
    for path, content in tree.items():
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
