"""az:// and gs:// targets as far as they need no library, and a host that lacks it."""

import json
import os
import sys
import tempfile
import unittest
from unittest import mock

from sai3ssh.agent import engines
from sai3ssh.agent.engines import cloud
from sai3ssh.agent.engines.cloud import AZURE, GOOGLE, find_cloud_credentials, parse_root
from sai3ssh.agent.engines.s3_errors import Refusal
from sai3ssh.errors import TargetError, Transient
from sai3ssh.model import Deadlines, Retry, Target

KEY = {"type": "service_account", "client_email": "a@b", "private_key": "PEM-SECRET", "private_key_id": "1"}


class Roots(unittest.TestCase):
    """Names of targets."""

    def test_parts(self):
        for uri, expected in (
            ("az://con/a/b-", (AZURE, "con", "a/b-")),
            ("gs://buc/", (GOOGLE, "buc", "")),
            ("gcs://buc", (GOOGLE, "buc", "")),
            ("gs://buc/p/", (GOOGLE, "buc", "p/")),
        ):
            root = parse_root(uri)
            self.assertEqual((root.service, root.bucket, root.prefix, root.uri), (*expected, uri))

    def test_names_that_the_library_would_change(self):
        for uri in ("az:///x/", "s3://b/x/", "con/x", "az://con//x", "az://con/a//", "gs://b/./x/", "gs://b/a/../b"):
            with self.assertRaises(TargetError, msg=uri):
                parse_root(uri)


class Keys(unittest.TestCase):
    """Whose credentials are used."""

    def test_of_the_run(self):
        found = find_cloud_credentials(
            AZURE, None, {"account": "acc", "account_key": "a2V5", "sas_token": None}, {"AZURE_STORAGE_KEY": "x"}
        )
        self.assertEqual((found.account, found.account_key, found.sas_token, found.own), ("acc", "a2V5", "", False))
        self.assertNotIn("a2V5", repr(found))
        self.assertEqual(find_cloud_credentials(AZURE, "named", {"account": "acc", "account_key": "a2V5"}, {}).account, "named")
        self.assertEqual(find_cloud_credentials(GOOGLE, None, {"bearer_token": "t"}, {}).bearer_token, "t")
        sas = find_cloud_credentials(AZURE, "acc", {"sas_token": "?sv=1&sig=abcdefgh"}, {})
        self.assertIn("abcdefgh", sas.secrets)

    def test_those_of_s3_are_none(self):
        for service in (AZURE, GOOGLE):
            with self.assertRaisesRegex(TargetError, "none for this kind of target.*Give "):
                find_cloud_credentials(service, "acc", {"access_key": "a", "secret_key": "b", "session_token": None}, {})

    def test_of_the_host(self):
        env = {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_SAS_TOKEN": "sig=s"}
        self.assertEqual(find_cloud_credentials(AZURE, None, None, env)[:3], ("acc", "", "sig=s"))
        self.assertTrue(find_cloud_credentials(AZURE, "acc", None, {}).own)
        self.assertTrue(find_cloud_credentials(GOOGLE, None, None, {}).own)
        with self.assertRaisesRegex(TargetError, "no storage account.*AZURE_STORAGE_ACCOUNT"):
            find_cloud_credentials(AZURE, None, None, {})

    def test_a_key_file_of_the_host(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "key.json")
            env = {"GOOGLE_APPLICATION_CREDENTIALS": path}
            with self.assertRaisesRegex(TargetError, "No such file"):
                find_cloud_credentials(GOOGLE, None, None, env)
            for text, message in (("PEM-SECRET", "not a JSON object"), ('["PEM-SECRET"]', "not a JSON object"), ("{}", "of type None")):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
                with self.assertRaisesRegex(TargetError, message) as caught:
                    find_cloud_credentials(GOOGLE, None, None, env)
                self.assertNotIn("PEM-SECRET", str(caught.exception))
            with open(path, "w", encoding="utf-8") as file:
                json.dump(KEY, file)
            self.assertEqual(json.loads(find_cloud_credentials(GOOGLE, None, None, env).service_account), KEY)
            self.assertEqual(find_cloud_credentials(GOOGLE, None, None, {**env, "GOOGLE_BEARER_TOKEN": "t"}).service_account, "")


class Endpoints(unittest.TestCase):
    """Where requests go."""

    def test_default_and_given(self):
        self.assertEqual(cloud.endpoint_of(Target("obstore"), AZURE, "acc"), "https://acc.blob.core.windows.net")
        self.assertEqual(cloud.endpoint_of(Target("obstore"), GOOGLE, ""), "https://storage.googleapis.com")
        self.assertEqual(cloud.endpoint_of(Target("obstore", "http://h:1/acc/"), AZURE, "acc"), "http://h:1/acc")
        for url in ("h:1", "ftp://h", "http://", "http://h:99999", "https://u:p@h", "https://h/?a=b"):
            with self.assertRaises(TargetError, msg=url):
                cloud.endpoint_of(Target("obstore", url), GOOGLE, "")


class Refusals(unittest.TestCase):
    """What a refusal means for people."""

    def test_passing_and_lasting(self):
        root = parse_root("az://con/p/")
        for found, kind, text in (
            (Refusal("http_503", "HTTP 503", 503), Transient, "is up and reachable"),
            (Refusal("http_404", "HTTP 404", 404, "ContainerNotFound"), TargetError, "no such container.*Create the container"),
            (Refusal("http_404", "HTTP 404", 404), TargetError, "no such container"),
            (Refusal("http_403", "HTTP 403", 403), TargetError, "AZURE_STORAGE_ACCOUNT"),
            (Refusal("http_401", "HTTP 401", 401), TargetError, "SAS token is still valid"),
            (Refusal("other", "no token for the storage"), TargetError, "AZURE_STORAGE_KEY"),
            (Refusal("dns", "Name or service not known"), TargetError, "name resolution"),
            (Refusal("dns", "Temporary failure in name resolution"), Transient, "name resolution"),
        ):
            error = cloud.check_error(found, root, "http://h")
            self.assertIs(type(error), kind, found)
            self.assertRegex(str(error), text)


class WithoutTheLibrary(unittest.TestCase):
    """A host whose Python has no obstore."""

    def test_what_to_do_is_said(self):
        with mock.patch.dict(sys.modules, {"obstore": None}), mock.patch.dict(vars(engines)), self.assertRaises(TargetError) as caught:
            # Another test may have imported it.
            sys.modules.pop("sai3ssh.agent.engines.obstore_engine", None)
            vars(engines).pop("obstore_engine", None)
            engines.make_engine(Target("obstore"), "gs://buc/", {"bearer_token": "t"}, Deadlines(), Retry())
        for text in ("obstore", sys.executable, "sai3ssh_agent_extras: [obstore]", "sai3ssh deploy", "sai3ssh_python"):
            self.assertIn(text, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
