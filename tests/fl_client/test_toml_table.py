"""One table of a file is replaced, and what a person wrote around it stays."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DeviceError
from fl_client.toml_table import merge_table

PATH = ("listen", "thresholds")

FILE = """# mine
name = "kitchen"

[ listen . thresholds ]  # by hand
# yes is easy
yes = 0.5
other = 0.25

# about the rest
[listen]
smoothing_seconds = 0.1
"""


def test_only_the_table_changes_and_labels_of_another_model_stay() -> None:
    merged = merge_table(FILE, PATH, {"yes": 0.75, "näh": 0.5}, "how it came")
    before, _, after = merged.partition("[listen.thresholds]\n")
    assert before == FILE[: FILE.index("[ listen")]
    assert after.endswith(FILE[FILE.index("\n# about") :])
    assert "# how it came\n" in after
    assert tomllib.loads(merged)["listen"]["thresholds"] == {"yes": 0.75, "other": 0.25, "näh": 0.5}


def test_a_table_that_is_not_there_is_added_at_the_end() -> None:
    for text in ("", "a = 1", "a = 1\n\n[listen]\nb = 2\n\n\n"):
        merged = merge_table(text, PATH, {"yes": 0.5}, "note")
        assert merged.startswith(text.rstrip("\n"))
        assert merged.endswith("[listen.thresholds]\n# note\nyes = 0.5\n")


@pytest.mark.parametrize(
    "text",
    [
        "listen = {thresholds = {yes = 0.5}}\n",
        "[listen]\nthresholds = {yes = 0.5}\n",
        "[listen]\nthresholds.yes = 0.5\n",
        'text = """\n[listen.thresholds]\n"""\n',
    ],
)
def test_another_way_to_write_it_is_refused_rather_than_spoilt(text: str) -> None:
    with pytest.raises(DeviceError, match="FA-4222"):
        merge_table(text, PATH, {"yes": 0.6}, "note")


@given(
    names=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
        st.floats(0.01, 0.99),
        max_size=5,
    )
)
def test_any_label_comes_back(names: dict[str, float]) -> None:
    merged = merge_table(FILE, PATH, names, "note")
    merged = merge_table(merged, PATH, names, "note")
    assert tomllib.loads(merged)["listen"]["thresholds"] == {"yes": 0.5, "other": 0.25} | names
    assert tomllib.loads(merged)["listen"]["smoothing_seconds"] == 0.1
