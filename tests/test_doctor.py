import sys
import urllib.error

import pytest

from ft_magic import packages
from ft_magic.hardware import Gpu, Hardware
from ft_magic.shell import doctor

GIB = 2**30
LAPTOP = Hardware(4, "CPU <b>", (), 16 * GIB, 12 * GIB, (), "3.12.1", "Linux")
T4 = Gpu("Tesla T4", 15 * GIB, (7, 5))


@pytest.fixture(autouse=True)
def quiet_place(monkeypatch, tmp_path):
    """No network, no tokens, an empty home."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("FT_MAGIC_CACHE", str(tmp_path / "cache"))
    for name in (*doctor.TOKENS, "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def installed(monkeypatch, **versions):
    """Let everything be installed in its lowest accepted version, except these; None = not installed."""
    lowest = {need.name: need.versions.removeprefix(">=").partition(",")[0] for need in packages.needs()}
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(packages, "version_of", lambda name: (lowest | named).get(name) or "")


def finding(result, topic):
    return next(found for found in result.findings if found.topic == topic)


def test_missing_packages_become_one_fixing_cell(monkeypatch):
    installed(monkeypatch, trl=None, gguf=None, ft_magic="0.1.0")
    result = doctor.check(LAPTOP)
    assert finding(result, "training").state == "problem"
    assert "trl is missing" in finding(result, "training").detail
    assert '%pip install "ft-magic[train,gguf]"' in result.cell
    assert result.cell in repr(result)


def test_a_wrong_version_is_named_with_what_is_accepted(monkeypatch):
    installed(monkeypatch, trl="1.15.0")
    assert "trl 1.15.0 is not >=1.14,<1.15" in finding(doctor.check(LAPTOP), "training").detail


def test_the_kernels_own_packages_are_never_upgraded(monkeypatch):
    installed(monkeypatch, ipython="7.20.0", anywidget="0.8.0", ft_magic="0.1.0")
    result = doctor.check(LAPTOP)
    assert finding(result, "kernel side").state == "problem"
    assert "ipython" not in result.cell
    assert "upgrade" not in repr(result).lower()


def test_an_old_torchao_is_removed(monkeypatch):
    installed(monkeypatch, torchao="0.10.0")
    result = doctor.check(LAPTOP)
    assert finding(result, "torchao").state == "problem"
    assert "%pip uninstall -y torchao" in result.cell.splitlines()


def test_a_new_or_absent_torchao_is_not_mentioned(monkeypatch):
    for version in ("0.16.0", "0.17.1", None):
        installed(monkeypatch, torchao=version)
        assert not [found for found in doctor.check(LAPTOP).findings if found.topic == "torchao"]


def test_a_cpu_build_beside_a_gpu_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "_torch_cuda", lambda: "")
    installed(monkeypatch, torch="2.13.0+cpu")
    result = doctor.check(Hardware(4, "CPU", (), 16 * GIB, 12 * GIB, (T4,), "3.12.1", "Linux"))
    assert finding(result, "torch").state == "problem"
    assert "install --force-reinstall torch" in result.cell
    assert finding(result, "bf16").state == "note"


def test_the_build_is_read_from_torchs_files(monkeypatch, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "torch" / "version.py").write_text(
        "cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert doctor._torch_cuda() == "12.8"


def test_little_memory_and_disk_are_warnings_with_a_way_on(monkeypatch):
    monkeypatch.setattr(doctor.hardware, "disk_free_bytes", lambda _: GIB)
    result = doctor.check(Hardware(2, "CPU", (), 4 * GIB, GIB, (), "3.12.1", "Linux"))
    for topic in ("memory", "runs folder", "cache"):
        assert finding(result, topic).state == "warning"
        assert finding(result, topic).fix
    assert "FT_MAGIC_RUNS" in finding(result, "runs folder").fix


def test_a_token_is_named_and_its_value_never_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    result = doctor.check(LAPTOP)
    assert finding(result, "tokens").detail == "HF_TOKEN"
    assert "verysecret" not in repr(result) + result._repr_html_()


def test_a_hub_login_counts_as_a_token(tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_verysecret")
    assert finding(doctor.check(LAPTOP), "tokens").detail == "hub login"


def test_everything_shown_is_escaped():
    html = doctor.check(LAPTOP)._repr_html_()
    assert "CPU &lt;b&gt;" in html
    assert "CPU <b>" not in html


def test_offline_mode_asks_no_network(monkeypatch):
    monkeypatch.setattr(doctor, "_reachable", lambda _: pytest.fail("asked the network"))
    assert "HF_HUB_OFFLINE" in finding(doctor.check(LAPTOP), "hub").detail


class _Answer:
    def close(self):
        pass


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (_Answer(), "ok"),
        (urllib.error.HTTPError("x", 503, "busy", None, None), "ok"),
        (urllib.error.URLError("no route"), "warning"),
        (TimeoutError(), "warning"),
    ],
)
def test_the_hub_is_asked_by_head_only(monkeypatch, outcome, state):
    def urlopen(request, timeout):
        assert request.get_method() == "HEAD"
        assert request.full_url == "https://hub.example"
        assert timeout < 2
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setattr(doctor.urllib.request, "urlopen", urlopen)
    assert finding(doctor.check(LAPTOP), "hub").state == state


def test_the_demo_model_is_ready_once_its_stamp_is_there(tmp_path):
    from ft_magic.cached_folder import STAMP_NAME
    from ft_magic.models.demo import NAME

    assert finding(doctor.check(LAPTOP), "demo model").state == "note"
    folder = tmp_path / "cache" / "models" / NAME
    folder.mkdir(parents=True)
    (folder / STAMP_NAME).write_text("{}")
    assert finding(doctor.check(LAPTOP), "demo model").state == "ok"


@pytest.mark.parametrize(
    ("versions", "installed_version", "fits"),
    [
        (">=2.10,<2.15", "2.13.0+cpu", True),
        (">=2.10,<2.15", "2.9.1", False),
        (">=2.10,<2.15", "2.15", False),
        ("<=5.17.0", "5.17", True),
        (">=2", "2.0.0rc1", True),
        ("!=0.19.0", "0.19", False),
        ("!=4.0.*", "4.0.3", False),
        ("!=4.0.*", "4.1", True),
        ("~=1.4.2", "1.4.9", True),
        ("~=1.4.2", "1.5.0", False),
        (">=2026.10.9", "2026.11.1", True),
        ("", "1", True),
    ],
)
def test_versions_are_compared_as_numbers(versions, installed_version, fits):
    assert packages.accepts(versions, installed_version) is fits


def test_needs_come_from_the_project_file():
    needs = {(need.extra, need.name): need.versions for need in packages.needs()}
    assert needs["", "ipython"] == ">=7.34"
    assert needs["train", "trl"].startswith(">=")
    assert ("gguf", "xllamacpp") in needs
    assert not [name for _, name in needs if name == "ft-magic"]
