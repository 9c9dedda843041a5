"""What many calls at the same time need, worked out from what one core and one call were measured to need; in Markdown.

python benchmarks/sizing.py    # prints the tables of docs/scaling.md
"""

import base64
import json
from math import ceil
from typing import Callable, Dict, List, Tuple

# Measured: see docs/scaling.md for how.
CALLS_PER_CORE = 50  # answered in time, one server of one process
CALL_MB = 1.0  # of memory, beside
SERVER_MB = 1000  # of a server without calls: Rasa, TensorFlow, the Rasa model, the recognizer
REDIS_COMMANDS = 7  # a turn: 4 GET, 2 SET, 1 DEL
TRANSACTIONS = 2  # a turn: one reads the conversation, one adds to it
ROWS = 6  # a turn
ROW_BYTES = 420  # without indices

# Assumed.
USED = 0.7  # of what a core was measured to take: the rest is for busy minutes, and for the calls of servers that died
TURN_S = 10.0  # between the turns of a call
SPOKEN = 0.3  # of the time, the bot speaks

PACKET = 20 + 32  # bytes: IP, and TCP with time stamps
TLS = 5 + 16 + 1  # a record's header, tag and type
HEADER, MASK = 4, 4  # a WebSocket frame's, of 126 to 65535 bytes; clients mask what they send
SEGMENT = 1448  # bytes in a packet
BUFFERS = 2 * 16384  # HAProxy's of a call, one for each direction


def _json(audio: bytes) -> bytes:
    return json.dumps({"audio": base64.b64encode(audio).decode()}).encode()


def _twilio(audio: bytes) -> bytes:
    payload = {"track": "inbound", "chunk": "12345", "timestamp": "246900", "payload": base64.b64encode(audio).decode()}
    message = {"event": "media", "sequenceNumber": "12346", "media": payload, "streamSid": "MZ" + 32 * "0"}
    return json.dumps(message, separators=(",", ":")).encode()


# What a client sends: samples a second, samples in a message, bytes in a sample, how they are wrapped.
WIRES: Dict[str, Tuple[int, int, int, Callable[[bytes], bytes]]] = {
    "telephone: µ-law, 20 ms, as Twilio sends it": (8_000, 160, 1, _twilio),
    "PCM16 at 16 kHz, 20 ms, binary": (16_000, 320, 2, bytes),
    "PCM16 at 16 kHz, 20 ms, base64 in JSON": (16_000, 320, 2, _json),
    "Rasa's browser client: PCM16 at 48 kHz, 128 samples, base64 in JSON": (48_000, 128, 2, _json),
}


def up(wire: str) -> float:
    """Bytes a second of a caller, who is heard all the time."""
    rate, samples, size, wrap = WIRES[wire]
    return rate / samples * (len(wrap(bytes(samples * size))) + HEADER + MASK + TLS + PACKET)


def down(wire: str) -> float:
    """Bytes a second to a caller while the bot speaks: base64 in messages of many packets."""
    rate, _, size, _ = WIRES[wire]
    return rate * size * 4 / 3 * (SEGMENT + TLS + PACKET) / SEGMENT


def network() -> str:
    """What one call needs of a network."""
    lines = [
        "| one call, kbit/s | messages a second | from the caller | to the caller, while the bot speaks |",
        "|---|---|---|---|",
    ]
    for wire, (rate, samples, _, _) in WIRES.items():
        lines.append(f"| {wire} | {rate / samples:.0f} | {up(wire) * 8 / 1000:.0f} | {down(wire) * 8 / 1000:.0f} |")
    return "\n".join(lines)


def needs(calls: int) -> List[Tuple[str, str, str]]:
    """What so many calls need: the thing, the arithmetic, the figure."""
    cores = ceil(calls / (CALLS_PER_CORE * USED))
    turns = calls / TURN_S
    a_day = turns * ROWS * ROW_BYTES * 86_400 / 1e9

    def gbit(wire: str) -> str:
        return f"{calls * up(wire) * 8 / 1e9:,.2f} + {calls * SPOKEN * down(wire) * 8 / 1e9:,.2f} Gbit/s"

    telephone, _, in_json, browser = WIRES
    return [
        ("cores, and servers, for Rasa", f"calls / ({CALLS_PER_CORE} × {USED})", f"{cores:,}"),
        (
            "memory for them",
            f"servers × {SERVER_MB} MB + calls × {CALL_MB:g} MB",
            f"{(cores * SERVER_MB + calls * CALL_MB) / 1000:,.0f} GB",
        ),
        ("turns", f"calls / {TURN_S:g} s", f"{turns:,.0f} a second"),
        ("Redis, commands", f"turns × {REDIS_COMMANDS}", f"{turns * REDIS_COMMANDS:,.0f} a second"),
        ("PostgreSQL, transactions", f"turns × {TRANSACTIONS}", f"{turns * TRANSACTIONS:,.0f} a second"),
        ("PostgreSQL, new rows", f"turns × {ROWS}", f"{turns * ROWS:,.0f} a second"),
        ("PostgreSQL, new data", f"rows × {ROW_BYTES} B, if it is so busy all day", f"{a_day:,.0f} GB a day"),
        ("PostgreSQL, connections", "one for each server", f"{cores:,}"),
        ("balancer, connections", "2 × calls", f"{2 * calls:,}"),
        ("balancer, memory for buffers", "calls × 2 × 16 KiB", f"{calls * BUFFERS / 1e9:,.2f} GB"),
        ("network, telephone", f"calls × up, + calls × {SPOKEN} × down", gbit(telephone)),
        ("network, 16 kHz in JSON", "likewise", gbit(in_json)),
        ("network, Rasa's browser client", "likewise", gbit(browser)),
    ]


def table(*sizes: int) -> str:
    """What each number of calls needs."""
    columns = [needs(calls) for calls in sizes]
    lines = [f"| | how | {' | '.join(f'{calls:,} calls' for calls in sizes)} |", f"|---|---|{'---|' * len(sizes)}"]
    for row in zip(*columns):
        lines.append(f"| {row[0][0]} | {row[0][1]} | {' | '.join(figure for _, _, figure in row)} |")
    return "\n".join(lines)


def main() -> None:
    print(network(), table(1_000, 100_000), sep="\n\n")


if __name__ == "__main__":
    main()
