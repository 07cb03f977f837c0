"""Stands in for the agent's zipapp: `fake_follow.py follow --nonce N --state DIR` speaks the channel's protocol over DIR/journal.ndjson.

Shares no code with the product. DIR/committed holds the committed offset, DIR/mode how to misbehave, DIR/pids who ever ran.
"""

import json
import os
import random
import select
import sys
import time
import zlib
from pathlib import Path


def main() -> None:
    nonce, directory = sys.argv[3], sys.argv[5]
    with Path(f"{directory}/pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    Fake(directory, nonce).run()


def read(path: str, default: str) -> str:
    try:
        with Path(path).open() as file:
            return file.read()
    except FileNotFoundError:
        return default


class Fake:
    def __init__(self, directory: str, nonce: str) -> None:
        self.directory = directory
        self.nonce = nonce
        self.mode = read(f"{directory}/mode", "").split()
        self.journal = f"{directory}/journal.ndjson"
        self.offset = -1
        self.beat = 0
        self.final_sent = False
        self.lines = b""

    def out(self, data: bytes) -> None:
        # In two pieces, so that a kill may fall between them.
        cut = random.randrange(len(data) + 1)
        for piece in (data[:cut], data[cut:]):
            while piece:
                piece = piece[os.write(1, piece) :]

    def say(self, message: object) -> None:
        self.out(json.dumps(message).encode() + b"\n")

    def run(self) -> None:
        os.write(1, b"Welcome to this host!\nSAI3SSH/2 not-the-nonce\n")
        if "exit" in self.mode:
            os.write(2, b"no such module\n")
            sys.exit(1)
        if "mute" in self.mode:
            time.sleep(60)
        self.out(b"SAI3SSH/2 " + self.nonce.encode() + b"\n")
        if "refuse" in self.mode:
            self.say({"error": {"type": "VersionMismatch", "message": "another version is in charge", "remedy": "wait"}})
            sys.exit(1)
        protocol = 99 if "protocol" in self.mode else 2
        self.say({"hello": {"protocol": protocol, "boot": "boot-1", "clock_ns": 0, "host": "fake", "state_dir": self.directory}})
        next_beat = time.monotonic()
        while True:
            if select.select([0], [], [], 0.002)[0]:
                data = os.read(0, 65536)
                if not data:
                    return
                *commands, self.lines = (self.lines + data).split(b"\n")
                for command in commands:
                    self.command(json.loads(command))
            if "garbage" in self.mode:
                os.write(1, b"this is no frame\n")
            if self.offset >= 0:
                if time.monotonic() >= next_beat:
                    next_beat += 0.1
                    self.beat += 1
                    self.say({"hb": self.beat, "state": "RUNNING", "committed": self.committed()})
                self.send_data()

    def committed(self) -> int:
        return int(read(f"{self.directory}/committed", "0") or 0)

    def command(self, command: dict) -> None:
        verb, number = command["cmd"], command["id"]
        if verb == "ping" and "no_pong" in self.mode:
            return
        if verb == "ping":
            self.say(
                {"id": number, "ok": {"boot": "boot-1", "clock_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**12, "wall_ns": 0}}
            )
        elif verb == "follow":
            with Path(self.journal).open("rb") as file:
                epoch = json.loads(file.readline())["epoch"]
            if command["epoch"] not in (None, epoch):
                self.say({"id": number, "error": {"type": "JournalLost", "message": f"journal has epoch {epoch}", "remedy": None}})
                return
            self.offset = command["offset"]
            with Path(f"{self.directory}/offsets").open("a") as file:
                file.write(f"{self.offset}\n")
            self.say({"id": number, "ok": {"epoch": epoch, "committed": self.committed()}})
        elif verb == "echo":
            self.say({"id": number, "ok": {"said": command["text"]}})
        elif verb == "fail":
            self.say({"id": number, "error": {"type": "TargetError", "message": "bucket is gone", "remedy": "make it"}})
        elif verb == "die":
            os._exit(0)

    def send_data(self) -> None:
        committed = self.committed()
        with Path(self.journal).open("rb") as file:
            file.seek(self.offset)
            payload = file.read(min(committed - self.offset, random.choice([1, 100, 1000, 5000]))) if committed > self.offset else b""
        if payload:
            at = self.offset + (1 if "gap" in self.mode else 0)
            self.out(json.dumps({"data": at, "len": len(payload), "crc": f"{zlib.crc32(payload):08x}"}).encode() + b"\n" + payload)
            self.offset += len(payload)
        elif not self.final_sent and Path(f"{self.directory}/final").exists() and self.offset == committed:
            self.final_sent = True
            self.say({"final": json.loads(read(f"{self.directory}/final", ""))})


main()
