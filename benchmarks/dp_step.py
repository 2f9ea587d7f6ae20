"""Cost of one private step beside a plain one: each engine, and Opacus as its own users run it.

    python -m benchmarks.dp_step [--rounds N] [--json]

A step makes the gradient of a batch in hand: a plain one the mean, a private one the noised mean of the
samples' own clipped ones. One thread, processor time. Every round times each contender once, so that a busy
machine hits all alike; medians over the rounds. Peak memory is that of a process which takes five steps and
does nothing else, with the same micro-batches for all.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.acoustic import AcousticModel
from common.models.registry import build_model
from common.privacy.clipping import FlatClipping
from common.privacy.dp_sgd import private_sum
from common.privacy.engines.engine import trained
from common.privacy.engines.functorch import FunctorchEngine
from common.privacy.engines.fused import FusedEngine
from common.privacy.secure_random import SecureRandom
from common.protocol.plan import Privacy
from common.task import Task
from common.training.micro_batch import keep_freed_memory, micro_batch_size

ARCHITECTURES, BATCHES = ("ds-cnn", "tc-stream"), (16, 64)
PRIVACY = Privacy()

Step = Callable[[Tensor, Tensor], None]


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def plain(model: AcousticModel, size: int) -> Step:
    def step(features: Tensor, labels: Tensor) -> None:
        for value in model.parameters():
            value.grad = None
        for part, truth in zip(torch.split(features, size), torch.split(labels, size), strict=True):
            (loss(model(part), truth).sum() / len(labels)).backward()

    return step


def ours(engine_type: type[FusedEngine | FunctorchEngine]) -> Callable[[AcousticModel, int], Step]:
    def contender(model: AcousticModel, size: int) -> Step:
        engine, clipping, random = engine_type(model, loss), FlatClipping(PRIVACY), SecureRandom()
        parameters = trained(model)
        sizes = [value.numel() for value in parameters]

        def step(features: Tensor, labels: Tensor) -> None:
            parts = zip(torch.split(features, size), torch.split(labels, size), strict=True)
            rows = (engine.rows(*part)[0] for part in parts)
            noised = private_sum(rows, sum(sizes), clipping, random) / len(labels)
            for value, gradient in zip(parameters, torch.split(noised, sizes), strict=True):
                value.grad = gradient.view_as(value)

        return step

    return contender


class Contiguous(nn.Module):
    """Opacus' rule for convolutions takes every image for contiguous."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.layer(image.contiguous())
        return result


def hooks(model: AcousticModel, size: int) -> Step:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    hooked = GradSampleModule(_for_opacus(model), loss_reduction="sum")
    sgd = torch.optim.SGD(hooked.parameters(), lr=0.0)
    optimizer = DPOptimizer(
        sgd, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=1, loss_reduction="sum"
    )

    def step(features: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        for part, truth in zip(torch.split(features, size), torch.split(labels, size), strict=True):
            for value in optimizer.params:
                value.grad_sample = None
            loss(hooked(part), truth).sum().backward()
            optimizer.clip_and_accumulate()
        optimizer.add_noise()

    return step


def ghost(model: AcousticModel, size: int) -> Step:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    hooked = GradSampleModuleFastGradientClipping(
        _for_opacus(model), loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
    )
    sgd = torch.optim.SGD(hooked.parameters(), lr=0.0)
    optimizer = DPOptimizerFastGradientClipping(
        sgd, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=1, loss_reduction="sum"
    )
    criterion = DPLossFastGradientClipping(hooked, optimizer, nn.CrossEntropyLoss(reduction="sum"), "sum")

    def step(features: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        for part, truth in zip(torch.split(features, size), torch.split(labels, size), strict=True):
            criterion(hooked(part), truth).backward()
            optimizer.accumulate()
        optimizer.add_noise()

    return step


CONTENDERS: Mapping[str, Callable[[AcousticModel, int], Step]] = {
    "plain": plain,
    "fused": ours(FusedEngine),
    "functorch": ours(FunctorchEngine),
    "opacus hooks": hooks,
    "opacus ghost": ghost,
}


def prepared(architecture: str, batch: int, names: list[str]) -> tuple[dict[str, Step], Tensor, Tensor, int]:
    """Steps by contender, a batch of random features and labels, and the micro-batch that all use."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    generator = torch.Generator().manual_seed(0)
    task = Task(labels=tuple("abcdefghij"), architecture=architecture)
    frames, bands = task.clip_frames, task.front_end.features
    model = build_model(task, generator)
    size = min(batch, micro_batch_size(model, frames, bands, per_sample_gradients=True))
    steps = {name: CONTENDERS[name](copy.deepcopy(model), size) for name in names}
    features = torch.randn(batch, frames, bands, generator=generator)
    return steps, features, torch.randint(10, (batch,), generator=generator), size


def times(architecture: str, batch: int, rounds: int) -> tuple[dict[str, float], int]:
    """Median milliseconds of each contender's step, and the micro-batch."""
    steps, features, labels, size = prepared(architecture, batch, list(CONTENDERS))
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step(features, labels)
    for _ in range(rounds):
        for name, step in steps.items():
            begin = time.process_time()
            step(features, labels)
            taken[name].append((time.process_time() - begin) * 1e3)
    return {name: statistics.median(values) for name, values in taken.items()}, size


def peak(architecture: str, batch: int, name: str) -> float:
    """Megabytes at most of a process that takes five steps."""
    command = [sys.executable, "-m", "benchmarks.dp_step", "--peak", architecture, str(batch), name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def show_peak(architecture: str, batch: str, name: str) -> None:
    steps, features, labels, _ = prepared(architecture, int(batch), [name])
    for _ in range(5):
        steps[name](features, labels)
    # Not getrusage: its peak is at least that of the process this one was started from.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def _for_opacus(model: AcousticModel) -> AcousticModel:
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Conv2d):
                setattr(module, name, Contiguous(layer))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        show_peak(*arguments.peak)
        return
    rows = []
    for architecture in ARCHITECTURES:
        for batch in BATCHES:
            results, size = times(architecture, batch, arguments.rounds)
            memory = {name: peak(architecture, batch, name) for name in results}
            print(f"\n{architecture}, batch {batch}, micro-batch {size}")
            print(f"{'':14} {'ms':>8} {'x plain':>8} {'MB peak':>8} {'x plain':>8}")
            for name, milliseconds in results.items():
                ratio, more = milliseconds / results["plain"], memory[name] / memory["plain"]
                print(f"{name:14} {milliseconds:8.1f} {ratio:8.2f} {memory[name]:8.0f} {more:8.2f}")
                rows.append(
                    {
                        "architecture": architecture,
                        "batch": batch,
                        "micro_batch": size,
                        "name": name,
                        "ms": round(milliseconds, 2),
                        "ratio": round(ratio, 3),
                        "peak_mb": round(memory[name], 1),
                        "peak_ratio": round(more, 3),
                    }
                )
            faster = results["opacus hooks"] / results["fused"]
            print(f"fused is {faster:.1f} times as fast as Opacus' hooks", flush=True)
    if arguments.json:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps({"benchmark": "dp_step", "versions": versions, "rows": rows}))


if __name__ == "__main__":
    main()
