"""Calls over a WebSocket of bare sound, as telephone switches send it: 16-bit PCM at 8 kHz, both ways."""

from sanic import Blueprint

from spoken_intents.audio import float_to_pcm16, pcm16_to_float
from spoken_intents.channels.connection import ConnectionCall, ConnectionInput, ConnectionSettings
from spoken_intents.config import settings_from
from spoken_intents.errors import ProtocolError


class PcmInput(ConnectionInput):
    @classmethod
    def name(cls):
        return "pcm"

    @classmethod
    def from_credentials(cls, credentials):
        return cls(settings_from(ConnectionSettings, credentials, "credentials.yml, pcm channel"))

    def blueprint(self, on_new_message):
        pcm = Blueprint("pcm", __name__)

        @pcm.route("/websocket", websocket=True, ignore_body=True)
        async def call(request, websocket):
            await PcmCall(self, request, websocket, on_new_message).run()

        self.operate(pcm)  # /health, /metrics
        return pcm


class PcmCall(ConnectionCall):
    async def begin(self):
        self._tune(8_000)
        if self._settings.initial_message:
            await self.session.type(self._settings.initial_message)

    async def take(self, message):
        if isinstance(message, str) or len(message) % 2:
            raise ProtocolError("bad_audio", "Send 16-bit PCM at 8 kHz, in binary messages.")
        await self._hear(pcm16_to_float(message))

    async def send_audio(self, samples):
        await self._send(float_to_pcm16(samples))

    async def clear(self):
        await super().clear()
        await self._send({"clear": True})  # the caller interrupts: what is not played yet is to be dropped
