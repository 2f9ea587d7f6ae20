"""How a device gets a certificate, keeps it and changes its keys: JSON over the pinned TLS port.

    GET  /v1/trust                    -> the trust statement (bytes); holds the root that the pin is of
    POST /v1/enrolment                `EnrolmentRequest`          -> `Enrolled`
    POST /v1/enrolment/renew          signed `RenewalRequest`     -> `Enrolled`

A refusal is status 4xx with `Refused`. Texts are canonical JSON (`common.security.canonical`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.security.canonical import Printable
from common.settings import Settings

LARGEST_REQUEST = 16 << 10

TRUST_PATH, ENROL_PATH, RENEW_PATH = "/v1/trust", "/v1/enrolment", "/v1/enrolment/renew"

DeviceId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Pem = Annotated[str, Field(max_length=4096)]


class EnrolmentRequest(Settings):
    """A device asks to be enrolled, with a token that an operator gave it.

    Args:
        token: hexadecimal.
        request: PKCS#10 (PEM), signed with the new Ed25519 identity key; its common name is the device's.
        node_key: P-256 public key (PEM, SubjectPublicKeyInfo) of the device's Flower node.
        node_proof: ECDSA signature of `request` with the node key (`prove_node_key`), hexadecimal.
    """

    token: str = Field(pattern=r"^[0-9a-f]{32}$", repr=False)
    request: Pem
    node_key: Pem
    node_proof: str = Field(max_length=256, pattern=r"^([0-9a-f]{2})+$")


class RenewalRequest(Settings):
    """An enrolled device asks for a new certificate: for the keys it has, or for new ones.

    Travels as a statement of kind "renewal" signed with the identity key of the certificate named `serial`,
    so it is of no use once that has been replaced.
    """

    device: DeviceId
    serial: str = Field(pattern=r"^[0-9a-f]{1,40}$", description="of the certificate in use")
    request: Pem
    node_key: Pem
    node_proof: str = Field(max_length=256, pattern=r"^([0-9a-f]{2})+$")


class Enrolled(Settings):
    """The coordinator's answer. `certificate` is empty while an operator's approval is waited for."""

    state: Literal["active", "pending"]
    device: DeviceId
    certificate: str = Field(max_length=8192)


class Refused(Settings):
    """Why not."""

    code: str = Field(pattern=r"^FA-[0-9]{4}$")
    happened: Printable = Field(max_length=500)
    remedy: Printable = Field(max_length=500)
