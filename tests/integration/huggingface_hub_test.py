"""The cache that `stableqat download` shares with the huggingface_hub package: what one of them fetched, the other finds.

usage: huggingface_hub_test.py PROGRAM
Exit code 77: huggingface_hub is not installed for this Python.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 400, "original/params.json": b"{}"}


def requested(log):
    """The files that were fetched from the server since the log was emptied."""
    paths = [json.loads(line)["path"] for line in log.read_text().splitlines()]
    log.write_text("")
    return sorted(path.split("/", 4)[4] for path in paths if "/resolve/" in path)


def check(program, folder, port):
    cache = folder / "cache"
    log = folder / "log"
    os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{port}", HF_HUB_CACHE=str(cache), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.pop("HF_TOKEN", None)
    import huggingface_hub

    ours = [program, "download", "org/model", "--include", "*"]
    snapshot = pathlib.Path(subprocess.run(ours, check=True, capture_output=True, text=True).stdout.strip())
    assert requested(log) == sorted(FILES)

    for path, content in FILES.items():
        found = huggingface_hub.hf_hub_download("org/model", path, local_files_only=True)  # by refs/main
        assert pathlib.Path(found) == snapshot / path, found
        assert pathlib.Path(found).read_bytes() == content
    theirs = huggingface_hub.snapshot_download("org/model")
    assert pathlib.Path(theirs) == snapshot, theirs
    assert requested(log) == []
    scanned = huggingface_hub.scan_cache_dir(cache)
    assert not scanned.warnings and [repo.repo_id for repo in scanned.repos] == ["org/model"], scanned

    os.environ["HF_HUB_CACHE"] = str(folder / "other")
    huggingface_hub.snapshot_download("org/model", cache_dir=folder / "other")
    assert requested(log) == sorted(FILES)
    again = subprocess.run(ours, check=True, capture_output=True, text=True).stdout.strip()
    assert requested(log) == []
    assert all((pathlib.Path(again) / path).read_bytes() == content for path, content in FILES.items())


def main():
    if importlib.util.find_spec("huggingface_hub") is None:
        print("huggingface_hub is not installed for", sys.executable)
        sys.exit(77)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for path, content in FILES.items():
            file = folder / "hub" / "models" / "org" / "model" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        script = pathlib.Path(__file__).parent.parent / "support" / "hub_server.py"
        command = [sys.executable, script, folder / "hub", folder / "log"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            check(sys.argv[1], folder, int(server.stdout.readline()))
            server.stdin.close()
    print("both find what the other fetched")


if __name__ == "__main__":
    main()
