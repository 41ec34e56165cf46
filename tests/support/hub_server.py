"""A Hugging Face Hub on the loopback interface, with faults on demand.

usage: hub_server.py FOLDER LOG [FAULTS]

Serves FOLDER/models/ORG/NAME and FOLDER/datasets/ORG/NAME as repositories of one revision, "main". A file named .gated or .private beside
the content makes the repository so: its files need the token in that file. Files above 100 bytes are in large-file storage (SHA-256), others
have git's blob id. Prints its port; ends when standard input does. LOG gets one JSON object a line for each request.

FAULTS is JSON: {"PATH IN REPOSITORY" or "api": [FAULT, ...]}; every request for that path takes the next of its faults, then there are none.
A fault is an object with "kind":
  drop      the connection is closed after "after" bytes of the body
  short     the response has, and announces, "bytes" less than it should
  long      ... "bytes" more
  corrupt   one byte of the body is changed
  status    "code", perhaps with "retry_after" seconds
  whole     the range that was asked for is ignored
  shifted   a range that begins "bytes" later than asked for, and says so
  redirect  to the same path of another host (localhost instead of 127.0.0.1, another port)
  slow      the body comes in "pieces", "pause" seconds apart
  stall     nothing comes after "after" bytes for "pause" seconds
"""

import hashlib
import http.server
import json
import pathlib
import sys
import threading
import time
import urllib.parse

PAGE = 3  # entries of a tree's page


def git_blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(content):
    return len(content) > 100


def digest(content):
    return hashlib.sha256(content).hexdigest() if is_large(content) else git_blob_id(content)


def commit_of(repository):
    names = sorted(str(p.relative_to(repository)) for p in repository.rglob("*"))
    return hashlib.sha1("\n".join(names).encode() + repository.name.encode()).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # a client that goes away is part of the tests
            super().handle_error(request, client_address)


class State:
    def __init__(self, folder, log, faults):
        self.folder = pathlib.Path(folder)
        self.log = open(log, "a", buffering=1)
        self.faults = faults
        self.lock = threading.Lock()
        self.other_port = None

    def fault(self, key):
        with self.lock:
            left = self.faults.get(key, [])
            return left.pop(0) if left else {"kind": "none"}

    def note(self, **entry):
        with self.lock:
            self.log.write(json.dumps(entry) + "\n")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = None

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)  # a proxy is asked for an absolute address
        parts = urllib.parse.unquote(url.path).strip("/").split("/")
        self.state.note(
            path="/".join(parts),
            query=url.query,
            host=self.headers.get("Host"),
            proxied=bool(url.scheme),
            range=self.headers.get("Range"),
            authorization=self.headers.get("Authorization"),
        )
        if parts[0] == "api":
            self.api(parts[1], "/".join(parts[2:4]), parts[4], parts[5], "/".join(parts[6:]), urllib.parse.parse_qs(url.query))
        else:
            kind = "models"
            if parts[0] == "datasets":
                kind, parts = parts[0], parts[1:]
            self.resolve(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def do_HEAD(self):
        """What huggingface_hub asks before it fetches a file."""
        parts = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")
        name, revision, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        repository = self.repository("models", name, revision)
        if repository is None:
            return
        content = (repository / path).read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{digest(content)}"')
        self.send_header("X-Repo-Commit", commit_of(repository))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def refuse(self, status, code, retry_after=None):
        body = json.dumps({"error": code}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(body)

    def repository(self, kind, name, revision):
        folder = self.state.folder / kind / name
        private = folder / ".private"
        if not folder.is_dir() or (private.exists() and private.read_text() != self.token()):
            return self.refuse(404 if self.token() else 401, "RepoNotFound")
        if revision not in ("main", commit_of(folder)):
            return self.refuse(404, "RevisionNotFound")
        return folder

    def files(self, repository):
        paths = sorted(str(p.relative_to(repository)) for p in repository.rglob("*") if p.is_file())
        return [path for path in paths if path not in (".gated", ".private")]

    def api(self, kind, name, what, revision, below, query):
        fault = self.state.fault("api")
        if fault["kind"] == "status":
            return self.refuse(fault["code"], "", fault.get("retry_after"))
        repository = self.repository(kind, name, revision)
        if repository is None:
            return
        if what == "revision":
            return self.answer({"id": name, "sha": commit_of(repository), "siblings": []})
        if below and not (repository / below).is_dir():
            return self.refuse(404, "EntryNotFound")
        entries = []
        for path in self.files(repository):
            if below and not path.startswith(below + "/"):
                continue
            content = (repository / path).read_bytes()
            entry = {"type": "file", "oid": git_blob_id(content), "size": len(content), "path": path}
            if is_large(content):
                entry["lfs"] = {"oid": digest(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        first = int(query.get("cursor", ["0"])[0])
        page = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "folder"}] + entries[first : first + PAGE]
        link = None
        if first + PAGE < len(entries):  # the true host's name, as mirrors get it: it must not be asked
            link = f'<https://hub.invalid/api/{kind}/{name}/tree/{revision}?recursive=true&cursor={first + PAGE}>; rel="next"'
        self.answer(page, link)

    def answer(self, value, link=None):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if link:
            self.send_header("Link", link)
        self.end_headers()
        self.wfile.write(body)

    def resolve(self, kind, name, revision, path):
        repository = self.repository(kind, name, revision)
        if repository is None:
            return
        gated = repository / ".gated"
        if gated.exists() and gated.read_text() != self.token() and self.server.server_port != self.state.other_port:
            return self.refuse(403 if self.token() else 401, "GatedRepo")
        if not (repository / path).is_file():
            return self.refuse(404, "EntryNotFound")
        self.send_file((repository / path).read_bytes(), self.state.fault(path))

    def send_file(self, content, fault):
        kind = fault["kind"]
        if kind == "status":
            return self.refuse(fault["code"], "", fault.get("retry_after"))
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.state.other_port}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, size = 0, len(content)
        wanted = self.headers.get("Range")
        if wanted and kind != "whole":
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            if first >= size:
                return self.refuse(416, "")
        if first and kind == "shifted":
            first += fault["bytes"]
        body = content[first:]
        if kind == "short":
            body = body[: max(len(body) - fault["bytes"], 0)]
        if kind == "long":
            body += b"x" * fault["bytes"]
        if kind == "corrupt":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.send_body(body, fault)

    def send_body(self, body, fault):
        kind = fault["kind"]
        try:
            if kind in ("drop", "stall"):
                self.wfile.write(body[: fault["after"]])
                self.wfile.flush()
                time.sleep(fault.get("pause", 0))
                self.close_connection = True
                self.connection.shutdown(2)
            elif kind == "slow":
                step = -(-len(body) // fault["pieces"])
                for at in range(0, len(body), step):
                    self.wfile.write(body[at : at + step])
                    self.wfile.flush()
                    time.sleep(fault["pause"])
            else:
                self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client went away


def main():
    folder, log = sys.argv[1:3]
    Handler.state = State(folder, log, json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
    hub, other = Server(Handler), Server(Handler)
    Handler.state.other_port = other.server_port
    for server in (hub, other):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(hub.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
