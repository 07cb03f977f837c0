"""Signatures against the examples that AWS publishes, and request heads."""

import calendar
import time
import unittest

from sai3ssh.agent.engines.base import Kept
from sai3ssh.agent.engines.sigv4 import (
    ANONYMOUS,
    DATE_S,
    EMPTY_SHA256,
    Credentials,
    RequestSigner,
    encode_path,
    encode_query,
    make_signer,
)
from tests.agent.s3_server import ACCESS_KEY, SECRET_KEY, Request

# From "Signature Calculations for the Authorization Header: Transferring Payload in a Single Chunk" of the S3 API reference.
AWS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOON = calendar.timegm((2013, 5, 24, 0, 0, 0))
LIFECYCLE = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
LISTING = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"


class Signatures(unittest.TestCase):
    def signer(self):
        return RequestSigner("examplebucket.s3.amazonaws.com", "us-east-1", AWS, clock=lambda: NOON)

    def test_published_examples(self):
        signer = self.signer()
        for query, signature in (("lifecycle=", LIFECYCLE), ("max-keys=2&prefix=J", LISTING)):
            head = signer.head("GET", "/", query, 0, payload_sha256=EMPTY_SHA256).decode()
            self.assertTrue(head.endswith(f"Signature={signature}\r\n\r\n"), head)
            self.assertIn("Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ", head)

    def test_dates_are_a_few_seconds_old_at_most_and_days_pass(self):
        now = [NOON + 0.25]
        signer = RequestSigner("h:9000", "r", Credentials(ACCESS_KEY, SECRET_KEY), clock=lambda: now[0])
        began = NOON + 0.25
        kept = Kept(1)
        for at in (0.25, 0.999, 1.001, 59.0, 61.0, 86399.5, 86400.1, 86459.6, 86400 * 40.0):
            now[0] = NOON + at
            since_ns = int((now[0] - began) * 1e9)
            for head in (signer.head("GET", "/b/k", "", since_ns), signer.repeated(kept, 0, "/b/k", since_ns)):
                request = Request(head[:-4], b"")
                self.assertTrue(request.signature_is_right(), at)
                age_s = now[0] - calendar.timegm(time.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ"))
                self.assertTrue(0 <= age_s <= DATE_S + 1, (at, age_s))

    def test_a_repeated_head_is_that_of_the_same_request_and_is_signed_once_for_a_date(self):
        signer, kept = self.signer(), Kept(3)
        for now_ns in (0, DATE_S * 10**9 - 1, DATE_S * 10**9):
            for index in (2, 0):
                self.assertEqual(signer.repeated(kept, index, f"/b/{index}", now_ns), signer.head("GET", f"/b/{index}", "", now_ns))
            if not now_ns:
                first = list(kept.signatures)
                self.assertEqual([len(signature) for signature in first], [64, 0, 64])
            self.assertEqual(all(a is b for a, b in zip(kept.signatures, first)), now_ns < DATE_S * 10**9)

    def test_what_another_signer_has_signed_is_not_taken(self):
        kept = Kept(1)
        for token in ("one", "two"):
            signer = RequestSigner("h", "r", AWS._replace(session_token=token), clock=lambda: NOON)
            self.assertEqual(signer.repeated(kept, 0, "/b/k", 0), signer.head("GET", "/b/k", "", 0))

    def test_nobodys_repeated_heads_have_no_signature(self):
        self.assertNotIn(b"Signature", make_signer("h", "r", ANONYMOUS).repeated(Kept(1), 0, "/b/k", 0))

    def test_random_keys_and_queries(self):
        signer = RequestSigner("h", "eu", Credentials(ACCESS_KEY, SECRET_KEY, "token=="))
        for number in range(0, 3000, 7):
            key = "".join(chr(32 + (number * k) % 1200) for k in range(1, 12))
            query = encode_query({"prefix": key, "a": "", "B": "~ /"})
            request = Request(signer.head("PUT", "/" + encode_path(key), query, number, 5)[:-4], b"")
            self.assertTrue(request.signature_is_right(), key)
            self.assertEqual(request.headers["content-length"], "5")

    def test_further_headers_are_signed_when_they_are_amazons(self):
        for token in (None, "token=="):
            signer = RequestSigner("h", "eu", Credentials(ACCESS_KEY, SECRET_KEY, token))
            further = {"x-amz-zulu": "last", "content-md5": "digest==", "x-amz-alpha": "/b/k%20"}
            request = Request(signer.head_with(further, "PUT", "/b/k", "a=", 0, 7)[:-4], b"")
            self.assertTrue(request.signature_is_right())
            signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
            amz = ["x-amz-alpha", "x-amz-content-sha256", "x-amz-date", *(["x-amz-security-token"] if token else []), "x-amz-zulu"]
            self.assertEqual(signed, ["host", *amz])
            self.assertEqual({name: request.headers[name] for name in further}, further)
            self.assertEqual(request.headers["content-length"], "7")
            plain, same = (Request(head[:-4], b"") for head in (signer.head("GET", "/k", "", 0), signer.head_with({}, "GET", "/k", "", 0)))
            self.assertEqual(plain.headers, same.headers)

    def test_encoding(self):
        self.assertEqual(encode_path("a b+c/~ü//.%"), "a%20b%2Bc/~%C3%BC//.%25")
        self.assertEqual(encode_query({"b": "x/y z", "a": "", "A": "~"}), "A=~&a=&b=x%2Fy%20z")

    def test_the_secret_is_not_shown(self):
        shown = repr(AWS) + str(AWS)
        self.assertNotIn(AWS.secret_key, shown)
        self.assertNotIn(AWS.access_key, shown)


if __name__ == "__main__":
    unittest.main()
