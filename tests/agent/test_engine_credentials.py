"""Where an agent finds credentials when the run brings none."""

import json
import tempfile
import unittest
from pathlib import Path

from sai3ssh.agent.engines.credentials import find_credentials
from sai3ssh.agent.engines.sigv4 import Credentials
from sai3ssh.errors import TargetError
from tests.agent.s3_server import Server, response

NOWHERE = "http://127.0.0.1:1"


class Sources(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        (self.home / ".aws").mkdir()
        self.environ = {"HOME": directory.name, "AWS_EC2_METADATA_DISABLED": "true"}

    def profile(self, text):
        (self.home / ".aws" / "credentials").write_text(text)

    def test_given(self):
        given = {"access_key": "A", "secret_key": "S", "session_token": None}
        self.assertEqual(find_credentials(given, {}), Credentials("A", "S", None))
        for incomplete in ({"access_key": "A", "secret_key": ""}, {"secret_key": "S"}, {"access_key": "A\r\nX: y", "secret_key": "S"}):
            with self.assertRaisesRegex(TargetError, "credentials of the run"):
                find_credentials(incomplete, {})

    def test_environment_comes_before_the_profile(self):
        self.profile("[default]\naws_access_key_id = P\naws_secret_access_key = Q\n")
        environ = {**self.environ, "AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S", "AWS_SESSION_TOKEN": "T"}
        self.assertEqual(find_credentials(None, environ), Credentials("A", "S", "T"))
        self.assertEqual(find_credentials(None, self.environ), Credentials("P", "Q"))
        with self.assertRaisesRegex(TargetError, "no secret key"):
            find_credentials(None, {"AWS_ACCESS_KEY_ID": "A"})

    def test_profile(self):
        self.profile("[default]\naws_access_key_id=P\naws_secret_access_key=Q%1\n[other]\naws_access_key_id=O\naws_secret_access_key=R\n")
        self.assertEqual(find_credentials(None, self.environ).secret_key, "Q%1")
        self.assertEqual(find_credentials(None, {**self.environ, "AWS_PROFILE": "other"}).access_key, "O")
        with self.assertRaisesRegex(TargetError, "AWS_ACCESS_KEY_ID"):
            find_credentials(None, {**self.environ, "AWS_PROFILE": "none"})

    def test_a_broken_profile_is_named_and_not_quoted(self):
        self.profile("aws_secret_access_key = SECRET\n")
        with self.assertRaises(TargetError) as caught:
            find_credentials(None, self.environ)
        self.assertIn(".aws/credentials", str(caught.exception))
        self.assertNotIn("SECRET", str(caught.exception))

    def test_instance_role(self):
        def script(client, request, number):
            if request.method == "PUT":
                return response(b"the-token")
            if request.headers.get("x-aws-ec2-metadata-token") != "the-token":
                return response(b"", 401)
            if request.path.endswith("/"):
                return response(b"role\n")
            return response(json.dumps({"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "T"}).encode())

        environ = {"HOME": self.environ["HOME"]}
        with Server(script) as server:
            self.assertEqual(find_credentials(None, environ, server.url), Credentials("A", "S", "T"))
        self.assertEqual([r.method for r in server.requests], ["PUT", "GET", "GET"])
        for answer in (response(b"", 404), response(b"[]"), b"garbage\r\n\r\n"):
            with Server(lambda c, r, n, answer=answer: answer) as server, self.assertRaisesRegex(TargetError, "no credentials"):
                find_credentials(None, environ, server.url)
        with self.assertRaisesRegex(TargetError, "instance role"):
            find_credentials(None, environ, NOWHERE)


if __name__ == "__main__":
    unittest.main()
