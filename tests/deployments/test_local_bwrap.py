"""The launcher of sandboxes: folders only root may enter, bridges, death, and nothing left."""

import asyncio
import json
import multiprocessing
import os
import signal
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime import cgroups
from deployments.runtime.driver import Bridge, FunctionSpec, Place, UnableToLaunch
from deployments.runtime.local_bwrap import UIDS, LocalBwrap, environment_inside
from tests.deployments.sandboxes import (
    WatchedBwrap,
    answer_of,
    as_ordinary_user,
    left_of,
    needs_bwrap,
    needs_root,
    processes_of,
)
from tests.deployments.waiting import until

pytestmark = [pytest.mark.functions, needs_bwrap]

LOOK = """
import fs from 'node:fs'; import net from 'node:net';
import dns from 'node:dns'; import os from 'node:os';
const listen = (port) => new Promise((resolve) => net.createServer()
  .on('error', (error) => resolve(error.code))
  .listen(port, '127.0.0.1', () => resolve('listening')));
const connect = (port) => new Promise((resolve) => net
  .connect(port, 'gateway.example', () => resolve('connected'))
  .on('error', (error) => resolve(error.code)));
export const handler = async (event) => ({
  uid: process.getuid(), user: os.userInfo().username, code: fs.readdirSync('/var/task'),
  capabilities: fs.readFileSync('/proc/self/status', 'utf8').match(/CapEff:\\s*(\\w+)/)[1],
  low: await listen(444), high: await listen(8443), bridge: await connect(443),
  address: await dns.promises.lookup('gateway.example').then((a) => a.address, (e) => e.code),
  handles: fs.readdirSync('/proc/self/fd').map((fd) => { try {
    return fs.readlinkSync('/proc/self/fd/' + fd) } catch { return '' } }),
});
"""


def function_in(folder: Path, code: str = LOOK, **fields: Any) -> FunctionSpec:
    code_folder = folder / "api.func"
    code_folder.mkdir()
    (code_folder / "index.mjs").write_text(code)
    return FunctionSpec(1, "app-1", "rel_1", "api", code_folder, "index.mjs", **fields)


def place_in(folder: Path, *bridges: Bridge) -> Place:
    return Place(sockets=folder / "run", home=folder / "tmp", bridges=bridges)


@needs_root
async def test_folders_that_only_root_may_enter_are_no_obstacle(tmp_path: Path) -> None:
    closed = tmp_path / "data"
    closed.mkdir(mode=0o700)
    seen = await answer_of(LocalBwrap(), function_in(closed), place_in(closed))
    assert seen["uid"] in UIDS
    assert seen["user"] == "function"
    assert seen["code"] == ["index.mjs"]
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


async def test_a_sandbox_holds_no_file_of_the_service_open(tmp_path: Path) -> None:
    seen = await answer_of(LocalBwrap(), function_in(tmp_path), place_in(tmp_path))
    kinds = {path.split(":")[0] for path in seen["handles"]}
    assert kinds <= {"pipe", "socket", "anon_inode", "/dev/null", "/dev/urandom", ""}


GATEWAY = Bridge("gateway.example", 443, "gateway.sock")


async def test_a_bridge_on_a_low_port_may_be_listened_on_and_its_host_is_the_loopback(
    tmp_path: Path,
) -> None:
    seen = await answer_of(LocalBwrap(), function_in(tmp_path), place_in(tmp_path, GATEWAY))
    assert (seen["low"], seen["high"]) == ("listening", "listening")
    assert (seen["address"], seen["bridge"]) == ("127.0.0.1", "connected")
    assert int(seen["capabilities"], 16) == 1 << 10  # CAP_NET_BIND_SERVICE


async def test_without_such_a_bridge_low_ports_are_closed_and_there_is_no_capability(
    tmp_path: Path,
) -> None:
    high = Bridge("gateway.example", 9001, "gateway.sock")
    seen = await answer_of(LocalBwrap(), function_in(tmp_path), place_in(tmp_path, high))
    assert (seen["low"], seen["high"]) == ("EACCES", "listening")
    assert int(seen["capabilities"], 16) == 0


def test_low_ports_work_without_root_too() -> None:
    async def look() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            return await answer_of(LocalBwrap(), function_in(path), place_in(path, GATEWAY))

    seen = as_ordinary_user(look)
    assert (seen["low"], seen["bridge"], seen["uid"]) == ("listening", "connected", 1000)


def test_the_environment_names_what_is_inside(tmp_path: Path) -> None:
    spec = function_in(tmp_path, environment={"OPENAI_BASE_URL": "https://gateway.example/v1"})
    inside = environment_inside(spec, place_in(tmp_path, GATEWAY))
    assert str(tmp_path) not in json.dumps(inside)
    assert inside["OPENAI_BASE_URL"] == "https://gateway.example/v1"
    assert inside["LAMBDA_TASK_ROOT"] == "/var/task"
    assert json.loads(inside["AIG_BRIDGES"]) == [
        {"host": "gateway.example", "port": 443, "socket": "/run/aig/gateway.sock"}
    ]


@needs_root
async def test_a_function_that_others_may_not_read_is_refused_and_nothing_is_kept(
    tmp_path: Path,
) -> None:
    spec = function_in(tmp_path)
    spec.folder.chmod(0o700)
    launcher = LocalBwrap()
    with pytest.raises(UnableToLaunch, match="must be readable by all"):
        await answer_of(launcher, spec, place_in(tmp_path))
    assert launcher._sandboxes == {}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [("x\0--bind\0/\0/var/task", "contains a NUL"), ("\ud800", "not valid Unicode")],
)
async def test_a_variable_cannot_become_an_option_of_the_sandbox(
    tmp_path: Path, value: str, complaint: str
) -> None:
    launcher = LocalBwrap()
    spec = function_in(tmp_path, environment={"NAME": value})
    with pytest.raises(UnableToLaunch, match=complaint):
        await answer_of(launcher, spec, place_in(tmp_path))
    assert launcher._sandboxes == {}


@needs_root
async def test_a_killed_service_leaves_nothing_that_the_next_start_does_not_sweep(
    tmp_path: Path,
) -> None:
    spec = function_in(tmp_path, "export const handler = () => new Promise(() => {});")
    context = multiprocessing.get_context("fork")
    told = context.Queue()

    def serve() -> None:
        async def start() -> None:
            launcher = WatchedBwrap()
            answering = asyncio.create_task(answer_of(launcher, spec, place_in(tmp_path)))
            await until(lambda: bool(launcher.made))
            ((_, sandbox),) = launcher.made
            await until(lambda: bool(processes_of(sandbox.uid)))
            sandbox.reservation = None  # a socket cannot be told
            told.put(sandbox)
            await answering

        asyncio.run(start())

    service = context.Process(target=serve)
    service.start()
    sandbox = await asyncio.to_thread(told.get, timeout=30)
    assert processes_of(sandbox.uid)
    os.kill(service.pid or 0, signal.SIGKILL)
    await asyncio.to_thread(service.join)
    await until(lambda: not processes_of(sandbox.uid))
    cgroups.find().sweep()
    left = left_of(place_in(tmp_path), sandbox)
    assert set(left) <= {str(tmp_path / "run"), str(tmp_path / "tmp")}  # the pool's to sweep


async def test_every_instance_has_a_user_of_its_own(tmp_path: Path) -> None:
    launcher = LocalBwrap()
    specs = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        specs.append((function_in(folder), place_in(folder)))
    seen = await asyncio.gather(*(answer_of(launcher, spec, place) for spec, place in specs))
    users = {each["uid"] for each in seen}
    assert len(users) == (3 if launcher.has_own_users else 1)
