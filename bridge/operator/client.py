"""An operator's side of a robot: claim it, tell it what to do, stop it, watch it."""

from __future__ import annotations

import getpass
import platform
import secrets
import threading
import time
from functools import partial
from typing import Any, TypeVar

import msgspec
import zmq

from bridge.contract import UserError, check_instruction
from bridge.embodiment import Embodiment
from bridge.operator import messages as wire
from bridge.wire import sockets
from bridge.wire.keys import ClientKeys
from bridge.wire.messages import WireError, one_line

# A connection that broke and came back has lost what was on its way. Both ends make sure that what
# is asked again is not done again.
_RETRY_S = 0.5
_STOP_RETRY_S = 0.25

_Answer = TypeVar("_Answer", bound=wire.Reply)


class Operator:
    """The robot whose control loop listens at `address`; safe to use from several threads.

    Everybody may watch, `stop` and `cut`. Commands need the lease, which `claim` asks for and a
    thread of its own keeps until `leave`. A method raises UserError when the robot does not answer
    within `timeout_s`, when another operator holds the lease, or when the robot refuses. A robot
    with keys answers only with `keys` that it allows. With a `body`, `claim` refuses any other
    robot, for who reads more of it than words.

    What may move the robot is refused if the robot has been stopped since `stops`, the number of
    the newest stop that has been seen here; a method is given another one by who has seen less.
    """

    def __init__(
        self,
        address: str,
        name: str = "",
        timeout_s: float = 2.0,
        keys: ClientKeys | None = None,
        body: Embodiment | None = None,
    ) -> None:
        places = wire.addresses_of(address, encrypted=keys is not None)
        self.address = places.commands
        self.name = name or _who()
        self._timeout_s, self._keys, self._body = timeout_s, keys, body
        self._session = secrets.token_hex(16)
        self._sequence = self._halts = 0
        self.stops = 0
        self._epoch: int | None = None
        self._lost = "nobody has claimed the robot here: claim it first"
        self._asking, self._halting, self._viewing = (threading.Lock() for _ in range(3))
        self._ended = threading.Event()
        self._beats: threading.Thread | None = None
        self._context = wire.make_context()
        try:
            connect = partial(wire.connect, self._context, keys=keys)
            self._stop = connect(zmq.DEALER, places.stop, stops=True)
            self._commands = connect(zmq.DEALER, places.commands)
            self._newest = connect(zmq.SUB, places.telemetry, topic=b"")
            self._pictures = connect(zmq.SUB, places.telemetry, topic=wire.PICTURE)
        except BaseException:
            wire.close(self._context)
            raise

    @property
    def commanding(self) -> bool:
        """Whether this operator holds the lease, as far as is known here."""
        return self._epoch is not None

    def claim(self) -> None:
        """Becomes the one who commands."""
        reply = self._ask(
            wire.Claim, protocol=wire.PROTOCOL, embodiment=self._body, name=self.name[:64]
        )
        if not isinstance(reply, wire.Lease):
            raise UserError(_refusal(reply))
        self._epoch = reply.epoch
        if self._beats is None:
            self._beats = threading.Thread(target=self._beat, name="beats", daemon=True)
            self._beats.start()

    def instruct(self, text: str, stops: int | None = None) -> None:
        """Begins an instruction, in place of any other."""
        self._move(wire.Instruct, stops, text=check_instruction(text))

    def pause(self) -> None:
        """Lets the robot hold where it is."""
        self._command(wire.Pause)

    def resume(self, stops: int | None = None) -> None:
        """Goes on after a pause."""
        self._move(wire.Resume, stops)

    def release(self, stops: int | None = None) -> None:
        """Ends a safe stand or a cut. Look at the robot first."""
        self._move(wire.Release, stops)

    def new_scene(self, seed: int, stops: int | None = None) -> None:
        """Puts a simulated robot into the scene of a seed, 0 to 2^32 - 1."""
        if not 0 <= seed < 1 << 32:
            raise UserError(f"there is no scene {seed}: choose a seed from 0 to {(1 << 32) - 1}")
        self._move(wire.NewScene, stops, seed=seed)

    def leave(self) -> None:
        """Gives the lease back, and so ends the instruction."""
        if (epoch := self._epoch) is not None:
            self._ask(wire.Leave, epoch=epoch)
            self._lose("you have left the robot: claim it again")

    def stop(self) -> None:
        """Lets the robot stand safely. It stays so until somebody releases it."""
        self._halt(wire.Stop)

    def cut(self) -> None:
        """Lets the motors only brake: a standing robot will fall."""
        self._halt(wire.Cut)

    def telemetry(self, timeout_s: float = 1.0) -> wire.Telemetry | None:
        """The newest moment not seen yet, with the newest picture not seen yet; None if none came.

        UserError when the robot runs another release.
        """
        with self._viewing:
            self._check_open()
            if not self._newest.poll(int(timeout_s * 1000)):
                return None
            try:
                newest = wire.unpack_telemetry(self._newest.recv(zmq.NOBLOCK))
                if self._pictures.poll(0):
                    seen = wire.unpack_telemetry(self._pictures.recv(zmq.NOBLOCK))
                    newest = msgspec.structs.replace(newest, image=newest.image or seen.image)
            except WireError as error:
                raise UserError(self._foreign(error)) from error
            self.stops = max(self.stops, newest.stops)
            return newest

    def close(self) -> None:
        """Leaves, if need be, and ends the connection; safe to call again."""
        if self._context.closed:
            return
        try:
            self.leave()
        except UserError:
            pass  # a robot that is gone needs no goodbye
        finally:
            self._lose("this operator is closed")
            self._ended.set()
            if self._beats is not None:
                self._beats.join()
            with self._asking, self._halting, self._viewing:
                wire.close(self._context)

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _move(self, kind: type[wire.Moving], stops: int | None, **content: Any) -> None:
        self._command(kind, stops=self.stops if stops is None else stops, **content)

    def _command(self, kind: type[wire.Leased], **content: Any) -> None:
        epoch = self._epoch
        if epoch is None:
            raise UserError(self._lost)
        reply = self._ask(kind, epoch=epoch, **content)
        if isinstance(reply, wire.Accepted):
            return
        if isinstance(reply, wire.Busy):
            self._lose(_refusal(reply), epoch)
        raise UserError(_refusal(reply))

    def _beat(self) -> None:
        while not self._ended.wait(wire.BEAT_S):
            epoch = self._epoch
            if epoch is None:
                continue
            try:
                reply = self._ask(wire.Beat, epoch=epoch)
            except UserError:
                continue  # the robot may come back before the lease is stale
            if isinstance(reply, wire.Busy):
                self._lose(_refusal(reply), epoch)

    def _lose(self, why: str, epoch: int | None = None) -> None:
        if epoch in (None, self._epoch):
            self._epoch, self._lost = None, why

    def _ask(self, kind: type[wire.Request], **content: Any) -> wire.AnyReply:
        """The answer to one request; answers to earlier ones are dropped."""
        with self._asking:
            self._check_open()
            self._sequence += 1
            request = kind(session=self._session, sequence=self._sequence, **content)
            reply = self._exchange(self._commands, request, wire.REPLIES, _RETRY_S)
        if reply is None:
            raise UserError(
                f"no robot answers at {self.address}: is its control loop running, is this the"
                f" address that it was given, and {self._doubt()}?"
            )
        self.stops = reply.stops  # not the greater one: a robot that was started anew counts anew
        return reply

    def _halt(self, kind: type[wire.Stop] | type[wire.Cut]) -> None:
        with self._halting:
            self._check_open()
            self._halts += 1
            halt = kind(sequence=self._halts)
            reply = self._exchange(self._stop, halt, wire.ACKNOWLEDGEMENTS, _STOP_RETRY_S)
        if reply is None:
            raise UserError(
                f"NOT stopped: no robot answers at {self.address} within {self._timeout_s:g} s:"
                " use the robot's own emergency stop"
            )
        self.stops = max(self.stops, reply.stops)

    def _doubt(self) -> str:
        if self._keys is None:
            return "does it ask for no keys"
        name = self._keys.own.name
        return f"does it hold the key of --server-key and allow {name}.public (hitogata keys)"

    def _exchange(
        self,
        socket: wire.Socket,
        request: wire.Request | wire.Halt,
        decoder: msgspec.msgpack.Decoder[_Answer],
        retry_s: float,
    ) -> _Answer | None:
        """The answer to a request, which is repeated until it comes, or None within `timeout_s`."""
        deadline = time.monotonic() + self._timeout_s
        while socket.poll(_left_ms(deadline), zmq.POLLOUT):
            socket.send(wire.pack(request), zmq.NOBLOCK)
            again = min(deadline, time.monotonic() + retry_s)
            while socket.poll(_left_ms(again)):
                reply = self._read(socket, decoder)
                if reply.sequence == request.sequence:
                    return reply
            if not _left_ms(deadline):
                break
        return None

    def _check_open(self) -> None:
        if self._context.closed:
            raise UserError("this operator is closed: make a new one")

    def _read(self, socket: wire.Socket, decoder: msgspec.msgpack.Decoder[_Answer]) -> _Answer:
        try:
            return wire.unpack(decoder, sockets.receive(socket, zmq.NOBLOCK)[0])
        except WireError as error:
            raise UserError(self._foreign(error)) from error

    def _foreign(self, detail: WireError) -> str:
        return (
            f"what answers at {self.address} is no robot of this release"
            f" ({one_line(str(detail))}):"
            " install the same release on both sides"
        )


def _left_ms(deadline: float) -> int:
    return max(int((deadline - time.monotonic()) * 1000), 0)


def _refusal(reply: wire.AnyReply) -> str:
    return one_line(reply.message if isinstance(reply, wire.Denied) else str(reply))


def _who() -> str:
    try:
        return f"{getpass.getuser()} on {platform.node()}"
    except (KeyError, OSError):  # a container's user without a name
        return platform.node() or "somebody"
