"""The engine in a process of its own: `python -m tiercel.engine.process`, started by `AsyncLLM`.

The first line of standard input holds the settings; the process ends when standard input does, so it never outlives its parent.
Messages travel over two ZeroMQ sockets in a private folder.
"""

import os
import signal
import sys
import threading

import msgspec
import zmq

from tiercel.config import EngineConfig, checked
from tiercel.engine.build import build_engine
from tiercel.engine.core import EngineCore
from tiercel.engine.messages import (
    Abort,
    Failed,
    Forget,
    FromEngine,
    GetStats,
    Orders,
    Ready,
    Shutdown,
    Submit,
    ToEngine,
    Updates,
)
from tiercel.telemetry import configure_logging
from tiercel.types import InvalidInput, TiercelError


class Wire:
    """The engine's end of the two sockets."""

    def __init__(self, orders: Orders) -> None:
        context = zmq.Context()
        self._requests = context.socket(zmq.PULL)
        self._requests.setsockopt(zmq.RCVHWM, 0)
        self._requests.connect(orders.requests)
        self._replies = context.socket(zmq.PUSH)
        self._replies.setsockopt(zmq.SNDHWM, 0)
        self._replies.setsockopt(zmq.LINGER, 1000)
        self._replies.connect(orders.replies)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ToEngine)

    def send(self, message: FromEngine) -> None:
        self._replies.send(self._encoder.encode(message))

    def receive(self, *, wait: bool) -> list[ToEngine]:
        """All messages that are there; with `wait`, at least one."""
        messages: list[ToEngine] = []
        while wait or self._requests.poll(0):
            messages.append(self._decoder.decode(self._requests.recv()))
            wait = False
        return messages

    def close(self) -> None:
        self._requests.close()
        self._replies.close()


def run(core: EngineCore, wire: Wire) -> None:
    """Steps while there is work, and listens before every step, so that an abort takes effect within one."""
    while True:
        for message in wire.receive(wait=not core.has_work):
            match message:
                case Submit():
                    core.submit(message)
                case Abort():
                    core.abort(message)
                case Forget():
                    core.forget()
                case GetStats():
                    wire.send(core.stats())
                case Shutdown():
                    return
        updates = core.step()
        if updates:
            wire.send(Updates(updates))


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    if orders.log is not None:
        configure_logging(*orders.log)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    wire = Wire(orders)
    try:
        engine = build_engine(checked(EngineConfig, orders.config))
    except TiercelError as error:
        wire.send(Failed(error.message, error.field) if isinstance(error, InvalidInput) else Failed(str(error)))
        wire.close()
        return 1
    wire.send(Ready(msgspec.msgpack.encode(engine.plan)))
    run(engine.core, wire)
    engine.core.close()
    wire.close()
    return 0


def _exit_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # unbuffered: a buffered reader would hold a lock at shutdown
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
