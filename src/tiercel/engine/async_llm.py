"""The engine for a server: asynchronous, many requests at once, computing in a process of its own."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from tiercel.config import EngineConfig
from tiercel.engine.build import load_checkpoint
from tiercel.engine.core import FLUSH_SECONDS
from tiercel.engine.frontend import ChatMessage, Frontend, Prompt, RequestTracker
from tiercel.engine.messages import (
    Abort,
    EngineStats,
    Failed,
    Forget,
    FromEngine,
    GetStats,
    Orders,
    Ready,
    Shutdown,
    ToEngine,
    Updates,
)
from tiercel.engine.outputs import Delta
from tiercel.engine.plan import EnginePlan
from tiercel.models import Checkpoint, Tokenizer
from tiercel.telemetry import log_settings
from tiercel.types import EngineDead, InvalidInput, ModelError, SamplingParams

_SHUTDOWN_SECONDS = 10.0 + FLUSH_SECONDS
_LAST_WORDS_MILLISECONDS = 200  # a message may still be on its way when the process has ended


class AsyncLLM:
    """Made by `await AsyncLLM.start(config)`. All methods belong to the event loop that started it."""

    def __init__(self, config: EngineConfig, checkpoint: Checkpoint, plan: EnginePlan, process: "EngineProcess") -> None:
        self.config = config
        self.plan = plan
        self.model_name = Path(config.model).name
        self.generation_defaults: Mapping[str, float] = checkpoint.generation_defaults
        self._frontend = Frontend(checkpoint, plan)
        self._process = process
        self._streams: dict[str, Stream] = {}
        self._stats_waiters: list[asyncio.Future[EngineStats]] = []
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, config: EngineConfig) -> "AsyncLLM":
        """Starts the engine process and waits until it is ready. Raises what `build_engine` raises."""
        process = await EngineProcess.start(config)
        try:
            checkpoint = await asyncio.to_thread(load_checkpoint, config)
            plan = await process.wait_until_ready()
        except BaseException:
            process.kill()
            await process.end()
            process.close()
            raise
        return cls(config, checkpoint, plan, process)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._frontend.tokenizer

    @property
    def pid(self) -> int:
        """The engine process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the engine process has ended, for whatever reason."""
        return self._process.alive and not self._reader.done()

    def render_chat(self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, object]] | None = None) -> str:
        """The prompt text of a conversation."""
        return self._frontend.render_chat(messages, tools)

    def encode_chat(self, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, object]] | None = None) -> list[int]:
        """The prompt token ids of a conversation."""
        return self._frontend.encode_chat(messages, tools)

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> AsyncGenerator[Delta, None]:
        """Yields the deltas of all samples as they are made; deltas nobody has read yet are joined.

        Raises InvalidInput before anything is submitted, EngineDead when the engine process is gone. Closing the iterator
        early aborts the request.
        """
        submit = self._frontend.submit(
            prompt, params or SamplingParams(), request_id=request_id, priority=priority, cache_salt=cache_salt
        )
        if submit.request_id in self._streams:
            raise InvalidInput("request_id", f"{submit.request_id!r} is running already")
        stream = Stream(self._frontend.track(submit))
        self._streams[submit.request_id] = stream
        try:
            await self._send(submit)
            finished = False
            while not finished:
                await stream.wait()
                finished = stream.tracker.finished
                for delta in stream.tracker.drain():
                    yield delta
        finally:
            del self._streams[submit.request_id]
            if not stream.tracker.finished and self.alive:
                await self._send(Abort(submit.request_id))

    async def stats(self) -> EngineStats:
        """Raises EngineDead when the engine process is gone."""
        waiter: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()
        self._stats_waiters.append(waiter)
        await self._send(GetStats())
        return await waiter

    async def forget(self) -> None:
        """Drops what the cache holds in memory; what it holds on disk stays."""
        await self._send(Forget())

    async def shutdown(self) -> None:
        """Ends the engine process; what is still running gets EngineDead."""
        if self.alive:
            await self._send(Shutdown())
        await self._process.end()
        await self._reader
        self._process.close()

    async def __aenter__(self) -> "AsyncLLM":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    async def _send(self, message: ToEngine) -> None:
        if not self.alive:
            raise EngineDead("the engine process has ended; restart the server")
        await self._process.send(message)

    async def _read(self) -> None:
        """Hands the engine's messages to those who wait for them, until the engine ends."""
        try:
            async for message in self._process.messages():
                match message:
                    case Updates():
                        await self._take(message)
                    case EngineStats():
                        self._answer_stats(message)
        finally:
            error = EngineDead("the engine process has ended; restart the server")
            for waiter in self._stats_waiters:
                if not waiter.done():
                    waiter.set_exception(error)
            for stream in self._streams.values():
                stream.fail(error)

    def _answer_stats(self, stats: EngineStats) -> None:
        for waiter in self._stats_waiters:
            if not waiter.done():
                waiter.set_result(stats)
        self._stats_waiters.clear()

    async def _take(self, updates: Updates) -> None:
        for update in updates.samples:
            stream = self._streams.get(update.request_id)
            if stream is not None:
                abort = stream.tracker.take(update)
                stream.wake()
                if abort is not None:
                    await self._process.send(abort)


class Stream:
    """One request's reader and the event that wakes it."""

    def __init__(self, tracker: RequestTracker) -> None:
        self.tracker = tracker
        self._event = asyncio.Event()
        self._error: EngineDead | None = None

    def wake(self) -> None:
        self._event.set()

    def fail(self, error: EngineDead) -> None:
        self._error = error
        self._event.set()

    async def wait(self) -> None:
        """Until there is something to drain. Raises EngineDead if nothing more will come."""
        await self._event.wait()
        self._event.clear()
        if self._error is not None:
            raise self._error


class EngineProcess:
    """The parent's end of an engine process: its life and its two sockets."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, context: zmq.asyncio.Context) -> None:
        self._folder = folder
        self._process = process
        self._context = context
        self._requests = _bind(context, zmq.PUSH, _address(folder, "requests"))
        self._replies = _bind(context, zmq.PULL, _address(folder, "replies"))
        self._exited = asyncio.create_task(process.wait())
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)

    @classmethod
    async def start(cls, config: EngineConfig) -> "EngineProcess":
        folder = Path(tempfile.mkdtemp(prefix="tiercel-"))  # only this user may enter it
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tiercel.engine.process", stdin=asyncio.subprocess.PIPE
        )
        self = cls(folder, child, zmq.asyncio.Context())
        addresses = _address(folder, "requests"), _address(folder, "replies")
        orders = Orders(config.model_dump(mode="json"), *addresses, log_settings())
        assert child.stdin is not None
        child.stdin.write(msgspec.json.encode(orders) + b"\n")
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def send(self, message: ToEngine) -> None:
        await self._requests.send(self._encoder.encode(message))

    async def messages(self) -> AsyncIterator[FromEngine]:
        """What the engine says, until its process has ended and nothing is left."""
        while True:
            receiving = asyncio.ensure_future(self._replies.recv())
            await asyncio.wait({receiving, self._exited}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                yield self._decoder.decode(receiving.result())
                continue
            receiving.cancel()
            while await self._replies.poll(_LAST_WORDS_MILLISECONDS):
                yield self._decoder.decode(await self._replies.recv())
            return

    async def wait_until_ready(self) -> EnginePlan:
        async for message in self.messages():
            match message:
                case Ready():
                    return msgspec.msgpack.decode(message.plan, type=EnginePlan)
                case Failed(field=""):
                    raise ModelError(message.message)
                case Failed():
                    raise InvalidInput(message.field, message.message)
        raise EngineDead("the engine process ended before it was ready; its last words are on standard error")

    def kill(self) -> None:
        if self.alive:
            self._process.kill()

    async def end(self) -> None:
        """Waits for the process to end, not for ever."""
        try:
            await asyncio.wait_for(asyncio.shield(self._exited), _SHUTDOWN_SECONDS)
        except TimeoutError:
            self.kill()
            await self._exited

    def close(self) -> None:
        """Frees sockets and folder, once nobody reads any more."""
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)


def _bind(context: zmq.asyncio.Context, kind: int, address: str) -> zmq.asyncio.Socket:
    socket = context.socket(kind)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.LINGER, 0)
    socket.bind(address)
    return socket


def _address(folder: Path, name: str) -> str:
    return f"ipc://{folder / name}"
