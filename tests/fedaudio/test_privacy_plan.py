"""`fedaudio privacy plan`: what a person is told, and a machine."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from common.errors import FedAudioError
from common.protocol.plan import Privacy
from fedaudio.cli import app

ARABIC = [
    "--clips",
    "60",
    "--cohort",
    "14",
    "--width",
    "64",
    "--batch",
    "30",
    "--steps",
    "1",
    "--rounds",
    "60",
    "--units",
    "60",
    "--trained",
    "all",
    "--architecture",
    "tc-stream",
]


def plan(*options: str) -> str:
    result = CliRunner().invoke(app, ["privacy", "plan", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_says_in_words_that_training_all_from_scratch_fails_and_a_warm_head_does_not() -> None:
    said = plan(*ARABIC)
    lines = {line[:24].strip(): line for line in said.splitlines()}
    for row in ("as planned", "all, from scratch"):
        assert "27,122" in lines[row]
        assert "next to nothing" in lines[row]
    assert "most of what it would without noise" in lines["head, on a warm rest"]
    assert 'recipe.trained = "head"' in said
    assert "learnt from public or synthetic sounds" in said


def test_it_names_what_an_epsilon_needs_to_be_read() -> None:
    said = plan(*ARABIC, "--unit", "speaker", "--units", "40")
    for word in (
        "epsilon",
        "delta 1e-05",
        "one speaker",
        "add or remove one",
        "poisson",
        "rdp",
        "prv",
        "trusted",
    ):
        assert word in said
    assert "30 of its 40 speakers" in said


def test_a_machine_gets_the_same() -> None:
    told = json.loads(plan(*ARABIC, "--trained", "head", "--parameters", "6400", "--json"))
    assert told["planned"]["parameters"] == 6400
    assert told["planned"]["start"] == told["head"]["start"] == "warm"
    assert told["planned"]["outlook"] == "much"
    assert told["whole"]["outlook"] == "nothing"
    assert 7.5 < told["cost"]["epsilon"] <= 8
    assert told["cost"]["unit"] == "clip"
    assert told["needed"]["60"]["8.0"] == pytest.approx(told["cost"]["noise_multiplier"], rel=0.01)


def test_a_head_from_scratch_and_all_of_a_warm_model_can_be_asked_about() -> None:
    for options, start in ((["--trained", "head", "--from-scratch"], "scratch"), (["--warm"], "warm")):
        assert json.loads(plan(*ARABIC, *options, "--json"))["planned"]["start"] == start


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--clips", "0"], "FA-7030"),
        (["--clips", "60", "--batch", "0"], "FA-7030"),
        (["--clips", "60", "--unit", "speaker"], "FA-7030"),
        (["--clips", "60", "--epsilon", "-1"], "FA-7030"),
        (["--clips", "60", "--parameters", "0"], "FA-7030"),
        (["--clips", "60", "--epsilon", "0.001", "--rounds", "1000000"], "FA-7031"),
        (["--clips", "60", "--architecture", "tc-steam"], "FA-7001"),
        (["--clips", "60", "--width", "1"], "FA-6003"),
        (["--clips", "60", "--units", "2000000"], "FA-7030"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_code(options: list[str], code: str) -> None:
    with pytest.raises(FedAudioError) as refused:
        CliRunner().invoke(app, ["privacy", "plan", *options], catch_exceptions=False)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--cohort", "A cohort of 0 is too small."),
        ("--batch", "A batch of 0 is too small."),
        ("--rounds", "A schedule of 0 rounds learns nothing."),
        ("--steps", "A round of 0 steps learns nothing."),
    ],
)
def test_what_is_too_small_is_said_in_a_sentence(option: str, said: str) -> None:
    with pytest.raises(FedAudioError) as refused:
        CliRunner().invoke(app, ["privacy", "plan", "--clips", "60", option, "0"], catch_exceptions=False)
    assert refused.value.happened == said


def test_the_default_is_the_recipe_of_a_coordinator_made_with_dp() -> None:
    told = json.loads(plan("--clips", "100", "--cohort", "14", "--json"))
    assert told["cost"]["noise_multiplier"] == pytest.approx(Privacy().noise_multiplier, rel=0.01)
    assert (told["schedule"]["steps"], told["cost"]["sampling_rate"]) == (1, 1.0)
    assert told["planned"] == told["head"]


def test_what_it_costs_hangs_on_the_units_a_device_is_taken_to_have() -> None:
    """As on the device: with thirty thousand clips it still takes all of a hundred into each step."""
    few, many = (json.loads(plan("--clips", clips, "--json")) for clips in ("60", "30000"))
    assert few["cost"] == many["cost"]
    assert many["planned"]["of_run"] == pytest.approx(few["planned"]["of_run"] * 30000 / 60)
    real = json.loads(plan("--clips", "30000", "--units", "30000", "--json"))
    assert real["cost"]["sampling_rate"] == pytest.approx(4096 / 30000)
