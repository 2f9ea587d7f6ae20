"""What is loaded where: torch only where it trains, and nothing that phones home."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import pytest

HEAVY = ("torch", "torchaudio", "opacus", "scipy", "onnx")


def loaded_by(module: str, *names: str) -> list[str]:
    """Which of `names` are loaded after importing `module` in a fresh interpreter."""
    script = f"import sys, {module}; print(*(name for name in {names!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "module", ["fl_client.link_process", "fl_client.supervisor", "fedaudio", "fedaudio.cli"]
)
def test_a_device_waits_and_a_command_starts_without_torch(module: str) -> None:
    assert loaded_by(module, *HEAVY) == []


def test_what_was_spent_is_told_without_torch() -> None:
    script = (
        "import sys; from common.privacy.accounting import epsilon_of; epsilon_of({(0.1, 1.0): 9}, 1e-5); "
        "print(*(name for name in ('torch', 'opacus') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_commands_do_not_wait_for_flower() -> None:
    assert loaded_by("fedaudio.cli", "flwr") == []


def test_only_the_worker_loads_torch() -> None:
    assert "torch" in loaded_by("fl_client.worker", *HEAVY)


def test_importing_fedaudio_switches_telemetry_off() -> None:
    script = dedent("""
        import fedaudio, os
        print(os.environ["FLWR_TELEMETRY_ENABLED"], os.environ["FLWR_DISABLE_UPDATE_CHECK"])
    """)
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["0", "1"]


def test_the_public_names_are_there() -> None:
    script = (
        "import fedaudio; print(all(getattr(fedaudio, name) for name in fedaudio.__all__)); fedaudio.nothing"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True"]
    assert "AttributeError: module 'fedaudio' has no attribute 'nothing'" in done.stderr
