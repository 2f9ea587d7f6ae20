"""Where the first version comes from when it is not to begin from nothing: other weights, or other clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.numpy import load

from common.data.clips import Clips
from common.errors import CoordinatorError
from common.files import locked, make_folder
from common.models.acoustic import without_head
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.release import LARGEST_WEIGHTS, MANIFEST, load_release
from common.protocol.tensors import Weights, schema_of
from common.task import Task
from common.training.warm_start import EPOCHS, learn_body, make_babble
from fl_server.settings import BABBLE


def find_shared_body(sources: Sequence[str], task: Task) -> Weights:
    """As `find_body`, with the cache of the user: what is learned from the same clips is learned once."""
    cache = make_folder(platformdirs.user_cache_path("fedaudio") / "warm-start", mode=0o700)
    with locked(cache / ".lock"):
        return find_body(sources, task, cache)


def find_body(sources: Sequence[str], task: Task, cache: Path, epochs: int | None = None) -> Weights:
    """All parameters but the head's for a model of `task`.

    Args:
        sources: one release or safetensors file to take them from; or collections of clips, of which "babble"
            is one, to learn them from.
        cache: folder for what is made of clips.
        epochs: of that training; `EPOCHS` if not given.

    Raises:
        CoordinatorError: FA-5120 the weights do not fit, FA-5121 they cannot be read, FA-5122 they are given
            beside something else.
        ProtocolError: FA-3001..FA-3012, FA-3044, the release is damaged.
        DataError, TrainingError, StorageError: as `learn_body`; FA-2001..FA-2006, a collection.
    """
    stored = [Path(source) for source in sources if source != BABBLE and _has_weights(Path(source))]
    if stored and len(sources) > 1:
        raise CoordinatorError(
            "FA-5122",
            f"A warm start takes weights from one place, and {stored[0]} is given beside others.",
            "Give it alone, or give collections of clips only.",
        )
    if stored:
        return read_body(stored[0], task)
    collections = [make_babble(cache) if source == BABBLE else Clips.load(Path(source)) for source in sources]
    return learn_body(collections, task, cache, epochs=epochs or EPOCHS)


def read_body(source: Path, task: Task) -> Weights:
    """All parameters but the head's in a release's folder or a safetensors file.

    Raises:
        CoordinatorError: FA-5120 they are not those of a model of `task`, FA-5121 they cannot be read.
        ProtocolError: FA-3001..FA-3012, FA-3044, the release is damaged.
    """
    if source.is_dir():
        release = load_release(source)
        theirs, body = release.manifest.task, without_head(release.weights)
        if theirs.front_end != task.front_end:
            raise _does_not_fit(source, "it is of another front end")
    else:
        body = _read_tensors(source)
    needed = schema_of(without_head(get_weights(build_model(task, torch.Generator()))))
    given = schema_of(body)
    for name in sorted(given.keys() | needed.keys()):
        if given.get(name) != needed.get(name):
            has, wants = (schema.get(name, "missing") for schema in (given, needed))
            raise _does_not_fit(source, f"there '{name}' is {has}, in {task.architecture} it is {wants}")
    return body


def warm_model(task: Task, body: Weights) -> Weights:
    """A whole model of `task`: `body`, and a head of zeros, by which all labels are equally likely.

    Not a random head: its logits would have to be unlearned, through noise where training is private.
    """
    whole = get_weights(build_model(task, torch.Generator()))
    return {name: body.get(name, np.zeros_like(value)) for name, value in whole.items()}


def _has_weights(source: Path) -> bool:
    return source.suffix == ".safetensors" or (source / MANIFEST).is_file()


def _read_tensors(source: Path) -> Weights:
    try:
        if source.stat().st_size > LARGEST_WEIGHTS:
            raise ValueError("it is too large")
        body = without_head(load(source.read_bytes()))
        if not all(value.dtype == np.float32 and np.isfinite(value).all() for value in body.values()):
            raise ValueError("not all of it are finite numbers in single precision")
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CoordinatorError(
            "FA-5121",
            f"{source} holds no weights that can be read: {_said(error)}.",
            "Give a release's folder, or a safetensors file.",
        ) from error
    return body


def _said(error: Exception) -> str:
    # All that safetensors says of a type that numpy has not is its name.
    return f"numbers of the type {error.args[0]}" if isinstance(error, KeyError) else str(error)


def _does_not_fit(source: Path, why: str) -> CoordinatorError:
    return CoordinatorError(
        "FA-5120",
        f"{source} does not fit this task: {why}.",
        "Use weights of the same architecture, width and front end; only the labels may differ.",
    )
