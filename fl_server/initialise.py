"""`fedaudio server init`: a folder that a coordinator can start from."""

from __future__ import annotations

from collections.abc import Sequence

import tomli_w

from common.errors import ConfigError, CoordinatorError
from common.files import make_folder, write_atomic
from common.security.certificates import make_certificate
from fl_server.home import CoordinatorHome
from fl_server.settings import ServerSettings

_HEADER = "# A fedaudio coordinator. What is not here has its default, see docs/configuration.md.\n\n"


def initialise(home: CoordinatorHome, settings: ServerSettings, *, names: Sequence[str]) -> None:
    """Write server.toml and a TLS certificate. An existing coordinator is never overwritten.

    Args:
        settings: only what was set explicitly is written.
        names: host names and IP addresses the certificate is valid for.

    Raises:
        CoordinatorError: FA-5010 there is one already.
        ConfigError: FA-6003 no name, or one that cannot be.
        StorageError: FA-8001.
    """
    if home.config.exists():
        raise CoordinatorError(
            "FA-5010", f"{home.config} is there already.", "Use it, or name another folder with --home."
        )
    if not names:
        raise ConfigError("FA-6003", "The certificate needs a name.", "Give one with --names.")
    try:
        certificate, key = make_certificate(names)
    except ValueError as error:
        raise ConfigError(
            "FA-6003",
            f"A name for the certificate is impossible: {error}.",
            "Write it in ASCII (as xn--...).",
        ) from error
    make_folder(home.root, mode=0o700)
    make_folder(home.certificate.parent, mode=0o700)
    write_atomic(home.tls_key, key, mode=0o600)
    write_atomic(home.certificate, certificate)
    document = settings.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    write_atomic(home.config, (_HEADER + tomli_w.dumps(document)).encode())
