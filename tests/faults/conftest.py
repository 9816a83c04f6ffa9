import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the fault tests share files of their own

from forkserver import ForkServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ForkServer(tmp_path_factory.mktemp("server") / "log")
    yield server
    server.close()


@pytest.fixture
def record(request):
    """Tells what a test found, and keeps it in the folder $IDIOLECT_FAULT_COUNTS for docs/reliability.md (page.py)."""

    def record(row, name, **figures):
        print(f"{row}: {name}: {figures}")
        if folder := os.environ.get("IDIOLECT_FAULT_COUNTS"):
            os.makedirs(folder, exist_ok=True)
            told = {"row": row, "name": name, "test": request.node.nodeid, **figures}
            Path(folder, f"{row} {name}.json".replace("/", "-")).write_text(json.dumps(told, indent=1))

    return record
