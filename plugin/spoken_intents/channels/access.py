"""Who may speak: secrets and tokens, pages of other origins, and as whom. No Sanic, no Rasa."""

import hmac
import re
from dataclasses import dataclass, field
from typing import Optional, Tuple
from urllib.parse import urlsplit

import jwt

from spoken_intents.channels.protocol import MAX_SENDER, MAX_TOKEN
from spoken_intents.config import require
from spoken_intents.errors import ProtocolError
from spoken_intents.utterances import shown

BEARER = "bearer"  # the scheme of the header, and the subprotocol behind which a WebSocket's client names its token
CLOCKS_MS = 60_000  # by which the clocks of who issues tokens and of this server may differ
_METHODS = sorted(set(jwt.algorithms.get_default_algorithms()) - {"none"})


@dataclass(frozen=True)
class Grant:
    """What a caller may do.

    Attributes:
        sender: The one conversation that it may go on with; None: any.
        is_operator: Whether it may also see the figures at ``/metrics``.
    """

    sender: Optional[str] = None
    is_operator: bool = False

    def conversation(self, named: Optional[str]) -> Optional[str]:
        """The conversation to go on with, None for a new one, where the caller names this one, or none.

        Raises:
            ProtocolError: (``forbidden_sender``) It is another's.
        """
        if named is not None and self.sender not in (None, named):
            raise ProtocolError("forbidden_sender", "The token is for another conversation than that of this sender.", 4403)
        return named if self.sender is None else self.sender


@dataclass(frozen=True)
class AccessSettings:
    """Who may speak. Secrets are in no representation of this.

    Attributes:
        auth_token: A secret that every caller has to know; it may go on with any conversation.
        jwt_secret: What JSON Web Tokens are verified with, as Rasa's ``--jwt-secret``: a secret, or a public key.
        jwt_method: Their algorithm; no other is taken.
        auth_timeout_ms: A caller who has to show a token and does not for so long is disconnected.
        allowed_origins: Web pages that may connect, such as ``https://bank.example``, beside those of this
            server itself; ``*`` for all. Clients other than browsers send no origin and may always connect.
    """

    auth_token: Optional[str] = field(default=None, repr=False)
    jwt_secret: Optional[str] = field(default=None, repr=False)
    jwt_method: str = "HS256"
    auth_timeout_ms: int = 5_000
    allowed_origins: Tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, secret in (("auth_token", self.auth_token), ("jwt_secret", self.jwt_secret)):
            check_secret(name, secret)
        require(
            self.auth_token is None or re.fullmatch("[!-~]{1,%d}" % MAX_TOKEN, self.auth_token) is not None,
            f"auth_token takes 1 to {MAX_TOKEN} printable ASCII characters without spaces.",
        )
        require(self.jwt_method in _METHODS, f"jwt_method takes one of {', '.join(_METHODS)}, got {self.jwt_method!r}.")
        for origin in self.allowed_origins:  # browsers send nothing else, and one that is never sent would be looked for in vain
            require(
                origin == "*" or re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin) is not None,
                f"allowed_origins takes origins such as https://bank.example, without a path, or '*'; got {origin!r}.",
            )
        require(self.auth_timeout_ms > 0, f"auth_timeout_ms takes more than 0, got {self.auth_timeout_ms}.")
        if self.jwt_secret is not None:
            _check_key(self.jwt_secret, self.jwt_method)

    @property
    def is_guarded(self) -> bool:
        """Whether callers have to show a token."""
        return self.auth_token is not None or self.jwt_secret is not None

    def grant(self, token: Optional[str]) -> Grant:
        """What the holder of a token may do.

        Raises:
            ProtocolError: (``unauthorized``) It is none of ours; says why only to who knows the secret.
        """
        if not self.is_guarded:
            return Grant()
        if not token or len(token) > MAX_TOKEN:
            raise unauthorized("This server takes calls with a token only.")
        # JSON can hold halves of characters, which no other way of writing bytes takes.
        named = token.encode(errors="surrogatepass")
        if self.auth_token is not None and hmac.compare_digest(named, self.auth_token.encode()):
            return Grant(is_operator=True)
        if self.jwt_secret is not None:
            return self._grant_of_jwt(token)
        raise unauthorized("The token is not valid.")

    def _grant_of_jwt(self, token: str) -> Grant:
        """As Rasa's own server reads them (``requires_auth`` in ``rasa/server.py``)."""
        try:
            claims = jwt.decode(token, self.jwt_secret or "", algorithms=[self.jwt_method], leeway=CLOCKS_MS / 1000)
        except jwt.ExpiredSignatureError:
            raise unauthorized("The token has expired.") from None
        except Exception:  # of what is no token, not all is PyJWT's own: RecursionError, UnicodeError
            raise unauthorized("The token is not valid.") from None
        user = claims.get("user")
        role, name = (user.get("role"), user.get("username")) if isinstance(user, dict) else (None, None)
        if role == "admin":
            return Grant(is_operator=True)
        if role == "user" and isinstance(name, str) and 0 < len(name) <= MAX_SENDER:
            return Grant(name)
        raise unauthorized('The token names no user: {"user": {"username": ..., "role": "user" or "admin"}} is taken.')

    def check_origin(self, origin: Optional[str], host: Optional[str]) -> None:
        """Browsers let any page open a WebSocket, or send a form: who may is for the server to say.

        Raises:
            ProtocolError: (``bad_origin``) A page of this origin may not.
        """
        if origin is None or origin in self.allowed_origins or "*" in self.allowed_origins:
            return
        try:
            own = urlsplit(origin).netloc
        except ValueError:
            own = ""
        if not own or own != host:
            words = f"Pages of {shown(origin)} may not connect; see the setting allowed_origins."
            raise ProtocolError("bad_origin", words, 4403)


def check_secret(name: str, secret: Optional[str]) -> None:
    """Rasa puts in variables where there are no quotation marks; a variable that is empty must not open the door.

    Raises:
        ConfigError: It is a variable's name, or empty.
    """
    require(secret is None or "${" not in secret, f"{name} names a variable. Write it without quotation marks: {name}: ${{NAME}}")
    require(secret != "", f"{name} is empty. Leave it out where everybody may speak.")


def unauthorized(why: str) -> ProtocolError:
    """The refusal of a caller who shows no token that is taken."""
    return ProtocolError("unauthorized", why, 4401)


def token_in_header(authorization: str) -> Optional[str]:
    """The token of ``Authorization: Bearer <token>``; None in another scheme, or without."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == BEARER else None


def token_in_subprotocols(offered: str) -> Optional[str]:
    """The token of ``Sec-WebSocket-Protocol: bearer, <token>``, which is how a browser's page can say it; None without."""
    names = [name.strip() for name in offered.split(",")]
    schemes = [name.lower() for name in names[:-1]]
    return names[schemes.index(BEARER) + 1] if BEARER in schemes else None


def _check_key(secret: str, method: str) -> None:
    """Whether tokens can be verified with it: a wrong one is told now, not to the first caller, and a weak one at all."""
    require("PRIVATE KEY-----" not in secret, "jwt_secret takes the public key: who issues tokens keeps the private one.")
    least = int(method[2:]) // 8 if method.startswith("HS") else 0  # RFC 7518: as long as the hash
    length = len(secret.encode())
    require(
        length >= least, f"jwt_secret has {length} bytes: {method} needs {least} or more, or one token is enough to guess it."
    )
    try:
        jwt.get_algorithm_by_name(method).prepare_key(secret)
        fits = True
    except Exception:  # PyJWT's and cryptography's, of several kinds
        fits = False
    require(fits, f"jwt_secret is no key for {method}: HS methods take a secret, others a public key in PEM.")
