"""`fedaudio client init`: a folder that a device can start from."""

from __future__ import annotations

from pathlib import Path

import tomli_w
from cryptography import x509

from common.errors import DeviceError
from common.files import make_folder, write_atomic
from common.settings import parse_settings
from fl_client.home import DeviceHome
from fl_client.settings import DeviceSettings


def initialise(home: DeviceHome, *, server: str, ca: Path, name: str, source: str | None = None) -> None:
    """Make device.toml and keep the coordinator's certificate. An existing device is never overwritten.

    Raises:
        DeviceError: FA-4004 there is one already, FA-4005 `ca` is not a certificate.
        ConfigError: FA-6003 name or server are not possible.
        StorageError: FA-8001.
    """
    if home.config.exists():
        raise DeviceError("FA-4004", f"{home.config} is there already.", "Use it, or give another --home.")
    document = {"name": name, "server": server} | ({"source": source} if source else {})
    parse_settings(DeviceSettings, document, "the command line")
    try:
        certificate = ca.read_bytes()
        x509.load_pem_x509_certificate(certificate)
    except (OSError, ValueError) as error:
        raise DeviceError(
            "FA-4005", f"{ca} is not a PEM certificate.", "Copy keys/tls.crt from the coordinator's folder."
        ) from error
    make_folder(home.root)
    make_folder(home.coordinator_certificate.parent, mode=0o700)
    make_folder(home.clips, mode=0o700)
    write_atomic(home.coordinator_certificate, certificate)
    write_atomic(home.config, tomli_w.dumps(document).encode())
