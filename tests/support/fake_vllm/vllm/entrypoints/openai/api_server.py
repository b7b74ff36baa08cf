"""A real process with a real socket that answers as vLLM's server does; it has no model.

The folder in ``FAKE_VLLM`` tells it what to do: ``last_words``, printed at the start before it
fails; ``silent`` or ``hang``, it answers nothing as long as the file is there; ``unwell``, it
answers that its engine has ended.
In ``starts`` each start leaves a line of JSON, in ``asked`` each request.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(os.environ["FAKE_VLLM"])
KEY = os.environ["VLLM_API_KEY"]
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ENGINE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"


def told(name: str) -> bool:
    return (FOLDER / name).exists()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""
    most_logprobs = 20

    def do_GET(self) -> None:
        while told("hang") or told("silent"):
            time.sleep(0.01)
        if self.path == "/health":
            self.answer(503 if told("unwell") else 200, {})
        elif self.headers.get("Authorization") != f"Bearer {KEY}":
            self.answer(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": self.name}]})
        else:
            self.answer(404, {})

    def do_POST(self) -> None:
        """Answer a prompt of token ids with its own first tokens, and an end token."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self.answer(401, {"error": "Unauthorized"})
        elif self.path != "/v1/completions" or body["model"] != self.name:
            self.answer(404, {})
        elif body["prompt"] == [0]:
            self.answer(200, {"choices": [{"text": ""}]})  # whether it generates at all
        else:
            with (FOLDER / "asked").open("a") as file:
                file.write(json.dumps(body) + "\n")
            if "prompt_logprobs" in body:
                self.judge(body["prompt"], body["prompt_logprobs"])
                return
            tokens = [*body["prompt"][:4], body["stop_token_ids"][0]]
            choice = {"text": "", "token_ids": tokens, "finish_reason": "stop"}
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(tokens)}
            self.answer(200, {"choices": [choice], "usage": usage})

    def judge(self, prompt: list[int], k: int) -> None:
        """Answer with log-probabilities that every model could have given."""
        if k > self.most_logprobs:
            said = f"Requested prompt logprobs of {k}, which is greater than max allowed:"
            self.answer(400, {"error": {"message": f"{said} {self.most_logprobs}"}})
            return
        reported: list[dict[str, object] | None] = [None]
        for token in prompt[1:]:
            chosen = [token, *(other for other in range(k) if other != token)][: max(1, k)]
            about = {"logprob": math.log(0.9 / len(chosen)), "rank": 1, "decoded_token": "x"}
            reported.append({str(one): about for one in chosen})
        choice = {"text": "", "prompt_logprobs": reported, "finish_reason": "length"}
        self.answer(200, {"choices": [choice]})

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        print(format % arguments, self.headers.get("Authorization", ""))


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--max-logprobs", type=int)
    options, others = parser.parse_known_args()
    if options.max_logprobs is not None:
        Handler.most_logprobs = options.max_logprobs
        others += ["--max-logprobs", str(options.max_logprobs)]
    # What holds the memory, and outlasts its parent unless all of the group is ended.
    engine = subprocess.Popen([sys.executable, "-c", ENGINE])
    start = {
        "port": options.port,
        "processes": [os.getpid(), engine.pid],
        "arguments": others,
        "variables": {name: value for name, value in os.environ.items() if "VLLM" in name},
        "path": os.environ.get("PYTHONPATH"),
        "ignored": [s.name for s in STOPS if signal.getsignal(s) is signal.SIG_IGN],
    }
    with (FOLDER / "starts").open("a") as file:
        file.write(json.dumps(start) + "\n")
    last_words = FOLDER / "last_words"
    if last_words.exists():
        print(last_words.read_text(), flush=True)
        sys.exit(1)
    Handler.name = options.served_model_name
    with Server((options.host, options.port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
