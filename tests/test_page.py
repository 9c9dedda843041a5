"""The voice channel's page in a real browser: with the real server once, and by script for what a server rarely does."""

import asyncio
import re
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import AsyncIterator, Awaitable, Callable, Dict, List, Tuple
from urllib.parse import quote

import aiohttp
import jwt
import numpy as np
import pytest
import soundfile

from assistant import PROJECT, Assistant
from chromium import ALLOW, FAKE_DEVICE, Chromium, Page, microphone_flags
from scripted_voice import ScriptedCall, ScriptedVoice
from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.pages import PAGE, headers, page_files

GREET = PROJECT / "audio/train/greet/0010.ogg"
RANKING = [{"name": "balance", "confidence": 0.9}, {"name": "greet", "confidence": 0.08}, {"name": "deny", "confidence": 0.02}]
EARLIER = [{"name": "greet", "confidence": 0.6}, {"name": "balance", "confidence": 0.3}, {"name": "deny", "confidence": 0.1}]
FINAL = {
    "final": True,
    "latency": {
        "asr_latency_ms": 12.0,
        "rasa_processing_latency_ms": 50.0,
        "first_response_latency_ms": 64.0,
        "tts_first_byte_latency_ms": 130.0,
        "tts_complete_latency_ms": 200.0,
        "endpoint_delay_ms": 240.0,
    },
}
SPEECH, PAUSE = [11, 122, 112], [162, 89, 10]  # --speech and --pause in light
WAVE_COLOURS = """(() => {
    const wave = document.querySelector('#wave');
    const data = wave.getContext('2d').getImageData(0, 0, wave.width, wave.height).data;
    return new Set(Array.from({length: data.length / 4}, (_, i) => data.slice(4 * i, 4 * i + 3).join()));
})()"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A microphone's WAV: half a second of quiet, a greeting, quiet."""
    quiet = np.zeros(SAMPLE_RATE, dtype=np.float32)
    path = tmp_path_factory.mktemp("microphone") / "greet.wav"
    soundfile.write(path, np.concatenate([quiet[::2], read_audio(GREET, 30), quiet]), SAMPLE_RATE, subtype="PCM_16")
    return path


@asynccontextmanager
async def opened(*flags: str) -> AsyncIterator[Tuple[ScriptedVoice, Page]]:
    """The page in a browser of its own, and its server, which is scripted."""
    async with ScriptedVoice() as voice, Chromium(*flags) as browser:
        yield voice, await browser.open(voice.url())


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 120))


async def state(page: Page, name: str) -> None:
    await page.until(f"document.body.dataset.state === '{name}'")


async def spoken_turn(call: ScriptedCall) -> Dict[str, float]:
    """Hears what the page sends now as one utterance with a pause in it; what the final marker's `turn` says of it."""
    start = call.now_ms()
    await call.send({"trace_event": "user_speaking_start", "at_ms": start})
    await call.until(lambda: call.now_ms() > start + 300)
    await call.send(
        {"trace_event": "user_pause", "at_ms": start + 300},
        {"trace_event": "partial", "at_ms": start + 300, "intent_ranking": EARLIER, "complete": 0.4},
    )
    return {"start_ms": start, "speech_end_ms": start + 300, "end_ms": start + 540}


async def hears(call: ScriptedCall, turn: Dict[str, float], intent: str = "balance") -> None:
    await call.send(
        {"trace_event": "user_speaking_end", "reason": "silence", **turn},
        {"trace_event": "transcript", "text": "", "intent": intent, "confidence": 0.9, "intent_ranking": RANKING, "asr_ms": 12},
    )


# ------------------------------------------------------------------ what it is sent with


def policy(host: str) -> Dict[str, List[str]]:
    directives = headers(host)["Content-Security-Policy"].split("; ")
    return {name: values for name, *values in map(str.split, directives)}


def test_the_policy_lets_only_the_servers_own_scripts_run() -> None:
    ours = policy("bot.example:8443")
    assert ours["default-src"] == ours["base-uri"] == ours["form-action"] == ["'none'"]
    assert ours["script-src"] == ours["style-src"] == ours["frame-ancestors"] == ["'self'"]
    assert ours["img-src"] == ["'self'", "https:"]
    assert ours["connect-src"] == ["'self'", "ws://bot.example:8443", "wss://bot.example:8443"]
    assert "unsafe" not in str(ours)
    assert headers("")["Permissions-Policy"].startswith("microphone=(self), camera=()")
    assert headers("")["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("host", ["", "a; script-src *", "a b", "*", "x" * 300, "ä.example", "a\nb"])
def test_no_host_writes_the_policy(host: str) -> None:
    assert policy(host)["connect-src"] == ["'self'"]
    assert set(policy(host)) == set(policy("bot.example"))


class Inline(HTMLParser):
    """Gathers what a policy without 'unsafe-inline' forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: List[str] = []

    def handle_starttag(self, tag: str, attributes: List[Tuple[str, "str | None"]]) -> None:
        named = dict(attributes)
        self.found += [
            name for name, value in named.items() if name == "style" or name.startswith("on") or "javascript:" in str(value)
        ]
        if tag in ("style", "base", "iframe", "object", "embed") or (
            tag == "script" and not str(named.get("src")).startswith("page/")
        ):
            self.found.append(tag)


def test_nothing_is_inline() -> None:
    for text, found in (
        ("<p onclick=x style=y>", ["onclick", "style"]),
        ("<script>", ["script"]),
        ("<script src=page/a.js>", []),
    ):
        parser = Inline()
        parser.feed(text)
        assert parser.found == found
    for path in page_files().values():
        if path.suffix in (".html", ".svg"):
            parser = Inline()
            parser.feed(path.read_text())
            assert parser.found == [], path


@pytest.mark.browser
def test_the_browser_keeps_to_the_policy() -> None:
    async def body() -> None:
        async with opened() as (voice, page):
            await state(page, "ready")
            await page.evaluate(
                "window.blocked = []; addEventListener('securitypolicyviolation', e => blocked.push(e.effectiveDirective))"
            )
            await page.evaluate(
                """(() => {
                    const script = document.createElement('script');
                    try { script.textContent = 'document.body.dataset.stolen = 1'; } catch { blocked.push('trusted-types'); }
                    document.body.append(script);
                    try { document.body.insertAdjacentHTML('beforeend', '<i>'); } catch { blocked.push('trusted-types'); }
                    for (const socket of ['ws://127.0.0.2:1/', 'wss://thief.example/']) { try { new WebSocket(socket); } catch {} }
                    const picture = new Image();
                    picture.src = 'http://127.0.0.2:1/picture';
                    document.body.append(picture);
                })()"""
            )
            await page.until("blocked.filter(one => one === 'connect-src').length === 2 && blocked.includes('img-src')")
            assert await page.evaluate("blocked.filter(one => one === 'trusted-types').length") == 2
            assert await page.evaluate("document.body.dataset.stolen === undefined")

    run(body)


# ------------------------------------------------------------------ with the real server


def test_the_page_is_served_with_its_files_and_nothing_else(server: Assistant) -> None:
    async def body() -> None:
        base = f"{server.http}/webhooks/voice"
        async with aiohttp.ClientSession() as http:
            for name, path in page_files().items():
                async with http.get(f"{base}/page/{name}") as answer:
                    assert answer.status == 200
                    assert await answer.read() == path.read_bytes()
                    assert headers(f"127.0.0.1:{server.port}").items() <= dict(answer.headers).items()
            async with http.get(f"{base}/") as answer:
                assert answer.content_type == "text/html"
                assert headers(f"127.0.0.1:{server.port}").items() <= dict(answer.headers).items()
            async with http.get(base) as answer:
                assert str(answer.url) == f"{base}/", "or the page's files would be looked for in the wrong folder"
            for name in ("nothing.js", "..%2fchannels%2fvoice.py", "../channels/voice.py", "%2e%2e/nlu.py"):
                async with http.get(f"{base}/page/{name}") as answer:
                    assert answer.status == 404
            async with http.get(f"{base}/status") as answer:
                assert (await answer.json())["recognizer"] is True

    run(body)


@pytest.mark.browser
def test_speak_see_the_intent_hear_the_answer(server: Assistant, recording: Path) -> None:
    async def body() -> None:
        async with Chromium(*microphone_flags(recording)) as browser:
            page = await browser.open(f"{server.http}/webhooks/voice/")
            await state(page, "ready")
            await page.click("#talk")
            await page.sees(".turn[data-kind=spoken] .intent", "greet")
            await page.sees(".turn[data-kind=spoken] .bubble", "Hey! How are you?")
            await page.sees(".turn .phases", "silence waited")
            if await page.evaluate("fetch('status').then(r => r.json()).then(s => !['none', 'browser'].includes(s.speech))"):
                await page.until("Number(document.body.dataset.played) > 0")
                await page.sees(".turn .phases", "playback")
            await page.click("#text")
            await page.type("I am so sad")
            await page.sees(".turn[data-kind=typed] .bubble", "Here is something to cheer you up")
            # Its picture is on the web; a link stands in where that cannot be reached.
            await page.until("document.querySelector('.turn[data-kind=typed] :is(img, .answer > a)')?.isConnected")
            assert page.problems == []

    run(body)


# ------------------------------------------------------------------ by script


@pytest.mark.browser
def test_a_spoken_turn_from_first_word_to_replay(recording: Path) -> None:
    async def body() -> None:
        async with opened(*microphone_flags(recording)) as (voice, page):
            await state(page, "ready")
            assert voice.calls == [], "who only looks calls nobody"
            await page.click("#talk")
            call = await voice.call()
            assert set(call.received[0]) == {"sample_rate", "language", "sender"}
            await call.until(lambda: call.loudest() > 1000)
            turn = await spoken_turn(call)
            await state(page, "speaking")
            await page.until(f"[{SPEECH}, {PAUSE}].every(colour => ({WAVE_COLOURS}).has(colour.join()))")
            await page.sees(".turn[data-state=hearing]", "greet")
            await page.until("document.querySelector('.ranking li .share').textContent === '60%'")
            await hears(call, turn)
            await page.sees(".turn[data-state=thinking] .intent", "balance")
            await page.until(
                "[...document.querySelectorAll('.ranking li')].map(e => e.textContent).join() === 'balance90%,greet8%,deny2%'"
            )
            await call.send({"response": "Your balance is £5."}, call.tone(300), {"marker": "one"})
            await state(page, "bot")
            await call.gets(marker="one")
            await call.send({"marker": "two", "turn": turn, **FINAL})
            await call.gets(marker="two")
            await page.sees(".turn .timeline h4", "Answered 370 ms after you stopped")
            assert await page.evaluate("[...document.querySelectorAll('.phases li')].map(e => e.textContent)") == [
                "speech 300 ms",
                "silence waited 240 ms",
                "classification 12 ms",
                "dialogue 50 ms",
                "synthesis to the first sound 66 ms",
                "playback 300 ms",
            ]
            await page.click(".replay")
            await page.until("document.querySelector('.replay').getAttribute('aria-pressed') === 'true'")
            await page.until("document.body.dataset.replayed === '1'")
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_markers_wait_for_the_sound_and_interruptions_drop_it(recording: Path) -> None:
    async def body() -> None:
        async with opened(*microphone_flags(recording)) as (voice, page):
            await page.click("#text")
            await page.type("hello")
            call = await voice.call()
            await call.gets(text="hello")
            await call.send(
                {"response": "Long."}, call.tone(100), {"marker": "short"}, call.tone(60_000), {"marker": "long", **FINAL}
            )
            await call.gets(marker="short")
            await state(page, "bot")
            assert {"marker": "long"} not in call.received
            await call.send({"interruptPlayback": True})
            await state(page, "ready")
            await page.sees(".turn .phases", "playback")  # the part that was heard
            # It was a mistake: the rest once more, with its marker.
            await call.send(call.tone(50), {"marker": "long", **FINAL})
            await call.gets(marker="long")
            assert await page.evaluate("document.querySelectorAll('.turn').length") == 1
            # The next turn says how much of this one was heard.
            await page.type("stop")
            await call.gets(text="stop")
            cut = {"interrupted": {"heard_ms": 900, "of_ms": 60_000}}
            await call.send({"response": "Yes?"}, {"marker": "next", **FINAL, "turn": cut})
            await page.sees(".turn:first-child .note", "900 ms of 60.00 s were heard")
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_what_is_no_turn_becomes_a_line(recording: Path) -> None:
    async def body() -> None:
        async with opened(*microphone_flags(recording)) as (voice, page):
            await page.click("#talk")
            call = await voice.call()
            turn = await spoken_turn(call)
            await call.send({"trace_event": "user_speaking_end", "reason": "silence", **turn})
            await state(page, "thinking")
            await call.send({"trace_event": "non_speech", "confidence": 0.97})
            await page.sees(".turn[data-state=noise]", "no speech (97% sure)")
            turn = await spoken_turn(call)
            await call.send({"trace_event": "user_speaking_end", "reason": "silence", **turn})
            await call.send({"trace_event": "ignored", "intent": "affirm", "confidence": 0.8})
            await page.sees(".turn[data-state=ignored]", "“affirm” (80%) while the bot spoke")
            await state(page, "listening")
            # The bot speaks by itself, and a turn fails.
            await call.send({"trace_event": "silence", "count": 1}, {"response": "Are you still there?"}, call.tone(50))
            await page.sees(".turn[data-kind=bot]", "Are you still there?")
            await page.click("#text")
            await page.type("hello")
            await call.gets(text="hello")
            await call.send(
                {"error": {"code": "turn_failed", "message": "KeyError"}}, {"marker": "y", "final": True, "latency": {}}
            )
            await page.sees(".turn[data-kind=typed] .error", "KeyError")
            await page.type("and now")
            await call.gets(text="and now")
            await call.send({"marker": "z", **FINAL})
            await page.sees(".turn[data-kind=typed]:last-child .note", "The bot said nothing.")
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_press_and_talk_by_mouse_by_space_and_by_a_tap(recording: Path) -> None:
    async def body() -> None:
        async with opened(*microphone_flags(recording)) as (voice, page):
            await page.click("input[value=press]")
            at = await page.middle("#talk")
            await page.mouse("mousePressed", at)
            call = await voice.call()
            if await page.evaluate("document.querySelector('#talk').dataset.on") != "true":
                # The first press opens the microphone, for which browsers take the focus, and the press with it.
                await page.mouse("mouseReleased", at)
                await page.mouse("mousePressed", at)
            commits = call.received.count({"commit": True})
            await call.until(lambda: call.loudest() > 1000)
            await page.mouse("mouseReleased", at)
            await call.until(lambda: call.received.count({"commit": True}) == commits + 1)
            sent = len(call.audio)
            await page.sees("#hint", "Nothing was heard")
            assert len(call.audio) == sent, "nothing goes while the button is up"

            await page.evaluate("document.activeElement.blur()")
            await page.key("keyDown", " ", 32)
            await call.until(lambda: len(call.audio) > sent + call.rate)  # half a second
            await page.key("keyUp", " ", 32)
            await call.until(lambda: call.received.count({"commit": True}) == commits + 2)

            sent = len(call.audio)
            await page.click("#talk")
            await page.sees("#talk-label", "Tap to send")
            await call.until(lambda: len(call.audio) > sent + call.rate)
            await page.click("#talk")
            await call.until(lambda: call.received.count({"commit": True}) == commits + 3)
            assert call.received.count({"speech": "started"}) >= 3, "while it is held no silence ends what is said"

            await page.evaluate("document.querySelector('#text').focus()")
            await page.press_key(" ", 32)
            assert await page.evaluate("document.querySelector('#text').value") == " ", "who types a space does not talk"
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_muted_means_silence(recording: Path) -> None:
    async def body() -> None:
        async with opened(FAKE_DEVICE, ALLOW) as (voice, page):  # which beeps for ever
            await page.click("#talk")
            call = await voice.call()
            await call.until(lambda: call.loudest() > 100)
            await page.click("#talk")
            await state(page, "muted")
            muted_ms = call.now_ms() + 300  # what was on its way
            await call.until(lambda: call.now_ms() > muted_ms + 2500)
            assert call.loudest(muted_ms) == 0
            await page.click("#talk")
            await call.until(lambda: call.loudest(muted_ms) > 100)
            await page.click("#end")
            await call.until(lambda: call.is_over)
            await state(page, "ready")
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_what_the_server_sends_stays_text(recording: Path) -> None:
    """Markup in anything that the bot, or a name of an intent, brings is shown and never run."""
    evil = "<img src=x onerror='document.body.dataset.stolen=1'><script>document.body.dataset.stolen=1</script>"

    async def body() -> None:
        async with opened(*microphone_flags(recording)) as (voice, page):
            await page.click("#talk")
            call = await voice.call()
            await hears(call, await spoken_turn(call), evil)
            await call.send(
                {
                    "response": f"{evil} javascript:alert(1) https://bank.example/a?b=1.",
                    "buttons": [{"title": evil, "payload": "/x"}],
                },
                {"image": "javascript:document.body.dataset.stolen=1"},
                {"custom": {"attachment": "javascript:document.body.dataset.stolen=1"}},
                {"custom": {"html": evil}},
                {"error": {"code": "turn_failed", "message": evil}},
                {"marker": "m", **FINAL},
            )
            await page.sees(".turn .error", evil)
            for selector in (".intent", ".bubble", ".reply", ".custom pre"):
                await page.sees(selector, evil.replace('"', '\\"'))
            assert await page.evaluate("document.body.dataset.stolen ?? 'no'") == "no"
            assert await page.evaluate("document.querySelectorAll('#turns img, #turns script').length") == 0
            links = await page.evaluate("[...document.querySelectorAll('#turns a')].map(a => a.href)")
            assert links == ["https://bank.example/a?b=1"]
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_buttons_work_once(recording: Path) -> None:
    async def body() -> None:
        async with opened(*microphone_flags(recording)) as (voice, page):
            await page.click("#text")
            await page.type("/pay_bill")
            call = await voice.call()
            await call.gets(payload="/pay_bill")
            buttons = [{"title": "Yes", "payload": "/affirm"}, {"title": "Tell me more", "payload": "more of it"}]
            await call.send({"response": "Shall I?", "buttons": buttons}, {"marker": "m", **FINAL})
            await call.send({"response": "Or so?", "buttons": buttons}, {"marker": "n", **FINAL})
            await page.until("document.querySelectorAll('.reply').length === 4")
            await page.click(".turn:nth-child(1) .reply:nth-child(1)")
            await call.gets(payload="/affirm")
            assert await page.evaluate("[...document.querySelectorAll('.reply')].map(b => b.disabled)") == [
                True,
                True,
                False,
                False,
            ]
            await page.click(".turn:nth-child(2) .reply:nth-child(2)")
            await call.gets(text="more of it")
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_a_bot_that_speaks_first_has_a_card_of_its_own(recording: Path) -> None:
    """The greeting comes before the answer to what the visitor has typed already, and is not taken for it."""

    async def body() -> None:
        async with opened(*microphone_flags(recording)) as (voice, page):
            await page.click("#text")
            await page.type("hello")
            call = await voice.call()
            await call.send({"trace_event": "typed", "text": "/greet"}, {"response": "Welcome."}, {"marker": "m", **FINAL})
            await call.gets(text="hello")
            await call.send({"response": "Hello you."}, {"marker": "n", **FINAL})
            await page.until("document.querySelectorAll('.turn').length === 2 && document.body.innerText.includes('Hello you.')")
            typed, own = [await page.evaluate(f"document.querySelector('.turn:nth-child({n})').innerText") for n in (1, 2)]
            assert "Hello you." in typed and "Welcome." not in typed
            assert "Welcome." in own and "Hello you." not in own
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_the_server_goes_and_comes_back(recording: Path) -> None:
    """The call goes on by itself, in the same conversation; what was not answered says so, what was typed meanwhile is sent."""

    async def body() -> None:
        async with opened(*microphone_flags(recording)) as (voice, page):
            await page.click("#talk")
            first = await voice.call()
            await page.click("#text")
            await page.type("hello")
            await first.gets(text="hello")
            await voice.stop()
            await page.until("/^Server gone, trying again in \\d+ s$/.test(document.querySelector('#state').textContent)")
            await page.sees(".turn .error", "The connection broke.")
            await page.type("are you back")
            await voice.start()
            second = await voice.call(2)
            await second.gets(text="are you back")
            assert second.received[0] == first.received[0]
            await second.until(lambda: len(second.audio) > second.rate)
            await second.send({"response": "I am."}, {"marker": "m", **FINAL})
            await page.sees(".turn:nth-child(2) .bubble", "I am.")
            await state(page, "listening")
            await second.send({"error": {"code": "going_down", "message": "This server is about to end. Call again."}})
            await second.close(1012)
            third = await voice.call(3)
            assert await third.until(lambda: third.received)
            assert third.received[0] == first.received[0]
            await state(page, "listening")
            assert await page.evaluate("document.querySelector('#notice').textContent") == ""
            await page.click("#again")
            await page.until("document.querySelectorAll('.turn').length === 0")
            await page.click("#text")
            await page.type("hello again")
            assert (await voice.call(4)).received[0]["sender"] != first.received[0]["sender"]
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_a_server_that_cannot_or_will_not(recording: Path) -> None:
    async def body() -> None:
        async with ScriptedVoice() as voice, Chromium(*microphone_flags(recording)) as browser:
            voice.recognizer = False
            page = await browser.open(voice.url())
            await page.sees("#notice", "no trained SpokenIntentClassifier")
            voice.recognizer = True
            await state(page, "ready")
            await page.until("document.querySelector('#notice').textContent === ''")

            await page.click("#talk")
            call = await voice.call()
            await call.send({"error": {"code": "too_fast", "message": "More than 60000 ms of audio ahead of time."}})
            await call.close(4429)
            await page.sees("#notice", "The server refused: More than 60000 ms")
            await state(page, "refused")

            await page.click("#talk")  # somebody tries again
            call = await voice.call(2)
            await call.send({"response": "Goodbye."}, {"marker": "m", **FINAL}, {"hangup": True})
            await call.close()
            await page.sees("#state", "The bot has hung up")
            await page.sees("#talk-label", "Start talking")

            await page.click("#text")
            await page.type("hello")
            call = await voice.call(3)
            await call.send(
                {"response": "Hello."}, {"marker": "m", **FINAL}, {"error": {"code": "idle", "message": "Nothing came."}}
            )
            await call.close(4408)  # a page left open is no reason for a message
            await state(page, "ready")
            assert await page.evaluate("document.querySelector('#notice').textContent") == ""
            assert page.problems == []

    run(body)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("flags", "host", "words"),
    [
        ((FAKE_DEVICE, "--deny-permission-prompts"), "127.0.0.1", "does not let this page use the microphone"),
        ((ALLOW,), "127.0.0.1", "No microphone was found"),
        ((FAKE_DEVICE, ALLOW), "bank.example", "came by plain http from bank.example"),
    ],
    ids=["denied", "none", "insecure"],
)
def test_without_a_microphone_the_page_says_why_and_typing_works(flags: List[str], host: str, words: str) -> None:
    async def body() -> None:
        mapped = "--host-resolver-rules=MAP bank.example 127.0.0.1"
        async with ScriptedVoice() as voice, Chromium(*flags, mapped) as browser:
            page = await browser.open(voice.url(host))
            await state(page, "ready")
            await page.click("#talk")
            await page.sees("#notice[role=alert]", words)
            assert await page.evaluate("document.querySelector('#talk-label').textContent") == "Start talking"
            await page.click("#text")
            await page.type("hello")
            call = await voice.call()
            await call.gets(text="hello")
            await call.send({"response": "Hello."}, call.tone(100), {"marker": "m", **FINAL})
            await call.gets(marker="m")
            await page.sees(".bubble", "Hello.")
            await page.sees("#notice", words)
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_the_page_speaks_itself_when_the_server_leaves_it_to_browsers() -> None:
    """Headless Chromium has no voices, so the test's own stands in for them: it ends each text when told to."""
    voice_of_test = """
        window.said = [];
        Object.defineProperty(window, 'speechSynthesis', {value: {
            speak: u => { said.push(u); u.onstart?.(); }, cancel: () => said.length = 0 }});
    """

    async def body() -> None:
        async with ScriptedVoice() as voice, Chromium() as browser:
            voice.speech = "browser"
            page = await browser.open("about:blank#")
            await page.command("Page.addScriptToEvaluateOnNewDocument", source=voice_of_test)
            await page.command("Page.navigate", url=voice.url())
            await state(page, "ready")
            await page.click("#text")
            await page.type("hello")
            call = await voice.call()
            await call.gets(text="hello")
            await call.send({"response": "Hello there."}, {"marker": "m", **FINAL})
            await page.until("said.length === 1 && said[0].text === 'Hello there.'")
            await state(page, "bot")
            assert {"marker": "m"} not in call.received
            await page.evaluate("said[0].onend()")
            await call.gets(marker="m")
            await state(page, "ready")

    run(body)


@pytest.mark.browser
def test_old_cards_leave_and_a_phone_has_no_sideways_scroll() -> None:
    async def body() -> None:
        async with ScriptedVoice() as voice, Chromium() as browser:
            page = await browser.open(voice.url(), 360, 740)
            await page.click("#text")
            await page.type("x" * 1000)
            call = await voice.call()
            for number in range(120):
                await call.send({"response": f"{number} " + "y" * 300}, {"marker": f"m{number}", **FINAL})
            await page.sees(".turn:last-child .bubble", "119 ")
            assert await page.evaluate("document.querySelectorAll('.turn').length") == 100
            for width in (360, 768, 1280):
                await page.resize(width, 740)
                wide = "[document.documentElement, document.querySelector('#log'), document.querySelector('.dock')]"
                assert await page.evaluate(f"{wide}.every(e => e.scrollWidth <= e.clientWidth)"), width
            assert await page.evaluate("(l => l.scrollHeight - l.clientHeight - l.scrollTop < 2)(document.querySelector('#log'))")
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_the_page_asks_for_the_token_that_the_server_wants() -> None:
    """Before anything is said; again for one that is not taken; no more once it has it, and also not after a reload."""

    async def body() -> None:
        async with ScriptedVoice() as voice, Chromium() as browser:
            voice.token = "open+sesame/="
            page = await browser.open(voice.url())
            await state(page, "locked")
            await page.until("document.activeElement.id === 'token'")
            await page.click("#talk")
            await page.click("#text")
            await page.type("hello")
            await page.until("document.activeElement.id === 'token'")
            assert await page.evaluate("document.querySelector('#text').value") == "hello", "which can still be sent"
            await page.type("wrong")
            await state(page, "ready")
            assert await page.evaluate("document.querySelector('#door').hidden")
            await page.click("#text")
            await page.type("")
            await page.sees("#door-why", "The token is not valid.")
            await state(page, "locked")
            assert voice.refused == ["wrong"] and voice.calls == []
            await page.click("#token")
            await page.type(voice.token)
            await state(page, "ready")
            await page.click("#text")
            await page.type("hello")
            call = await voice.call()
            await call.gets(text="hello")
            assert call.received[0]["token"] == voice.token
            await page.command("Page.reload")
            await call.until(lambda: call.is_over)
            await state(page, "ready")
            assert voice.refused == ["wrong"]
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_a_link_may_bring_the_token_which_leaves_the_address_at_once() -> None:
    async def body() -> None:
        async with ScriptedVoice() as voice, Chromium() as browser:
            voice.token = "open+sesame/="
            page = await browser.open(f"{voice.url()}?a=b#token={quote(voice.token)}")
            await state(page, "ready")
            assert await page.evaluate("location.href") == f"{voice.url()}?a=b"
            await page.click("#text")
            await page.type("hello")
            await (await voice.call()).gets(text="hello")
            assert voice.calls[0].received[0]["sender"], "a conversation that outlives a reload"
            voice.token = jwt.encode({"user": {"username": "ännchen", "role": "user"}}, "x" * 32)
            page = await browser.open(f"{voice.url()}#token={voice.token}")
            await state(page, "ready")
            await page.click("#text")
            await page.type("hello")
            await (await voice.call(2)).gets(text="hello")
            assert "sender" not in voice.calls[1].received[0], "whose it is, the token says"
            assert page.problems == []

    run(body)


@pytest.mark.browser
def test_everything_has_a_name_and_the_tab_key_reaches_it() -> None:
    async def body() -> None:
        async with opened() as (voice, page):
            await state(page, "ready")
            reached = []
            for _ in range(7):
                await page.press_key("Tab", 9)
                reached.append(await page.evaluate("document.activeElement.id || document.activeElement.name || 'send'"))
            assert reached[:6] == ["again", "log", "talk", "mode", "text", "send"]
            tree = (await page.command("Accessibility.getFullAXTree"))["nodes"]
            interactive = [
                (node["role"]["value"], node.get("name", {}).get("value", ""))
                for node in tree
                if node.get("role", {}).get("value") in ("button", "radio", "textbox") and not node["ignored"]
            ]
            assert ("button", "Start talking") in interactive
            assert ("textbox", "Type instead of talking") in interactive
            assert [role for role, name in interactive if not name] == []
            roles = {node.get("role", {}).get("value") for node in tree if not node["ignored"]}
            assert {"status", "main", "heading"} <= roles

    run(body)


# ------------------------------------------------------------------ without a browser


def test_the_page_asks_nobody_else_for_anything() -> None:
    """Every file it names is its own: it works without network."""
    for path in page_files().values():
        text = path.read_text()
        addresses = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org", "http://localhost"}
        assert addresses == set(), path
        for name in re.findall(r"""from "\./([\w.-]+)"|href="page/([\w.-]+)"|src="page/([\w.-]+)\"""", text):
            assert "".join(name) in page_files(), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path


def test_every_text_has_contrast() -> None:
    """WCAG AA: 4.5 to 1 for text on each surface it is used on, 3 to 1 for the edges of controls; light and dark."""
    blocks = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.S)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in blocks)
    texts = [("ink", "paper card sunk bot-paper"), ("soft", "paper card sunk"), ("speech", "card"), ("pause", "card")]
    texts += [("bot", "card bot-paper"), ("error", "card error-paper"), ("on-accent", "accent")]
    shapes = [("edge", "paper card"), ("accent", "paper card"), ("classify dialogue synthesis bot", "card")]

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for theme in (light, {**light, **dark}):
        for pairs, least in ((texts, 4.5), (shapes, 3.0)):
            for fronts, backs in pairs:
                for front in fronts.split():
                    for back in backs.split():
                        one, other = sorted((luminance(theme[front]), luminance(theme[back])))
                        assert (other + 0.05) / (one + 0.05) >= least, (front, back)
