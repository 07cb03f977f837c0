"""Journal records and channel frames."""

import random
import unittest

from sai3ssh import protocol
from sai3ssh.protocol import Data, FrameDecoder, ProtocolError


def journal(count):
    return b"".join(
        protocol.encode_record({"seq": n, "boot": "b", "clock_ns": n, "wall_ns": n, "kind": "sec", "text": 'ü,"crc":'})
        for n in range(count)
    )


class JournalCodec(unittest.TestCase):
    def test_record_comes_back(self):
        record = {"seq": 3, "kind": "notice", "text": 'a ","crc":"00000000"}\n b ü', "n": [1, 2.5, None, True]}
        self.assertEqual(protocol.decode_record(protocol.encode_record(record)), record)

    def test_any_altered_byte_is_found(self):
        line = protocol.encode_record({"seq": 0, "kind": "epoch", "epoch": "abcdef"})
        for at in range(len(line)):
            altered = bytearray(line)
            altered[at] ^= 1
            with self.assertRaises(ProtocolError, msg=f"byte {at}"):
                protocol.decode_record(bytes(altered))

    def test_scan_stops_at_every_torn_tail(self):
        data = journal(4)
        lengths = [len(journal(n)) for n in range(5)]
        for cut in range(len(data) + 1):
            records, size = protocol.scan(data[:cut])
            whole = max(n for n in range(5) if lengths[n] <= cut)
            self.assertEqual((len(records), size), (whole, lengths[whole]))

    def test_scan_stops_at_a_gap_in_seq(self):
        data = journal(2) + protocol.encode_record({"seq": 3, "kind": "sec"})
        self.assertEqual(protocol.scan(data)[1], len(journal(2)))

    def test_what_is_no_record_is_refused_though_its_checksum_is_right(self):
        for fields in (
            b'"x":1',
            b'"kind":"sec","ops":5',
            b'"kind":"sec","ops":{"get":[]}',
            b'"kind":"sec","ops":{"get":[1]},"retried":{"get":3}',
            b'"kind":"notice","text":' + b"[" * 100_000 + b"]" * 100_000,
        ):
            line = protocol.encode_line(0, fields)
            with self.assertRaises(ProtocolError, msg=fields[:60]):
                protocol.decode_record(line)
            self.assertEqual(protocol.scan(line), ([], 0))


class Frames(unittest.TestCase):
    def stream(self):
        return (
            b"Welcome to h1!\nSAI3SSH/2 other\n"
            + protocol.encode_preamble("n0nce")
            + protocol.encode_control({"hello": 1})
            + protocol.encode_data(0, b'{"data":1,"len":3}\n\x00\xff')
            + protocol.encode_control({"hb": 1})
            + protocol.encode_data(21, b"x" * protocol.MAX_DATA)
        )

    def expected(self):
        return [{"hello": 1}, Data(0, b'{"data":1,"len":3}\n\x00\xff'), {"hb": 1}, Data(21, b"x" * protocol.MAX_DATA)]

    def test_pieces_of_any_size(self):
        rng = random.Random(5)
        for _ in range(200):
            decoder, data, got = FrameDecoder("n0nce"), self.stream(), []
            while data:
                n = rng.choice([1, 2, 7, 50, 5000, 70000])
                got += decoder.feed(data[:n])
                data = data[n:]
            self.assertEqual(got, self.expected())

    def test_noise_without_end_is_refused(self):
        with self.assertRaises(ProtocolError):
            list(FrameDecoder("n").feed(b"y\n" * protocol.MAX_NOISE))

    def test_what_is_no_frame_is_refused(self):
        for line in (b"[" * 100_000, b'{"data":0,"len":"1"}', b'{"data":0,"len":1.5}', b'{"data":0,"len":null}', b'{"data":0}'):
            with self.assertRaises(ProtocolError, msg=line[:60]):
                list(FrameDecoder(None).feed(line + b"\nxx"))

    def test_altered_payload_is_refused(self):
        frame = bytearray(protocol.encode_data(0, b"abc"))
        frame[-1] ^= 1
        with self.assertRaises(ProtocolError):
            list(FrameDecoder(None).feed(bytes(frame)))

    def test_oversized_frame_and_line_are_refused(self):
        with self.assertRaises(ProtocolError):
            list(FrameDecoder(None).feed(b'{"data":0,"len":99999999}\n'))
        with self.assertRaises(ProtocolError):
            list(FrameDecoder(None).feed(b"z" * (protocol.MAX_LINE + 1)))


if __name__ == "__main__":
    unittest.main()
