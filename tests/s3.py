"""An S3 server of its own for tests, with buckets; and folders to fill them from."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

SERVER = Path(__file__).parent / "servers/s3.py"
KEY, SECRET, TOKEN = "AKIDOFATEST", "canary-secret-6cb1", "canary-token-91fe"


def environment(address: str) -> dict[str, str]:
    """Return the variables that lead to a server, and to nothing of the user's own."""
    keys = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    files = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return {**keys, **files, "AWS_ENDPOINT_URL_S3": address, "AWS_MAX_ATTEMPTS": "2"}


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def running(host: str = "127.0.0.1") -> Iterator[SimpleNamespace]:
    """Yield a server: `address`, `env`, `client`, and `tell` and `log`, which servers/s3.py explains."""
    import boto3

    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    pages = {"MOTO_S3_DEFAULT_MAX_KEYS": "20"}  # elsewhere 1,000: what is longer comes in pages
    process = subprocess.Popen([sys.executable, str(SERVER), host], env=os.environ | pages, **options)
    try:
        address = process.stdout.readline().strip()
        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=address, **keys)

        def tell(**what) -> None:
            urllib.request.urlopen(f"{address}/_tell", json.dumps(what).encode(), timeout=10).close()

        def log() -> list[list[str]]:
            with urllib.request.urlopen(f"{address}/_log", timeout=10) as answer:
                return json.load(answer)

        yield SimpleNamespace(
            address=address, env=environment(address), client=client, tell=tell, log=log, process=process
        )
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
