"""docs/protocol.md says what the code does: names in order, sizes, limits, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from common.protocol.answer import CLIP_LIMIT, LARGEST_NOTE, PrivacySpent, Refusal, Report
from common.protocol.enrolment import LARGEST_REQUEST, Enrolled, EnrolmentRequest, Refused, RenewalRequest
from common.protocol.plan import LARGEST_PLAN, Augmentation, Plan, Privacy, Recipe
from common.protocol.release import LARGEST_GRAPH, LARGEST_MANIFEST, VALUES_LIMIT, Graph, Manifest, Metrics
from common.security import envelope, statement
from common.security.sealing import MLKEM_BYTES, OVERHEAD, X25519_BYTES, Suite
from common.security.trust import LARGEST_TRUST, Trust
from common.task import Task, Trigger

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "protocol.md").read_text()


def names(text: str) -> str:
    """Every name in back quotes, in order."""
    return " ".join(["", *re.findall(r"`([a-z0-9_]+)`", text), ""])


@pytest.mark.parametrize(
    "model",
    [Trust, Plan, Task, Report, PrivacySpent, Refusal, Manifest, Metrics, EnrolmentRequest, RenewalRequest,
     Enrolled, Refused, Privacy],
)  # fmt: skip
def test_the_keys_of_each_document_are_there_in_order(model: type[BaseModel]) -> None:
    keys = list(model.model_fields)
    first_cells = "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    # A key of an object within an object may have its own keys right after it.
    run = r"(?: [a-z0-9_]+){0,3} ".join(keys)
    tight = " ".join(keys)
    assert f" {tight} " in names(first_cells) or re.search(f" {run} ", names(PAGE)), model.__name__


@pytest.mark.parametrize("model", [Recipe, Augmentation, Trigger, Graph])
def test_the_keys_of_inner_objects_are_there_in_order(model: type[BaseModel]) -> None:
    keys, said = list(model.model_fields), iter(names(PAGE).split())
    assert all(key in said for key in keys)


def test_the_header_of_an_envelope_is_laid_out_as_the_table_says() -> None:
    table = PAGE[PAGE.index("## 4.") :]
    rows = [tuple(map(int, row)) for row in re.findall(r"^\| (\d+) \| (\d+) \|", table, re.MULTILINE)][:12]
    assert [begin for begin, _ in rows] == [
        sum(size for _, size in rows[:place]) for place in range(len(rows))
    ]
    assert sum(size for _, size in rows) == envelope.HEADER_BYTES
    assert f"header ({envelope.HEADER_BYTES})" in PAGE


def test_the_sizes_are_those_of_the_code() -> None:
    for suite in Suite:
        around = envelope.HEADER_BYTES + envelope.SIGNATURE_BYTES + OVERHEAD[suite]
        assert f"133 + {OVERHEAD[suite]} + 64 = {around}" in PAGE
    assert f"ML-KEM-768 ({MLKEM_BYTES})" in PAGE
    assert f"X25519 ({X25519_BYTES})" in PAGE
    assert f"| {statement.SIGNATURE_BYTES} | rest | body |" in PAGE


def test_the_limits_are_those_of_the_code() -> None:
    assert LARGEST_TRUST == 64 << 10
    assert LARGEST_PLAN == LARGEST_MANIFEST == 1 << 20
    assert LARGEST_NOTE == 64 << 10
    assert LARGEST_REQUEST == 16 << 10
    assert (LARGEST_GRAPH, VALUES_LIMIT) == (64 << 20, 1 << 26)
    for line in (
        "| trust statement | 64 KiB |",
        "| plan | 1 MiB |",
        "| note of an answer | 64 KiB |",
        "| enrolment, renewal request | 16 KiB |",
        "| manifest, graph, weights of a release | 1 MiB, 64 MiB, 2^26 values |",
        f"{CLIP_LIMIT:,}",
    ):
        assert line in PAGE


def test_what_is_hashed_and_signed_is_named_as_in_the_code() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "common").rglob("*.py"))
    for label in ("fedaudio/FAE1/seal", "fedaudio/FAE1/sign", "fedaudio/node/v1"):
        assert f'"{label}" | \\0' in PAGE.replace("\\|", "|")
        assert label in sources


def test_every_file_of_vectors_is_described() -> None:
    described = set(re.findall(r"`([a-z]+\.json)`", PAGE[PAGE.index("## 11.") :]))
    assert described == {path.name for path in (ROOT / "tests" / "vectors").glob("*.json")}


def test_every_link_leads_somewhere() -> None:
    anchors = {
        "#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target in anchors or (ROOT / "docs" / target).exists(), target
