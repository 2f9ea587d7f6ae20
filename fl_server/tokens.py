"""Leave to enrol: made, used, listed, withdrawn."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.errors import CoordinatorError
from common.log import printable
from common.protocol.invitation import TOKEN_BYTES
from fl_server import evidence
from fl_server.registry import Registry, Token, TokenUse, utc

SHORTEST_NAME = 4
"""Digits of a token's digest that an operator must type."""


def token_digest(token: bytes) -> str:
    """SHA-256 of a token in hexadecimal; the token itself is not kept."""
    return hashlib.sha256(token).hexdigest()


def token_name(digest: str) -> str:
    """By what evidence and operators name the token with this digest."""
    return digest[:8]


def make_token(registry: Registry, ttl: timedelta, uses: int, now: datetime | None = None) -> bytes:
    """Leave for `uses` devices to enrol within `ttl`. Only a digest of the token is kept.

    Raises:
        StorageError: FA-8001.
    """
    token, now = secrets.token_bytes(TOKEN_BYTES), now or datetime.now(UTC)
    digest = token_digest(token)
    with registry.session() as session:
        session.add(Token(digest=digest, created=now, expires=now + ttl, uses=uses))
        evidence.append(
            session,
            "token-made",
            token=token_name(digest),
            uses=uses,
            expires=(now + ttl).isoformat(timespec="seconds"),
        )
    return token


def use_token(session: Session, digest: str, identity: str, now: datetime) -> None:
    """Take one use off a token, for the device with this identity.

    Raises:
        CoordinatorError: FA-5044 it is unknown, FA-5045 expired, FA-5046 used up.
    """
    # It is looked up by its digest, so how long that takes tells nothing about the tokens there are.
    token = session.get(Token, digest)
    ask = "Ask the operator for a new invitation: fedaudio server devices token"
    if token is None:
        raise CoordinatorError("FA-5044", "The token of the invitation is not known here.", ask)
    if utc(token.expires) < now:
        raise CoordinatorError("FA-5045", "The invitation has expired.", ask)
    if token.uses < 1 or session.get(TokenUse, (digest, identity)) is not None:
        raise CoordinatorError("FA-5046", "The invitation was used already, or withdrawn.", ask)
    token.uses -= 1
    session.add(TokenUse(token=digest, identity=identity))


def open_tokens(registry: Registry, now: datetime | None = None) -> Sequence[Token]:
    """Tokens that can still be used, oldest first."""
    good = select(Token).where(Token.uses > 0, Token.expires >= (now or datetime.now(UTC)))
    with registry.reading() as session:
        return session.scalars(good.order_by(Token.created, Token.digest)).all()


def withdraw_token(registry: Registry, name: str) -> Token:
    """Make a token useless that is left. Devices that have enrolled with it stay.

    Args:
        name: its digest, or the beginning of it (4 digits).

    Raises:
        CoordinatorError: FA-5054, no token that has uses left is called so, or more than one.
    """
    name = printable(name)
    left = select(Token).where(Token.uses > 0, Token.digest.startswith(name, autoescape=True))
    with registry.session() as session:
        found = session.scalars(left).all() if len(name) >= SHORTEST_NAME else []
        if len(found) != 1:
            what = "More than one invitation is" if found else "No invitation that is left is"
            raise CoordinatorError(
                "FA-5054", f"{what} called {name[:80]!r}.", "See `fedaudio server devices tokens`."
            )
        found[0].uses = 0
        evidence.append(session, "token-withdrawn", token=token_name(found[0].digest))
    return found[0]
