"""Certificates as LXD has them: one for each node, one of the cluster, and a list of those that may connect."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import ssl
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyraft import dqlite
from pyraft.command import dqlite as commands
from pyraft.command import program
from pyraft.dqlite import Cluster, LxdTls, Member, Refused, dialer
from pyraft.dqlite import member as members
from pyraft.dqlite.peer import Peer
from pyraft.node.tls import Tls
from tests.integration.test_dqlite_member import FAST, Founder, World, address
from tests.integration.test_dqlite_upgrade import PATH
from tests.lib.tlstest import shared_certificate


def node(folder: Path, name: str) -> Path:
    """Return a directory like LXD's: with a certificate of its own, and the cluster's."""
    made = folder / name
    (made / "database").mkdir(parents=True)
    shared_certificate(made, "server", lxd=True)
    if not (folder / "cluster.crt").exists():
        shared_certificate(folder, "cluster", lxd=True)
    for file in ("cluster.crt", "cluster.key"):
        (made / file).write_bytes((folder / file).read_bytes())
        (made / file).chmod(0o600)
    return made


def trust(directory: Path, *others: Path) -> LxdTls:
    """Have a node trust others, by a file."""
    (directory / "trusted.crt").write_text("".join([(one / "server.crt").read_text() for one in others]))
    return LxdTls.of(directory)


def trust_as_lxd(directory: Path, *others: Path) -> LxdTls:
    """Have a node trust others, by a table of LXD's."""
    with closing(sqlite3.connect(directory / "database" / "local.db")) as connection:
        connection.execute("create table certificates(type integer, certificate text)")
        for one in others:
            connection.execute("insert into certificates values(2, ?)", ((one / "server.crt").read_text(),))
        connection.commit()
    return LxdTls.of(directory)


def test_members_and_clients_meet_as_with_lxd(tmp_path: Path) -> None:
    """Each shows its own certificate, which is for servers only; strangers and the cluster's own are not let in."""
    first, second, stranger = (node(tmp_path, name) for name in ("first", "second", "stranger"))

    async def run() -> None:
        world = World(tmp_path)
        founder = Founder(tmp_path / "1", address(), id=1, settings=FAST, tls=trust(first, second), upgrade=PATH)
        world.founder, world.made = founder, [founder]
        try:
            await founder.start()
            await founder.server.wait_until(lambda: founder.server.is_leader)
            await world.write("create table t(a)", "insert into t values(1)")
            other = await world.member(2, tls=trust_as_lxd(second, first), upgrade=PATH)
            await world.equal(founder, other)
            found = await Cluster([other.address], dial=dialer(LxdTls.of(second), PATH)).members()
            assert [one.id for one in found] == [1, 2]
            as_cluster = LxdTls(first / "cluster.crt", first / "cluster.key", first / "cluster.crt")
            for tls in (LxdTls.of(stranger), as_cluster):
                with pytest.raises(OSError, match=r"(?i)alert|reset|ended"):
                    await (await Peer.open(other.address, dialer(tls, PATH))).leader()
        finally:
            await world.close()

    asyncio.run(asyncio.wait_for(run(), 300))


def test_only_the_certificate_of_the_cluster_is_believed(tmp_path: Path) -> None:
    """A server that shows another one is refused by whoever connects, also if it is one of a node."""
    first, second = (node(tmp_path, name) for name in ("first", "second"))
    liar = LxdTls(first / "server.crt", first / "server.key", first / "server.crt", None, first / "server.key")

    async def run() -> None:
        trust(first, second)
        member = Member(
            tmp_path / "1",
            address(),
            upgrade=PATH,
            tls=LxdTls(liar.cert, liar.key, liar.ca, None, liar.cluster_key, first / "trusted.crt"),
        )
        async with member:
            with pytest.raises(OSError, match="self-signed"):
                await Peer.open(member.address, dialer(LxdTls.of(second), PATH))

    asyncio.run(asyncio.wait_for(run(), 300))


@pytest.mark.parametrize("fault", ["no list", "no certificate", "another key", "nonsense"])
def test_files_of_no_use_are_refused(tmp_path: Path, fault: str) -> None:
    """The text says what is wrong with them."""
    first, second = (node(tmp_path, name) for name in ("first", "second"))
    if fault != "no list":
        trust(first, second)
    if fault == "no certificate":
        (first / "server.crt").unlink()
    elif fault == "another key":
        (first / "cluster.key").write_bytes((second / "server.key").read_bytes())
    elif fault == "nonsense":
        (first / "trusted.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")

    async def run() -> None:
        with pytest.raises(Refused, match=r"load certificates (of LXD|from)"):
            await Member(tmp_path / "1", address(), tls=LxdTls.of(first), upgrade=PATH).start()

    asyncio.run(asyncio.wait_for(run(), 300))


def test_a_client_needs_no_more_than_its_own_and_the_clusters(tmp_path: Path) -> None:
    """A member needs the others, too, and says so."""
    first = node(tmp_path, "first")
    tls = LxdTls(first / "server.crt", first / "server.key", first / "cluster.crt")
    dialer(tls, PATH)
    with pytest.raises(Refused, match="load certificates"):
        dialer(LxdTls(first / "no.crt", first / "server.key", first / "cluster.crt"), PATH)

    async def run() -> None:
        with pytest.raises(Refused, match="needs the key of the cluster"):
            await Member(tmp_path / "1", address(), tls=tls, upgrade=PATH).start()

    asyncio.run(asyncio.wait_for(run(), 300))


def test_the_shell_takes_lxds_directory_or_files(tmp_path: Path) -> None:
    """Both together are refused; one of them is read before anything is asked."""
    with_both = ["dqlite", "backup", "db.bin", "x", "--via", "127.0.0.1:1", "--lxd", str(tmp_path)]
    both = CliRunner().invoke(program, [*with_both, "--cert", "a", "--key", "b", "--ca", "c"])
    assert both.exit_code == 2
    assert "--lxd has certificates of its own" in both.output
    missing = CliRunner().invoke(program, with_both)
    assert missing.exit_code == 1
    assert "server.crt" in missing.output


def test_a_new_id_has_a_place_in_a_column_of_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LXD keeps the ids of all members in its database, and stops its heartbeats at one that does not fit."""
    monkeypatch.setattr(members, "raft_digest", lambda text, n: (1 << 64) - 1)

    async def run() -> None:
        async with dqlite.Member(tmp_path / "1", address()) as member:
            assert member.id == (1 << 53) - 1

    asyncio.run(asyncio.wait_for(run(), 300))


def test_certificates_of_lxd_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that came later is let in, one that has gone is not; files of no use change nothing, and are told of."""
    monkeypatch.setattr(members, "_CERTIFICATES_SECONDS", 0.01)
    first, second = (node(tmp_path, name) for name in ("first", "second"))
    own = (first / "server.crt").read_text()

    async def lets_in(at: str) -> bool:
        with contextlib.suppress(OSError):
            async with await Peer.open(at, dialer(LxdTls.of(second), PATH)) as peer:
                await peer.leader()
                return True
        return False

    async def run() -> None:
        async with Member(tmp_path / "1", address(), tls=trust(first, first), upgrade=PATH) as member:
            reloads, reload = [], member.reload_certificates
            monkeypatch.setattr(member, "reload_certificates", lambda: (reloads.append(1), reload()))
            assert not await lets_in(member.address)
            trust(first, first, second)
            while not await lets_in(member.address):
                await asyncio.sleep(0.01)
            (first / "trusted.crt").write_text("nonsense -----BEGIN CERTIFICATE-----")
            while "certificates stay as they were: load certificates of LXD" not in caplog.text:
                await asyncio.sleep(0.01)
            assert await lets_in(member.address)
            (first / "trusted.crt").write_text(own)
            while await lets_in(member.address):
                await asyncio.sleep(0.01)
            n, looks = len(reloads), []
            monkeypatch.setattr(LxdTls, "fingerprint", lambda tls: (looks.append(1), member._certificates)[1])
            while len(looks) < 3:
                await asyncio.sleep(0.01)
            assert len(reloads) == n

    asyncio.run(asyncio.wait_for(run(), 300))


def test_a_fingerprint_is_that_of_the_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each file counts, and the order of those that are trusted does not; files are not complained of each time."""
    first, second = (node(tmp_path, name) for name in ("first", "second"))
    tls = trust(first, first, second)
    (first / "server.key").chmod(0o644)
    before = tls.fingerprint()
    trust(first, second, first)
    assert tls.fingerprint() == before
    for name in ("trusted.crt", "server.crt", "server.key", "cluster.crt", "cluster.key"):
        content = (first / name).read_bytes()
        (first / name).write_bytes((second / "server.crt").read_bytes())
        changed = tls.fingerprint()
        (first / name).unlink()
        assert len({before, changed, tls.fingerprint()}) == 3
        (first / name).write_bytes(content)
        assert tls.fingerprint() == before
    assert caplog.text == ""


def test_a_signal_has_the_shell_read_certificates_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SIGHUP does with those of one cluster as well; files of no use are told of, and it goes on with those it has."""
    certificate, key = shared_certificate(tmp_path, "cluster")
    at = address()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def shown() -> bytes:
        host, port = at.split(":")
        while True:
            with contextlib.suppress(OSError):  # it may end where certificates are read again
                _, writer = await asyncio.open_connection(host, port, ssl=context)
                writer.transport.abort()
                return bytes(writer.get_extra_info("ssl_object").getpeercert(True))

    async def run() -> None:
        tls = Tls(certificate, key, certificate)
        living = asyncio.ensure_future(commands._live(lambda: Member(tmp_path / "1", at, tls=tls), False))
        while "not taken into the cluster yet" not in caplog.text:
            await asyncio.sleep(0.01)
        before = await shown()
        good = key.read_bytes()
        key.write_bytes(b"nonsense")
        os.kill(os.getpid(), signal.SIGHUP)
        while "certificates stay as they were: load certificates from" not in caplog.text:
            await asyncio.sleep(0.01)
        assert await shown() == before
        key.write_bytes(good)
        shared_certificate(tmp_path, "cluster")
        os.kill(os.getpid(), signal.SIGHUP)
        while await shown() == before:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await living

    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asyncio.run(asyncio.wait_for(run(), 300))
    finally:
        signal.signal(signal.SIGHUP, usual)
