"""HTTP upgrades with a program of Go that speaks them by net/http, as LXD does: plain and inside TLS, in and out."""

import asyncio
import contextlib
import http.client
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from io_uv.dqlite.upgrade import LXD, MICROCLUSTER
from pyraft.dqlite import Client, Unknown, dialer
from pyraft.node import Tls
from tests.interop.dqlite.driver import Cluster as Nodes
from tests.interop.dqlite.driver import Files, Node
from tests.interop.dqlite.test_app import ask, roles, start
from tests.interop.dqlite.test_witness import CREATE, INSERT, check
from tests.interop.driver import until
from tests.lib.tlstest import shared_certificate


def upgraded(node: Node) -> int:
    """Return how many connections a Go node has taken by an upgrade."""
    return node.dir.with_suffix(".log").read_text().count("upgraded ")


def revive(*apps: Node) -> None:
    """Start apps again that have ended: go-dqlite's panics when whoever asks for an upgrade has gone meanwhile."""
    for node in apps:
        assert node.lines is not None
        if node.lines.process.poll() is not None:
            assert "failed to write connection header" in node.dir.with_suffix(".log").read_text()
            node.kill()
            node.start()


def answer(node: Node, path: str) -> int:
    """Ask a node for something with Python's own client of HTTP; return the status."""
    host, _, port = node.address.partition(":")
    if node.tls is None:
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
    else:
        context = ssl.create_default_context(cafile=str(node.tls.certificate))
        context.load_cert_chain(node.tls.certificate, node.tls.key)
        context.check_hostname = False
        connection = http.client.HTTPSConnection(host, int(port), timeout=60, context=context)
    connection.request("POST", path, headers={"Upgrade": "dqlite", "X-Dqlite-Version": "1"})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize(("secure", "path"), [(False, MICROCLUSTER), (True, LXD)])
def test_two_apps_and_a_witness_meet_by_upgrades(
    cluster: Callable[..., Nodes], tmp_path: Path, secure: bool, path: str
) -> None:
    """All become voters; each is killed in turn, and rows come by database/sql and by our client, and a backup."""
    apps = cluster()
    apps.upgrade = path
    tls: Tls | None = None
    if secure:
        apps.tls = Files(*shared_certificate(tmp_path, "cluster"), "cluster.example")
        tls = Tls(apps.tls.certificate, apps.tls.key, apps.tls.certificate)
    first, second, witness = apps.app(), apps.app(), apps.python()
    start(first, second, witness)
    ask(first, CREATE)

    def all_vote() -> bool:
        revive(first, second)
        return list(roles(first).values()) == ["voter"] * 3

    until("three voters", all_vote)
    assert upgraded(first) > 0 < upgraded(second)
    for node in (first, witness):
        assert answer(node, "/other") == 404
        assert answer(node, path) == 101

    async def insert(n: int) -> int:
        nodes = [one.address for one in apps.nodes]
        async with Client(nodes, "test.db", timeout_seconds=60, dial=dialer(tls, path)) as client:
            done = False
            while not done:
                with contextlib.suppress(Unknown):  # as in test_app.rows
                    await client.execute("insert into t(b) values(?)", n)
                [[found]] = await client.query("select count(*) from t where b = ?", n)
                done = found == 1
            [[count]] = await client.query("select count(*) from t")
        assert isinstance(count, int)
        return count

    for n, node in enumerate((first, second, witness), 1):
        until("three voters", all_vote)
        node.kill()
        assert asyncio.run(insert(n)) == n
        node.start()
    until("three voters", all_vote)
    client = apps.client()
    client.ask(f"load 10 {INSERT}")
    total = int(client.ask("query select count(*) from t"))
    check(apps.until_equal([first, second, witness]), tmp_path, total)
    file = tmp_path / "kept.db"
    command = [sys.executable, "-m", "pyraft", "dqlite", "backup", "test.db", str(file), f"--via={witness.address}"]
    command.append(f"--upgrade={path}")
    if apps.tls:
        command += [f"--cert={apps.tls.certificate}", f"--key={apps.tls.key}", f"--ca={apps.tls.certificate}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert file.stat().st_size > 0
