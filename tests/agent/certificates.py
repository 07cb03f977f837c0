"""Certificates for servers of tests."""

import os
import subprocess
import time

AUTHORITY = """[ca]
default_ca = test
[test]
database = index
new_certs_dir = .
default_md = sha256
policy = names
rand_serial = yes
copy_extensions = copy
x509_extensions = own
[names]
commonName = supplied
[own]
basicConstraints = critical, CA:true
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def make_certificate(directory, name, names, days):
    """Path of a certificate of its own authority, until `days` from now, with its key in the same file."""
    path, key, request = (os.path.join(directory, f"{name}.{kind}") for kind in ("pem", "key", "csr"))

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60, cwd=directory)

    def date(days):
        return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + days * 86400))

    with open(os.path.join(directory, "ca.cnf"), "w") as file:
        file.write(AUTHORITY)
    with open(os.path.join(directory, "index"), "w"):
        pass
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", *curve, "-subj", f"/CN=test {name}", "-keyout", key, "-out", request, "-addext", f"subjectAltName={names}")
    dates = ("-startdate", date(days - 60), "-enddate", date(days))
    openssl("ca", "-config", "ca.cnf", "-selfsign", "-batch", "-notext", "-keyfile", key, "-in", request, "-out", path, *dates)
    with open(path, "a") as file, open(key) as source:
        file.write(source.read())
    return path
