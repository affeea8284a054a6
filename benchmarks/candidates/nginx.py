"""nginx: one worker, kept-alive connections to the backend, nothing buffered.

It reads no body, routes nothing and checks no key: a bound from below, not an equal.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks import processes
from benchmarks.candidates.base import GROWTH, Bench, NotMeasured, Open, opened
from benchmarks.load import Door

CONFIGURATION = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 200m;
    keepalive_requests 100000000;
    upstream backend {{
        server 127.0.0.1:{backend};
        keepalive 128;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
"""


class Nginx:
    name = "nginx"
    skips = GROWTH

    def prepare(self, bench: Bench) -> str:
        program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if not program:
            raise NotMeasured("no nginx on PATH; install it with: apt-get install nginx-light")
        self._port, self._backend_port = processes.free_port(), bench.backend_port
        self._folder = bench.folder / "nginx"
        self._folder.mkdir()
        configuration = self._folder / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(folder=self._folder, backend=bench.backend_port, port=self._port))
        self._command = (program, "-e", str(self._folder / "error.log"), "-p", str(self._folder), "-c", str(configuration))
        told = subprocess.run((program, "-v"), capture_output=True, text=True, check=True)
        return told.stderr.strip().rpartition("/")[2]

    @contextmanager
    def open(self) -> Iterator[Open]:
        with opened(self._command, self._door, self._folder / "log") as it:
            yield it

    def _door(self, process: psutil.Process) -> Door:
        return Door(self._port, process=process, backend_port=self._backend_port)
