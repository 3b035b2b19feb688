"""The page behind certificates of those who look, in a real browser that has one.

A browser takes a certificate from the store of its user, by a policy of the whole machine. So that this machine's stays
as it is, the browser runs in a mount namespace of its own, where /etc/chromium is a directory of the test.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the extra http is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from pyraft import page
from tests.integration.test_command_clusters import Shell, on
from tests.lib import browser
from tests.lib.nodes import Nodes, until
from tests.lib.tlstest import Authority

POLICIES = Path("/etc/chromium")
TOOLS = ("certutil", "pk12util", "unshare")
SECRET = "secret"


def missing() -> str:
    """Return what is not here for these tests, "" for nothing."""
    if browser.is_missed():
        return "there is no chromium to look at the page with"
    tools = [name for name in TOOLS if shutil.which(name) is None]
    if tools:
        return f"there is no {tools[0]}, which puts a certificate into the browser's store"
    if os.geteuid() != 0 or not POLICIES.is_dir():
        return f"only root can have another {POLICIES} for one process"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "mount namespaces are refused here"


pytestmark = pytest.mark.skipif(missing() != "", reason=missing())


def given(home: Path, certificate: Path, key: Path) -> None:
    """Put a certificate and its key into the store of the browser whose home this is."""
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True, mode=0o700)
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    hidden = serialization.BestAvailableEncryption(SECRET.encode())
    packed = home / "operator.p12"
    packed.write_bytes(pkcs12.serialize_key_and_certificates(b"operator", secret, found, None, hidden))  # type: ignore[arg-type]
    database = f"sql:{store}"
    subprocess.run(["certutil", "-d", database, "-N", "--empty-password"], check=True, capture_output=True)
    told = ["pk12util", "-d", database, "-i", os.fspath(packed), "-W", SECRET, "-K", ""]
    subprocess.run(told, check=True, capture_output=True)


def policy(directory: Path) -> list[str]:
    """Return the command in which a browser gives its certificate to servers of this machine, and asks nobody."""
    own = directory / "etc"
    (own / "policies" / "managed").mkdir(parents=True)
    choice = json.dumps({"pattern": "https://127.0.0.1", "filter": {}})
    text = json.dumps({"AutoSelectCertificateForUrls": [choice]})
    (own / "policies" / "managed" / "certificates.json").write_text(text)
    return ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {POLICIES} && exec "$@"', os.fspath(own)]


def test_a_certificate_is_the_proof(tmp_path: Path) -> None:
    """The page shows the cluster without a token, and a button has another member lead."""
    authority = Authority(tmp_path)
    https = page.Https(*authority.issue("page", "127.0.0.1"), ca=authority.path)
    home = tmp_path / "profile"
    home.mkdir()
    given(home, *authority.issue("operator", "operator.example"))

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node, other = cluster.leader(), cluster.followers()[0]
        async with (
            page.served(node, "127.0.0.1:0", https=https) as where,
            browser.browser(home, policy(tmp_path)) as tab,
        ):
            await tab.call("Security.setIgnoreCertificateErrors", ignore=True)  # the authority is this test's
            await tab.go(f"https://{where}/")
            await tab.until(f"document.getElementById('summary')?.innerText.startsWith('{node.address} leads in term')")
            assert await tab.value("sessionStorage.length") == 0
            await tab.value(f"""document.querySelector('button[aria-label="Lead {other.address}"]').click()""")
            await tab.value("$('yes').click()")
            await until(lambda: other.is_leader)

    on(2, tmp_path / "data", scenario)


def test_without_one_the_page_says_what_is_needed(tmp_path: Path) -> None:
    """It tells nothing about the cluster, and no token is asked for."""
    authority = Authority(tmp_path)
    https = page.Https(*authority.issue("page", "127.0.0.1"), ca=authority.path)

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        node = cluster.nodes[1]
        async with (
            page.served(node, "127.0.0.1:0", https=https) as where,
            browser.browser(tmp_path / "profile", policy(tmp_path)) as tab,
        ):
            await tab.call("Security.setIgnoreCertificateErrors", ignore=True)
            await tab.go(f"https://{where}/")
            await tab.until("document.getElementById('summary')?.innerText === 'A certificate is needed'")
            assert await tab.value("$('token-form').hidden")
            assert node.address not in await tab.value("document.body.innerText")

    on(1, tmp_path / "data", scenario)
