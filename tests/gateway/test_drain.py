"""SIGTERM: /readyz says so first, requests in flight are finished, then the process ends."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.gateway.service import ask

SCORE = "/v1/rewards/score"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.gateway.serve_small"]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    yield started
    if started.poll() is None:
        started.kill()
    started.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line
    return found[0]


def test_the_process_leaves_in_order(process: subprocess.Popen[str]) -> None:
    url = url_of(process)
    answers: list[httpx.Response] = []

    def slow() -> None:
        headers = {"x-request-timeout-ms": "1500"}
        answers.append(httpx.post(url + SCORE, json=ask("blocked", "4"), headers=headers))

    in_flight = threading.Thread(target=slow)
    in_flight.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    assert httpx.get(url + "/readyz").json()["status"] == "draining"
    assert httpx.post(url + SCORE, json=ask("demo-outcome", "4")).status_code == 200
    in_flight.join(5)
    # It was answered, and not cut: 504 is what its own deadline gives.
    assert [answer.status_code for answer in answers] == [504]
    assert process.wait(5) == 0
    assert process.stderr is not None
    lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    # Each line is JSON, uvicorn's own too, and the last comes after the engines were closed.
    assert "uvicorn.error" in {line.get("logger") for line in lines}
    assert lines[-1] == {"message": "closed"}


def test_what_outlasts_the_drain_is_told_so(process: subprocess.Popen[str]) -> None:
    url = url_of(process)
    answers: list[httpx.Response] = []

    def stuck() -> None:
        answers.append(httpx.post(url + SCORE, json=ask("blocked", "4"), timeout=20))

    in_flight = threading.Thread(target=stuck)
    in_flight.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    in_flight.join(15)
    assert [answer.status_code for answer in answers] == [503]
    assert answers[0].json()["error"]["retryable"] is True
    assert process.wait(5) == 0


def test_the_printed_curl_line_works(process: subprocess.Popen[str]) -> None:
    url_of(process)
    assert process.stdout is not None
    assert "demo-outcome" in process.stdout.readline()
    process.stdout.readline()
    line = process.stdout.readline()
    assert line.startswith("curl ")
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=10)
    assert '"status":"ok"' in done.stdout, done
