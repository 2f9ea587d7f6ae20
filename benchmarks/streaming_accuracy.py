"""Arabic commands in continuous sound: ten words in noise at 10 dB, said by people nobody trained on.

    python -m benchmarks.streaming_accuracy [--data ../shared/data] [--release DIR] [--epochs 30] [--hours 1]
        [--seed 0] [--out DIR] [--json]

Trains the default model with the default recipe in one place on the fourteen speakers of the scenario
keywords-arabic: on its ten words alone; with an eleventh label, `background`, of synthetic speech of other
words and synthetic textures; and with that label, no clip of it, and `recipe.negatives = 1`, by which a
training makes such sounds of the words themselves.

Plays the clips of the scenario's four unseen speakers to each model, each clip once, in noise, with pauses;
and hours in which none of the words is said: synthetic talk and noise, made of other seeds than those trained
on, and real recordings that are like nothing trained on (English digits, FSDD, and environmental sounds,
ESC-10). The threshold for one false accept an hour is read off the curve that is reported, as is usual.

Settings are chosen with --validate: it plays four of the fourteen speakers, on whom nothing is trained then,
half of the speakers of FSDD and half of the sources of ESC-10. Without it the other halves are heard.
--release: the version in that folder instead, whatever it was trained on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from common.audio.golden import golden_clip
from common.data.clips import Clip, Clips
from common.data.synthetic.corpus import BACKGROUND, kept_corpus
from common.files import sha256
from common.models.export import export_graph
from common.models.golden import golden_scores
from common.models.registry import build_model
from common.protocol.plan import Recipe
from common.protocol.release import (
    Anchor,
    Golden,
    Manifest,
    Release,
    describe_tensors,
    digest_of,
    load_release,
)
from common.protocol.tensors import Weights, encode_weights
from common.task import Task
from common.training.local import train_local
from fedaudio.evaluation.results import listening_document
from fedaudio.evaluation.text import print_listening
from fedaudio.evaluation.trial import Listened, Sounds, listen_through
from simulations.load import load_scenario

COLLECTION = "arabic_speech_commands"
NEGATIVES = ("fsdd", "esc10")

BABBLE_VOICES, BABBLE_LABELS = 10, 30
TEXTURE_SITES, TEXTURE_LABELS, TEXTURE_TAKES = 10, 8, 2
CORPUS_SEED = 7_001
"""Far from the seeds that streams are made of, which are lists of small numbers."""

VALIDATION = slice(1, None, 4)
"""Which of the speakers that may be trained on --validate sets aside."""


def background(cache: Path) -> Clips:
    """Clips without a command: words nobody asks for, and the sounds of places."""
    babble = kept_corpus(
        cache, kind="babble", voices=BABBLE_VOICES, labels=BABBLE_LABELS, takes=1, seed=CORPUS_SEED
    )
    textures = kept_corpus(
        cache,
        kind="textures",
        voices=TEXTURE_SITES,
        labels=TEXTURE_LABELS,
        takes=TEXTURE_TAKES,
        seed=CORPUS_SEED,
    )
    found = (*Clips.load(babble), *Clips.load(textures))
    return Clips(Clip(clip.path, BACKGROUND, clip.speaker, clip.group) for clip in found)


def trained(clips: Clips, options: argparse.Namespace, *, negatives: int = 0) -> Release:
    """A release of the default model, trained on `clips` in one place."""
    task = Task(labels=(*clips.labels, BACKGROUND) if negatives else clips.labels)
    recipe = Recipe(epochs=options.epochs, negatives=negatives)
    weights, _ = train_local(clips, task, recipe, cache=options.out / "cache" / "energies", seed=options.seed)
    return release_of(task, weights)


def release_of(task: Task, weights: Weights) -> Release:
    """`weights` as a release that nobody signed."""
    import torch

    graph_bytes, graph = export_graph(build_model(task, torch.Generator()), task)
    created = datetime.now(UTC)
    golden = Golden(digest=digest_of(golden_clip(task.clip_samples)), scores=golden_scores(task, weights))
    manifest = Manifest(
        coordinator="0" * 64,
        version=0,
        created=created,
        expires=created + timedelta(days=365),
        task=task,
        weights=sha256(encode_weights(weights)),
        tensors=describe_tensors(weights),
        graph=graph,
        golden=golden,
        evidence=Anchor(entries=0, head="0" * 64),
    )
    return Release(manifest, weights, graph_bytes)


def releases(own: Clips, options: argparse.Namespace) -> Iterator[tuple[str, Release]]:
    """What is compared."""
    if options.release is not None:
        yield str(options.release), load_release(options.release)
        return
    yield "ten words", trained(own, options)
    made = background(options.out / "cache")
    yield f"and background: {len(made)} synthetic clips", trained(Clips((*own, *made)), options)
    yield "and background: made of the words", trained(own, options, negatives=1)


def half(clips: Clips, *, first: bool) -> list[Clip]:
    """The clips of the first half of the speakers, or of the others; of recordings where nobody speaks."""
    names = sorted({clip.speaker or clip.group or "" for clip in clips})
    chosen = set(names[: len(names) // 2] if first else names[len(names) // 2 :])
    return [clip for clip in clips if (clip.speaker or clip.group or "") in chosen]


def main() -> None:
    """Measure, and print a table; with --json, one JSON object is the last line."""
    options = _options()
    data = options.data.resolve()
    missing = [name for name in (COLLECTION, *NEGATIVES) if not (data / name).is_dir()]
    if missing:
        reason = f"there is no {' and no '.join(missing)} in {options.data}"
        print(json.dumps({"skipped": reason}) if options.json else f"skipped: {reason}")
        return
    scenario = load_scenario("keywords-arabic", [f"data.path={json.dumps(str(data / COLLECTION))}"])
    assert not isinstance(scenario.data.unseen, int)
    unseen = set(scenario.data.unseen)
    clips = Clips.load(data / COLLECTION)
    known = clips.filter(lambda clip: clip.speaker not in unseen)
    if options.validate:
        unseen = set(known.speakers[VALIDATION])
        known = known.filter(lambda clip: clip.speaker not in unseen)
    tested = clips.filter(lambda clip: clip.speaker in unseen)
    negatives = Clips(
        clip for name in NEGATIVES for clip in half(Clips.load(data / name), first=options.validate)
    )
    sounds = Sounds(tested, negatives, options.snr_db, options.hours, options.seed)
    rows: dict[str, Listened] = {}
    for name, release in releases(known, options):
        print(f"{name}: listening", file=sys.stderr, flush=True)
        rows[name] = listen_through(release, sounds, options.false_accepts, lambda done: None)
    for name, listened in rows.items():
        print(f"\n{name}")
        print_listening(Console(highlight=False, width=110), listened)
    if options.json:
        documents = [{"what": name} | listening_document(listened) for name, listened in rows.items()]
        print(json.dumps({"benchmark": "streaming_accuracy", "seed": options.seed, "rows": documents}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("..") / "shared" / "data")
    parser.add_argument("--validate", action="store_true", help="hear what settings are chosen by")
    parser.add_argument("--release", type=Path, help="folder of a release to try instead")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hours", type=float, default=1.0, help="of synthetic talk and noise together")
    parser.add_argument("--snr-db", type=float, default=10.0)
    parser.add_argument("--false-accepts", type=float, default=1.0, help="an hour")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs") / "benchmark-streaming")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
