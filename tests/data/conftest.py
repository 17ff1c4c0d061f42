"""A local file server that can fail in every way that a mirror does."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest


class Mirror(BaseHTTPRequestHandler):
    """The first folder of the path selects the server's behaviour."""

    def do_GET(self):
        way = self.path.split("/")[1]
        self.server.asked.append(way)
        body = self.server.body
        if way == "missing":
            return self.send_error(404)
        if way == "lies":
            body = body[::-1]
        self.send_response(200)
        if way != "unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if way == "slow":
            for piece in np.array_split(np.frombuffer(body, np.uint8), 6):
                self.wfile.write(piece.tobytes())
                self.wfile.flush()
                time.sleep(0.1)
        elif way == "stalls":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.server.done.wait(5)
        elif way == "cut":
            self.wfile.write(body[: len(body) // 2])
        else:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    """Serves ``body``; ``asked`` lists the requested paths."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Mirror)
        self.body, self.asked, self.done = b"", [], threading.Event()

    def address(self, way):
        """The address with this behaviour; "refuses" is a closed port."""
        if way == "refuses":
            with socket.socket() as free:  # a port that was just released is closed
                free.bind(("127.0.0.1", 0))
                return f"http://127.0.0.1:{free.getsockname()[1]}/file"
        return f"http://127.0.0.1:{self.server_port}/{way}/file"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.done.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def data_dir(monkeypatch, tmp_path):
    """Sources store files in the test's folder."""
    monkeypatch.setenv("SIMMIM_DATA_DIR", str(tmp_path / "data"))
