"""The shape of the source: which room may import which, what stays free of torch, what is never called."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "idiolect"
GROUND = [
    "errors",
    "files",
    "cache",
    "seeds",
    "config",
    "devices",
    "native",
    "energy",
    "runs",
    "report",
    "track",
    "testing",
]
ROOMS = ["text", "tokens", "data", "models", "adapt", "interop", "decode", "train", "align", "prompt", "evaluate"]
ROOMS += ["plan", "recipes", "serve", "api", "cli", "__main__"]
ORDER = [*GROUND, *ROOMS]
TORCH_FREE = ["errors", "files", "config", "runs", "report"]
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib", "cloudpickle", "yaml"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.save",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "torch.hub.load",
}


def module_name(path):
    parts = ["idiolect", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def imports(module, tree, known):
    """The modules of the house that `tree` imports, wherever in it; a module named in a string counts."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known:
            found.add(node.value)
    return {name for name in found if name == "idiolect" or name.startswith("idiolect.")}


def room(module):
    """The room of a module; the package itself, which holds the version, is in none."""
    return module.split(".")[1] if "." in module else None


def wrong_imports(modules):
    found = []
    for module, tree in modules.items():
        for other in imports(module, tree, modules):
            here, there = room(module), room(other)
            if there is not None and here != there and (here is None or ORDER.index(there) >= ORDER.index(here)):
                found.append(f"{module} imports {other}")
            if other == f"idiolect.{there}" and there in packages(modules) - {"cli"}:  # the entry point is cli.main
                found.append(f"{module} imports through {other}/__init__")
    return found


def packages(modules):
    return {room(name) for name in modules if name.count(".") >= 2}


def circles(modules):
    """Chains of modules that end where they began."""
    graph = {module: imports(module, tree, modules) & set(modules) for module, tree in modules.items()}
    found, done = [], set()

    def walk(module, path):
        if module in path:
            found.append(" → ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for other in sorted(graph[module]):
                walk(other, [*path, module])
            done.add(module)

    for module in graph:
        walk(module, [])
    return found


def dangers(tree):
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
        found += [f"import {name}" for name in names if name in FORBIDDEN_IMPORTS]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in FORBIDDEN_CALLS:
                found.append(f"{name}(")
            if given.get("shell", "False") != "False":
                found.append(f"{name}(shell=…)")
            if given.get("allow_pickle", "False") != "False":
                found.append(f"{name}(allow_pickle=…)")
    return found


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(SOURCE.parent)}
    )


def test_every_module_lies_in_a_room_of_the_design():
    assert {room(module) for module in MODULES} - {None} <= set(ORDER)


def test_rooms_import_only_rooms_to_their_left():
    assert wrong_imports(MODULES) == []


def test_there_is_no_circle():
    assert circles(MODULES) == []


def test_nothing_in_the_source_runs_foreign_code():
    assert {module: found for module, tree in MODULES.items() if (found := dangers(tree))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "def f():\n    from idiolect.train.loop import fit",
        "import idiolect.cli.making",
        "from idiolect import api",
        "if True:\n    from idiolect.recipes import load",
        "from idiolect.models import contract",
        "import importlib\nimportlib.import_module('idiolect.cli.making')",
    ],
)
def test_an_import_of_a_room_to_the_right_is_seen(line):
    modules = {name: ast.parse("") for name in MODULES} | {"idiolect.text.read": ast.parse(line)}
    assert len(wrong_imports(modules)) == 1


def test_a_circle_is_seen_inside_functions_too():
    modules = {
        "idiolect.text.a": ast.parse("from idiolect.text import b"),
        "idiolect.text.b": ast.parse("def f():\n    import idiolect.text.c"),
        "idiolect.text.c": ast.parse("from idiolect.text.a import x"),
    }
    assert circles(modules) == ["idiolect.text.a → idiolect.text.b → idiolect.text.c → idiolect.text.a"]


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "eval('1')",
        "exec(text)",
        "torch.load(path, weights_only=True)",
        "subprocess.run(command, shell=True)",
        "np.load(path, allow_pickle=True)",
        "os.system('ls')",
    ],
)
def test_a_dangerous_line_is_seen(line):
    assert len(dangers(ast.parse(line))) == 1


def test_a_harmless_line_is_not():
    assert (
        dangers(ast.parse("model.eval()\nre.compile('x')\ntorch.compile(f)\nsubprocess.run(['ls'], shell=False)")) == []
    )


def settings_modules():
    return [module for module in MODULES if module.endswith(".settings")]


def test_ground_and_settings_are_free_of_torch():
    modules = [f"idiolect.{name}" for name in TORCH_FREE if f"idiolect.{name}" in MODULES] + settings_modules()
    modules += ["idiolect", "idiolect.api", "idiolect.cli"]
    code = f"import sys, importlib\nfor m in {modules}:\n    importlib.import_module(m)\nprint('torch' in sys.modules)"
    done = run_python(code)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_a_room_alone_loads_nothing_else():
    rooms = sorted(packages(MODULES) - {"cli"})
    code = (
        "import sys, importlib\n"
        f"for r in {rooms}:\n    importlib.import_module('idiolect.' + r)\n"
        "print(sorted(m for m in sys.modules if m.startswith('idiolect')), 'torch' in sys.modules)"
    )
    expected = sorted(["idiolect", *(f"idiolect.{name}" for name in rooms)])
    assert run_python(code).stdout.strip() == f"{expected} False"
