"""The one place that imports torchaudio, so that it also works beside a torch built without CUDA."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType


def import_torchaudio() -> ModuleType:
    """The torchaudio package.

    The wheels on PyPI hold a native extension linked against CUDA, which does not load beside a CPU-only
    torch, and torchaudio then refuses to import. Nothing used here needs the extension (only `forced_align`
    and the RNN-T loss do), so in that case torchaudio is imported with a stand-in for it. Installed files
    stay as they are.

    Raises:
        ImportError: torchaudio is not installed.
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError as error:
        cause = error
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]
    extension = _without_extension(cause)
    sys.modules[extension.__name__] = extension
    try:
        torchaudio = importlib.import_module("torchaudio")
    except BaseException:
        del sys.modules[extension.__name__]
        raise
    # `from . import _extension` takes the module from sys.modules, which leaves the parent's attribute unset.
    vars(torchaudio)["_extension"] = extension
    return torchaudio


def _without_extension(cause: OSError) -> ModuleType:
    """What `torchaudio._extension` is when there is no native library."""

    def fail_if_no_align(function: Callable[..., object]) -> Callable[..., object]:
        def unavailable(*_: object, **__: object) -> object:
            raise RuntimeError(f"{function.__name__} needs torchaudio's native extension: {cause}")

        return unavailable

    module = ModuleType("torchaudio._extension")
    vars(module).update(
        __path__=[],  # an import of a submodule then fails as an ImportError, not as something stranger
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _load_lib=lambda lib: False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=fail_if_no_align,
    )
    return module
