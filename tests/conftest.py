import hypothesis
import pytest

# a busy machine must not fail a property: pytest-timeout ends what hangs
hypothesis.settings.register_profile("idiolect", deadline=None)
hypothesis.settings.load_profile("idiolect")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or leaves anything in the user's cache of encoded text."""
    monkeypatch.setenv("IDIOLECT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
