"""The function host beside the web process: restarted unnoticed, with nothing of the platform's."""

import asyncio
import io
import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import httpx

from deployments.runtime import launchers
from deployments.runtime.host_client import HostDriver
from deployments.runtime.wire import Health
from tests.journeys.conftest import Platform, wait_for

FUNCTION = "export const handler = async () => { console.log('ran'); return process.pid; };"


def deploy(platform: Platform, prefix: str) -> str:
    """The deployId of a site that is one function."""
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("functions/default.func/index.mjs", FUNCTION)
        archive.writestr(
            "config.json", '{"version": 1, "routes": [{"src": ".*", "dest": "/functions/default"}]}'
        )
    issued = platform.data_api("deployments/get-upload-url", {"id": prefix}).json()
    httpx.put(issued["uploadUrl"], content=bundle.getvalue(), timeout=30).raise_for_status()
    deployed = platform.data_api("deployments/deploy", {"deployId": issued["deployId"]})
    assert deployed.status_code == 200, deployed.text
    return str(issued["deployId"])


def health(platform: Platform) -> Health:
    socket = platform.data_dir / "run" / "fnhost.sock"
    return asyncio.run(HostDriver(socket).health())


def host_pid() -> int:
    """The process id of this platform's host: the one that is a grandchild of this process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            grandparent = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"deployments.runtime.host" in command and int(grandparent) == os.getpid():
            return int(folder.name)
    raise AssertionError("There is no function host.")


def messages(platform: Platform, deploy_id: str) -> list[Any]:
    answer = platform.data_api("deployments/get-logs", {"id": deploy_id, "minutes": 5}).json()
    return [entry["message"] for entry in answer.get("entries", [])]


def test_functions_are_isolated_and_outlive_their_host(platform: Platform) -> None:
    expected = "local-bwrap" if launchers.can_isolate() else "local-plain"
    assert health(platform).driver == expected
    deploy_id = deploy(platform, "hosted")
    assert platform.site(deploy_id, "/").status_code == 200
    first = host_pid()
    environment = Path(f"/proc/{first}/environ").read_bytes()
    assert environment.strip(b"\0") in (b"", b"LC_CTYPE=C.UTF-8")
    os.kill(first, signal.SIGKILL)
    # Whoever asks while it is dying has its connection reset.
    wait_for(lambda: not Path(f"/proc/{first}").exists(), what="the host's end")
    assert platform.site(deploy_id, "/").status_code == 200
    assert host_pid() != first
    wait_for(
        lambda: any("ran" in message for message in messages(platform, deploy_id)), what="the log"
    )


def test_instances_of_a_deleted_site_end(platform: Platform) -> None:
    deploy_id = deploy(platform, "deleted")
    assert platform.site(deploy_id, "/").status_code == 200
    assert deploy_id in health(platform).deploy_ids
    assert platform.data_api("deployments/delete-site", {"id": deploy_id}).status_code == 200
    wait_for(lambda: deploy_id not in health(platform).deploy_ids, what="the instance to end")
