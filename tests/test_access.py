"""Who may speak: tokens in every way of saying them, senders, pages of other origins; and that secrets stay secret."""

import asyncio
import io
import json
import logging
import time
import warnings
from typing import Any, Dict, List, Optional

import aiohttp
import jwt
import pytest
import soundfile
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from sanic import Sanic
from test_limits import EAR, QUICK, Caller, rasa
from test_session import LoudVad, intent_of, said

from counted import Counted
from in_process import PATIENCE_S, run, serving
from spoken_intents import metrics, segmenter
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.channels.access import AccessSettings, Grant, token_in_header, token_in_subprotocols
from spoken_intents.channels.twilio import TwilioInput, TwilioSettings
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.client import VoiceClient
from spoken_intents.errors import ConfigError, ProtocolError

TOKEN = "correct-horse-battery-staple/+="
SECRET = "a secret of thirty-two bytes at least, as RFC 7518 wants"
OTHER = "another secret, of thirty-two bytes at the very least too"
ANNA = {"user": {"username": "anna", "role": "user"}}
ADMIN = {"user": {"username": "boss", "role": "admin"}}
SAID = float_to_pcm16(said(3))


def signed(claims: Dict[str, Any], secret: Any = SECRET, method: str = "HS256") -> str:
    return jwt.encode(claims, secret, algorithm=method)


def expiring(claims: Dict[str, Any], in_s: float) -> Dict[str, Any]:
    return {**claims, "exp": int(time.time() + in_s)}


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"auth_token": ""}, "auth_token is empty. Leave it out"),
        ({"jwt_secret": ""}, "jwt_secret is empty"),
        (
            {"auth_token": "${VOICE_TOKEN}"},
            r"auth_token names a variable. Write it without quotation marks: auth_token: \$\{NAME\}",
        ),
        ({"jwt_secret": "${SECRET}"}, "jwt_secret names a variable"),
        ({"jwt_secret": "-----BEGIN PRIVATE KEY-----", "jwt_method": "RS256"}, "jwt_secret takes the public key"),
        (
            {"allowed_origins": ["https://bank.example/"]},
            "allowed_origins takes origins such as https://bank.example, without a path",
        ),
        ({"allowed_origins": ["bank.example"]}, "allowed_origins takes origins"),
        ({"auth_token": "ends in a line\n"}, "printable ASCII characters without spaces"),
        ({"auth_token": "x" * 5000}, "1 to 4096"),
        ({"auth_token": 8236451}, "auth_token takes text: put it in quotation marks"),
        ({"jwt_secret": "too short"}, "jwt_secret has 9 bytes: HS256 needs 32 or more"),
        ({"jwt_secret": SECRET, "jwt_method": "HS512"}, "HS512 needs 64 or more"),
        ({"jwt_secret": SECRET, "jwt_method": "RS256"}, "jwt_secret is no key for RS256: .* a public key in PEM"),
        ({"jwt_secret": SECRET, "jwt_method": "none"}, "jwt_method takes one of ES256, .*got 'none'"),
        ({"auth_timeout_ms": 0}, "auth_timeout_ms takes more than 0"),
    ],
)
def test_a_door_that_would_not_close_is_an_error(settings: Dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"credentials.yml, voice channel: .*{words}") as caught:
        VoiceInput.from_credentials(settings)
    for secret in (settings.get("auth_token"), settings.get("jwt_secret")):
        assert not secret or "${" in str(secret) or str(secret) not in str(caught.value)


def test_a_public_key_is_no_secret_for_hmac() -> None:
    """Or whoever knows it, and that is everybody, could sign."""
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(ConfigError, match="jwt_secret is no key for HS256"):
        VoiceInput.from_credentials({"jwt_secret": public})


def test_rasa_puts_variables_in_where_there_are_no_quotation_marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from rasa.core.run import create_http_input_channels

    monkeypatch.setenv("VOICE_TOKEN", TOKEN)
    file = tmp_path / "credentials.yml"
    channel = "spoken_intents.channels.voice.VoiceInput"
    file.write_text(f"{channel}:\n  speech: none\n  auth_token: ${{VOICE_TOKEN}}\n")
    (made,) = create_http_input_channels(None, str(file))
    assert made.settings.auth_token == TOKEN  # type: ignore[attr-defined]
    file.write_text(f'{channel}:\n  speech: none\n  auth_token: "${{VOICE_TOKEN}}"\n')
    with pytest.raises(ConfigError, match="names a variable"):
        create_http_input_channels(None, str(file))


def test_settings_do_not_show_their_secrets() -> None:
    for settings in (VoiceSettings(speech="none", auth_token=TOKEN, jwt_secret=SECRET), TwilioSettings(auth_token=TOKEN)):
        assert "max_connections" in repr(settings)
        assert TOKEN not in repr(settings) and SECRET not in repr(settings)


def test_a_channel_without_a_secret_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN)).blueprint(rasa)
        VoiceInput(VoiceSettings(**QUICK, jwt_secret=SECRET)).blueprint(rasa)
        assert caplog.records == []
        VoiceInput(VoiceSettings(**QUICK)).blueprint(rasa)
    (warning,) = caplog.messages
    assert warning.startswith("voice: without auth_token or jwt_secret anybody may talk, as any sender.")


# ---------------------------------------------------------------- tokens

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def refused(access: AccessSettings, token: Optional[str], words: str) -> None:
    with pytest.raises(ProtocolError, match=words) as caught:
        access.grant(token)
    assert (caught.value.code, caught.value.close_code) == ("unauthorized", 4401)
    assert not token or token not in str(caught.value)


def test_the_token_and_no_other_is_taken() -> None:
    access = AccessSettings(auth_token=TOKEN)
    assert access.grant(TOKEN) == Grant(sender=None, is_operator=True)
    for wrong in (TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\ud800", "ü", " " + TOKEN, signed(ADMIN)):
        refused(access, wrong, "not valid")
    for none in (None, "", "x" * 5000):
        refused(access, none, "takes calls with a token only")


def test_rasas_tokens_are_taken_as_rasa_does() -> None:
    access = AccessSettings(jwt_secret=SECRET)
    assert access.grant(signed(ANNA)) == Grant(sender="anna")
    assert access.grant(signed(ADMIN)) == Grant(is_operator=True)
    assert access.grant(signed(expiring(ANNA, 3600))) == Grant(sender="anna")
    assert access.grant(signed(expiring(ANNA, -30))) == Grant(sender="anna"), "clocks differ by a minute"
    refused(access, signed(expiring(ANNA, -90)), "expired")
    refused(access, signed({**ANNA, "nbf": int(time.time()) + 600}), "not valid")
    refused(access, signed({**ANNA, "exp": "soon"}), "not valid")


def test_tokens_that_nobody_signed_are_refused() -> None:
    access = AccessSettings(jwt_secret=SECRET)
    header, payload, signature = signed(ADMIN).split(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyJWT's, about a key of no length
        nothing = jwt.encode(ADMIN, None, algorithm="none")
    deep = jwt.utils.base64url_encode(b"[" * 2500).decode()
    forged = [
        nothing,
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{header}.{signed(ANNA).split('.')[1]}.{signature}",
        f"{nothing.split('.')[0]}.{payload}.{signature}",
        f"{deep}.{payload}.{signature}",
        f"{header}.{payload}.\ud800",
        signed(ADMIN, OTHER),
        signed(ADMIN, method="HS384"),
        signed(ADMIN, KEY, "RS256"),
        "a.b.c",
        "....",
    ]
    for token in forged:
        refused(access, token, "not valid")


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"user": "anna"},
        {"user": None},
        {"user": {"username": "anna"}},
        {"user": {"username": "anna", "role": "guest"}},
        {"user": {"username": "", "role": "user"}},
        {"user": {"username": 7, "role": "user"}},
        {"user": {"username": "x" * 201, "role": "user"}},
        {"user": {"role": "user"}},
        {"user": {"username": "anna", "role": ["admin"]}},
    ],
)
def test_a_token_without_a_known_role_is_refused(claims: Dict[str, Any]) -> None:
    refused(AccessSettings(jwt_secret=SECRET), signed(claims), "names no user")


def test_tokens_by_a_key_pair_are_verified_by_its_public_half() -> None:
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    private = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    access = AccessSettings(jwt_secret=public, jwt_method="RS256")
    assert access.grant(signed(ANNA, private, "RS256")) == Grant(sender="anna")
    # The oldest trick: the public key, taken for a secret.
    hmac = jwt.get_algorithm_by_name("HS256")
    body = signed(ADMIN, private, "RS256").split(".")[1]
    header = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT"}').decode()
    forged = jwt.utils.base64url_encode(hmac.sign(f"{header}.{body}".encode(), public.encode())).decode()
    refused(access, f"{header}.{body}.{forged}", "not valid")


def test_either_secret_lets_in_where_both_are_set() -> None:
    access = AccessSettings(auth_token=TOKEN, jwt_secret=SECRET)
    assert access.grant(TOKEN).is_operator and access.grant(signed(ANNA)).sender == "anna"
    refused(access, "neither", "not valid")


def test_without_a_secret_everybody_is_let_in_and_nobody_is_an_operator() -> None:
    assert AccessSettings().grant(None) == AccessSettings().grant("whatever") == Grant()


def test_a_user_has_one_conversation() -> None:
    anna = Grant("anna")
    assert anna.conversation(None) == anna.conversation("anna") == "anna"
    with pytest.raises(ProtocolError, match="another conversation") as caught:
        anna.conversation("bob")
    assert (caught.value.code, caught.value.close_code) == ("forbidden_sender", 4403)
    assert Grant().conversation("bob") == "bob" and Grant().conversation(None) is None


def test_where_a_token_may_be() -> None:
    assert token_in_header("Bearer abc") == token_in_header("bearer   abc ") == "abc"
    assert [token_in_header(header) for header in ("", "Basic abc", "Bearerabc", "abc")] == [None] * 4
    assert token_in_header("Bearer") == ""
    assert token_in_subprotocols("bearer, abc") == token_in_subprotocols("chat,Bearer,abc") == "abc"
    assert [token_in_subprotocols(offered) for offered in ("", "abc", "bearer", "chat, bearer")] == [None] * 4


# ---------------------------------------------------------------- calls


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)


async def known(message: Any) -> None:
    """Says whose conversation it is."""
    await message.output_channel.send_text_message(message.sender_id, f"{message.sender_id}: {message.text}")


class Guest(Caller):
    """A call that shows a token, in one of the three ways."""

    def __init__(self, http: Any, port: int, way: str = "", token: str = "", handshake: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(http, port)
        self._way, self._token, self._first = way, token, handshake

    async def __aenter__(self) -> "Guest":
        headers = {"Authorization": f"Bearer {self._token}"} if self._way == "header" else {}
        offered = ("bearer", self._token) if self._way == "subprotocol" else ()
        self._socket = await self._http.ws_connect(self._url, headers=headers, protocols=offered)
        first = {**(self._first or {}), **({"token": self._token} if self._way == "message" else {})}
        if first:
            await self._socket.send_json(first)
        return self

    @property
    def subprotocol(self) -> Optional[str]:
        return self._socket.protocol


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("way", ["header", "subprotocol", "message"])
def test_a_token_is_said_in_one_of_three_ways(way: str) -> None:
    counted = Counted()
    token, wrong = "one-token", "another-token"
    channel = VoiceInput(VoiceSettings(**QUICK, auth_token=token))

    async def main() -> None:
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Guest(http, app.ctx.port, way, token) as guest:
                assert await guest.say(4) == intent_of(4)
                assert guest.subprotocol == ("bearer" if way == "subprotocol" else None)
            async with Guest(http, app.ctx.port, way, wrong) as stranger:
                refusal = await stranger.refusal()
                assert (refusal["code"], refusal["close_code"]) == ("unauthorized", 4401)
                assert refusal["message"] == "The token is not valid."

    run(main())
    assert counted("spoken_intents_refusals_total", channel="voice", code="unauthorized") == 1
    assert counted("spoken_intents_calls_open", channel="voice") == 0


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    "first",
    [SAID[:640], '{"text": "hello"}', '{"sample_rate": 16000}', '{"commit": true}'],
    ids=["audio", "text", "handshake", "commit"],
)
def test_nothing_is_taken_before_the_token(first: Any) -> None:
    turns: List[str] = []

    async def listening(message: Any) -> None:
        turns.append(message.text)

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN, initial_message="/greet"))
        async with serving(channel, rasa=listening, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Guest(http, app.ctx.port) as stranger:
                await (stranger._socket.send_bytes if isinstance(first, bytes) else stranger._socket.send_str)(first)
                await stranger._socket.send_json({"token": TOKEN, "sender": "too late"})
                refusal = await stranger.refusal()
                assert (refusal["code"], refusal["close_code"]) == ("unauthorized", 4401)
                assert "with a token only" in refusal["message"]

    run(main())
    assert turns == []


@pytest.mark.usefixtures("scripted")
def test_what_comes_right_behind_the_token_is_heard() -> None:
    """Audio of any size, in the same breath."""

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN))
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Guest(http, app.ctx.port, "message", TOKEN, {"sample_rate": 16_000}) as guest:
                loud = bytes(200_000) + SAID
                await guest._socket.send_bytes(loud)
                assert await guest._answer() == intent_of(3)

    run(main())


@pytest.mark.usefixtures("scripted")
def test_strangers_cost_little_and_leave_the_places_to_callers() -> None:
    """More of them than there are places, who say nothing: a caller is served meanwhile, and they are gone in time."""
    counted = Counted()

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN, max_connections=2, auth_timeout_ms=1500))
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            strangers = [Guest(http, app.ctx.port) for _ in range(4)]
            for stranger in strangers:
                await stranger.__aenter__()
            refusals = [await stranger.refusal() for stranger in strangers[2:]]
            assert {refusal["code"] for refusal in refusals} == {"too_many_calls"}, "a doorstep has an end, too"
            async with Guest(http, app.ctx.port, "header", TOKEN) as one, Guest(http, app.ctx.port, "header", TOKEN) as two:
                assert await one.say(1) == intent_of(1) and await two.say(2) == intent_of(2)
                assert not any(task for task in asyncio.all_tasks() if "_work" in repr(task) and task.done())
                assert counted("spoken_intents_calls_open", channel="voice") == 2
                refusals = [await stranger.refusal() for stranger in strangers[:2]]
            assert [(told["code"], told["message"]) for told in refusals] == [
                ("unauthorized", "No token came within 1500 ms.")
            ] * 2
            for stranger in strangers:
                await stranger.__aexit__()

    run(main())


@pytest.mark.usefixtures("scripted")
def test_a_stranger_may_not_send_much() -> None:
    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN))
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Guest(http, app.ctx.port) as stranger:
                await stranger._socket.send_json({"token": "x" * 10_000})
                message = await stranger._socket.receive(PATIENCE_S)
                assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
                assert stranger._socket.close_code == 1009

    run(main())


@pytest.mark.usefixtures("scripted")
def test_nobody_goes_on_with_anothers_conversation() -> None:
    counted = Counted()

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, jwt_secret=SECRET))
        async with serving(channel, rasa=known, ear=EAR) as app, aiohttp.ClientSession() as http:
            port, anna, admin = app.ctx.port, signed(ANNA), signed(ADMIN)
            for handshake in ({}, {"sender": "anna"}):
                async with Guest(http, port, "message", anna, handshake) as guest:
                    assert await guest.type("hello") == "anna: hello"
            async with Guest(http, port, "header", anna) as guest:
                assert await guest.type("hello") == "anna: hello", "without a handshake, too"
            async with Guest(http, port, "header", admin, {"sender": "bob"}) as guest:
                assert await guest.type("hello") == "bob: hello"
            for way in ("header", "subprotocol", "message"):
                async with Guest(http, port, way, anna, {"sender": "bob"}) as guest:
                    refusal = await guest.refusal()
                    assert (refusal["code"], refusal["close_code"]) == ("forbidden_sender", 4403)
            async with Guest(http, port, "header", anna, {"token": admin, "sender": "bob"}) as guest:
                assert (await guest.refusal())["code"] == "forbidden_sender", "the header has the last word"

    run(main())
    assert counted("spoken_intents_refusals_total", channel="voice", code="forbidden_sender") == 4


@pytest.mark.usefixtures("scripted")
def test_the_client_shows_its_token_and_says_what_to_do_without() -> None:
    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN))
        async with serving(channel, rasa=rasa, ear=EAR) as app:
            url = f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket"
            async with VoiceClient(url, token=f"{TOKEN}\n") as client:  # as files and variables have it
                answer = await client.type("hello")
                assert answer is not None and answer.texts == ["hello"]
            for token in ("", "wrong"):
                with pytest.raises(ProtocolError, match="Name a valid one in the variable SPOKEN_INTENTS_TOKEN") as caught:
                    async with VoiceClient(url, token=token) as client:
                        await client.type("hello")
                assert caught.value.code == "unauthorized"

    run(main())


# ---------------------------------------------------------------- HTTP


def recording() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, said(7), SAMPLE_RATE, format="WAV")
    return file.getvalue()


async def post(http: aiohttp.ClientSession, port: int, query: str = "", data: Any = None, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(
        f"http://127.0.0.1:{port}/webhooks/voice/webhook{query}", data=data or recording(), headers=named
    ) as answer:
        return answer.status, await answer.json(), answer.headers


@pytest.mark.usefixtures("scripted")
def test_recordings_need_the_token_in_a_header() -> None:
    counted = Counted()

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN, jwt_secret=SECRET))
        async with serving(channel, rasa=known, ear=EAR) as app, aiohttp.ClientSession() as http:
            port = app.ctx.port
            for query, headers in (("", {}), (f"?token={TOKEN}", {}), ("", {"Authorization": "Bearer wrong"})):
                status, told, answered = await post(http, port, query, **headers)
                assert (status, told["error"]["code"], answered["WWW-Authenticate"]) == (401, "unauthorized", "Bearer")
            anna = {"Authorization": f"Bearer {signed(ANNA)}"}
            status, messages, _ = await post(http, port, **anna)
            assert (status, messages[0]["recipient_id"]) == (200, "anna")
            form = aiohttp.FormData({"audio": io.BytesIO(recording()), "sender": "bob"})
            for query, data in (("?sender=bob", None), ("", form)):
                status, told, _ = await post(http, port, query, data, **anna)
                assert (status, told["error"]["code"]) == (403, "forbidden_sender")
            status, messages, _ = await post(http, port, "?sender=bob", Authorization=f"Bearer {TOKEN}")
            assert (status, messages[0]["recipient_id"]) == (200, "bob")

    run(main())
    assert counted("spoken_intents_refusals_total", channel="recording", code="unauthorized") == 3
    assert counted("spoken_intents_refusals_total", channel="recording", code="forbidden_sender") == 2


def test_an_origin_writes_no_line_of_the_log() -> None:
    with pytest.raises(ProtocolError) as refusal:
        AccessSettings().check_origin("http://x\n2026-11-26 CRITICAL root - forged \x1b[31m\udcff", "bank.example")
    assert str(refusal.value).isprintable()


@pytest.mark.usefixtures("scripted")
def test_pages_of_other_origins_may_not_send_recordings() -> None:
    """A form of any page may post here from its reader's browser; no preflight asks before."""
    turns: List[str] = []

    async def listening(message: Any) -> None:
        turns.append(message.sender_id)

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, allowed_origins=("https://friend.example",)))
        async with serving(channel, rasa=listening, ear=EAR) as app, aiohttp.ClientSession() as http:
            port = app.ctx.port
            form = aiohttp.FormData({"audio": io.BytesIO(recording()), "sender": "csrf"})
            for origin in ("https://evil.example", "null", f"http://127.0.0.1:{port}.evil.example", "http://["):
                status, told, _ = await post(http, port, data=None if origin == "null" else form, Origin=origin)
                assert (status, told["error"]["code"]) == (403, "bad_origin")
                form = aiohttp.FormData({"audio": io.BytesIO(recording()), "sender": "csrf"})
            assert turns == []
            for origin in ("https://friend.example", f"http://127.0.0.1:{port}"):
                assert (await post(http, port, "?sender=us", Origin=origin))[0] == 200
        assert turns == ["us", "us"]

    run(main())


@pytest.mark.usefixtures("scripted")
def test_figures_are_for_operators_where_callers_need_a_token() -> None:
    """Whichever channel is asked: they all show the same."""

    async def main() -> None:
        voice = VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN, jwt_secret=SECRET))
        telephone = TwilioInput(TwilioSettings(**QUICK))
        async with serving(voice, telephone, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            for channel in (voice, telephone):
                url = f"http://127.0.0.1:{app.ctx.port}/webhooks/{channel.name()}/metrics"
                for token, status in (("", 401), ("wrong", 401), (signed(ANNA), 403), (signed(ADMIN), 200), (TOKEN, 200)):
                    headers = {"Authorization": f"Bearer {token}"} if token else {}
                    async with http.get(url, headers=headers) as answer:
                        assert answer.status == status
                        assert ("spoken_intents_calls_open" in await answer.text()) == (status == 200)
            async with http.get(f"http://127.0.0.1:{app.ctx.port}/webhooks/voice/status") as answer:
                assert (await answer.json())["token"] is True, "which is for load balancers, and for the page"
        async with serving(VoiceInput(VoiceSettings(**QUICK)), rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{app.ctx.port}/webhooks/voice/metrics") as answer:
                assert answer.status == 200

    run(main())


@pytest.mark.usefixtures("scripted")
def test_tokens_are_in_no_log_and_no_figure(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever logs, as much as it can; also a token that no subprotocol may look like, and one that is wrong."""
    tokens = [TOKEN, signed(ANNA), "wrong-but-maybe-almost-right", "not/a=subprotocol"]

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, auth_token=TOKEN, jwt_secret=SECRET))
        async with serving(channel, rasa=known, ear=EAR) as app, aiohttp.ClientSession() as http:
            for token in tokens:
                for way in ("header", "message", "subprotocol"):
                    async with Guest(http, app.ctx.port, way, token) as guest:
                        await guest._socket.send_json({"text": "hello"})
                        told = await guest._socket.receive_str(timeout=PATIENCE_S)
                        assert not any(secret in told for secret in tokens)
                status, told, _ = await post(http, app.ctx.port, Authorization=f"Bearer {token}")
                assert status in (200, 401) and token not in json.dumps(told)
            for scheme in ("Bearer", "baerer"):  # the library's own errors hold what it could not read
                address = f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket"
                async with http.ws_connect(address, protocols=(scheme, tokens[-1])) as socket:
                    assert "unauthorized" in await socket.receive_str(timeout=PATIENCE_S)
            async with Guest(http, app.ctx.port, "", "", {"token": ["a list of", TOKEN]}) as guest:
                assert TOKEN not in json.dumps(await guest.refusal())

    loggers = [logging.getLogger(name) for name in ("", "sanic.root", "sanic.error", "sanic.access", "websockets")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.propagate = True
        run(main())
    finally:
        for logger, (level, propagate) in zip(loggers, before):
            logger.setLevel(level)
            logger.propagate = propagate
    written = caplog.text + metrics.exposition().decode()
    assert "unauthorized" in written
    for secret in (*tokens, SECRET):
        assert secret not in written
