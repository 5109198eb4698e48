import os

import pytest
from tiny_llama import make_model

# Two cores shared by workers, kernels and pytest itself: threads must not spin for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a random Llama of 60 thousand weights with a chat template."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def runs_folder(tmp_path, monkeypatch):
    """An empty runs folder and a cache of its own, so that no test waits for another's device lock."""
    monkeypatch.setenv("FT_MAGIC_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def module_runs(tmp_path_factory):
    """The same for runs that all tests of a module share."""
    folder = tmp_path_factory.mktemp("module")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_MAGIC_RUNS", str(folder / "runs"))
        patch.setenv("FT_MAGIC_CACHE", str(folder / "cache"))
        yield folder / "runs"
