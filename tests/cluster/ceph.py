"""A real S3 server for the tests: a Ceph gateway with one monitor and one in-memory disk, on
loopback.

    python tests/cluster/ceph.py --unpack     once: Debian's packages, unpacked under $CEPH_ROOT

Nothing is installed. Needs Debian, and root to run the daemons as they expect. Debian's 16.2 works
with cephx only (its gateway loops without authentication), and wants its pools made beforehand.
"""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(os.environ.get("CEPH_ROOT", "/var/tmp/rsr-ray-ceph"))
PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common", "libnl-3-200", "libnl-route-3-200")
POOLS = (
    ".rgw.root",
    *(
        f"default.rgw.{name}"
        for name in ("log", "control", "meta", "buckets.index", "buckets.data", "buckets.non-ec")
    ),
)


def available() -> bool:
    return (ROOT / "usr/bin/radosgw").is_file()


def unpack() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/partial")
        cache = ["-o", f"Dir::Cache::archives={folder}"]
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        subprocess.run(
            [
                "apt-get",
                "-qq",
                "-y",
                "install",
                "--download-only",
                "--no-install-recommends",
                *cache,
                *PACKAGES,
            ],
            check=True,
        )
        for package in glob.glob(f"{folder}/*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, str(ROOT)], check=True)


def _settings(d: Path, fsid: str, monitor: str, port: int) -> str:
    lib = ROOT / "usr/lib/x86_64-linux-gnu"
    everywhere = {
        "fsid": fsid, "mon initial members": "a", "mon host": monitor, "public addr": "127.0.0.1",
        "cluster addr": "127.0.0.1", "ms bind ipv6": "false",
        **{f"auth {who} required": "cephx" for who in ("cluster", "service", "client")},
        "keyring": f"{d}/keyring",
        "plugin "
        "dir": f"{lib}/ceph", "erasure code dir": f"{lib}/ceph/erasure-code",
        "osd class dir": f"{lib}/rados-classes",
        "osd class load "
        "list": "*", "osd class default list": "*", "run dir": d,
        "admin socket": f"{d}/$name.$pid.asok", "log file": f"{d}/$name.log",
        "mon cluster log "
        "file": f"{d}/cluster.log", "osd pool default size": 1, "osd pool default min size": 1,
        "osd pool default pg num": 4,
        "osd pool default pg autoscale "
        "mode": "off", "osd crush chooseleaf type": 0, "mon allow pool size one": "true",
        "mon max pg per osd": 1000,
    }  # fmt: skip
    sections = {
        "global": everywhere,
        "mon.a": {"mon data": f"{d}/mon", "mon data avail crit": 0},
        "osd.0": {
            "osd data": f"{d}/osd",
            "osd objectstore": "memstore",
            "memstore device bytes": 2 << 30,
            "osd mclock skip benchmark": "true",
        },
        "client.rgw.a": {
            "rgw frontends": f"beast endpoint=127.0.0.1:{port}",
            "rgw data": f"{d}/rgw",
            "rgw run sync thread": "false",
        },
    }
    return "".join(
        f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items())
        for name, values in sections.items()
    )


@contextlib.contextmanager
def gateway(
    port: int, monitor_ports: tuple[int, int], users: dict[str, tuple[str, str]]
) -> Iterator[None]:
    """A fresh, empty gateway on `port` with users of these keys (access, secret), who may set each
    other's policies; it and all it stored are gone afterwards.
    """
    monitor = "[v2:127.0.0.1:{},v1:127.0.0.1:{}]".format(*monitor_ports)
    d = Path(tempfile.mkdtemp(prefix="rsr-ceph-"))
    for name in ("mon", "osd", "rgw"):
        (d / name).mkdir()
    fsid = str(uuid.uuid4())
    (d / "ceph.conf").write_text(_settings(d, fsid, monitor, port))
    lib = ROOT / "usr/lib/x86_64-linux-gnu"
    libraries = f"{lib}:{lib}/ceph:{ROOT}/lib/x86_64-linux-gnu"
    environment = os.environ | {
        "LD_LIBRARY_PATH": libraries,
        "CEPH_CONF": f"{d}/ceph.conf",
        "PATH": f"{ROOT}/usr/bin:{os.environ['PATH']}",
    }
    daemons: dict[Path, subprocess.Popen] = {}

    def run(*command: str, seconds: float = 60, check: bool = True, text: str = "") -> str:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, input=text
        )
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stderr[-500:]}")
        return done.stdout

    def ceph(*command: str, check: bool = True, text: str = "") -> str:
        # The script belongs to Debian's own Python, not to the one the tests run under.
        packages = f"PYTHONPATH={ROOT}/usr/lib/python3/dist-packages"
        return run(
            "env",
            packages,
            "/usr/bin/python3",
            f"{ROOT}/usr/bin/ceph",
            "--connect-timeout",
            "10",
            *command,
            check=check,
            text=text,
        )

    def daemon(*command: str) -> None:
        log = d / f"{command[0]}.out"
        with log.open("wb") as out:
            daemons[log] = subprocess.Popen(
                [*command, "-f"], env=environment, stdout=out, stderr=out
            )

    def wait(ready, what: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            for log, started in daemons.items():
                if started.poll() is not None:
                    raise RuntimeError(
                        f"{log.stem} ended with {started.returncode}: "
                        f"{log.read_text(errors='replace')[-500:]}"
                    )
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come up in {seconds:.0f} s")
            time.sleep(0.3)

    try:
        key = ("ceph-authtool", f"{d}/keyring", "--gen-key", "-n")
        run(*key[:1], "--create-keyring", *key[1:], "mon.", "--cap", "mon", "allow *")
        run(
            *key,
            "client.admin",
            "--cap",
            "mon",
            "allow *",
            "--cap",
            "osd",
            "allow *",
            "--cap",
            "mgr",
            "allow *",
        )
        run(*key, "osd.0", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *")
        run(*key, "client.rgw.a", "--cap", "mon", "allow rw", "--cap", "osd", "allow rwx")
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, f"{d}/monmap")
        run("ceph-mon", "-i", "a", "--mkfs", "--monmap", f"{d}/monmap", "--keyring", f"{d}/keyring")
        daemon("ceph-mon", "-i", "a")
        wait(lambda: "1 mons" in ceph("mon", "stat", check=False), "the monitor")
        ceph("osd", "new", disk := str(uuid.uuid4()))
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        daemon("ceph-osd", "-i", "0")
        wait(lambda: "1 up" in ceph("osd", "stat", check=False), "the disk")
        made = (
            f"osd pool create {pool} 4 4\nosd pool application enable {pool} rgw\n"
            for pool in POOLS
        )
        ceph(text="".join(made))  # one process for all of them
        for user, (access_key, secret_key) in users.items():
            keys = ("--access-key", access_key, "--secret-key", secret_key)
            who = ("--uid", user, "--display-name", user, "--caps", "user-policy=*")
            run("radosgw-admin", "user", "create", *who, *keys, seconds=120)
        daemon("radosgw", "-n", "client.rgw.a")
        wait(lambda: _answers(f"http://127.0.0.1:{port}"), "the gateway")
        yield
    finally:
        for started in reversed(daemons.values()):
            started.send_signal(signal.SIGKILL)
            started.wait()
        shutil.rmtree(d, ignore_errors=True)


def _answers(endpoint: str) -> bool:
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(endpoint, timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1:] != ["--unpack"]:
        sys.exit(__doc__)
    unpack()
