"""Who may connect to whom: keys, their files, addresses, and what the sockets refuse."""

from __future__ import annotations

import os
import socket as plain
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq

from bench.faults.endless import announce_and_garble
from bridge.contract import Status, UserError
from bridge.wire import keys as key_room
from bridge.wire import messages
from bridge.wire.client import Connection, MalformedReply, RemotePolicy
from bridge.wire.keys import allow, client_keys, make_pair, own_pair, server_keys
from bridge.wire.server import _bound_router, serve_policy
from hitogata.__main__ import COMMANDS
from hitogata.commandline import dispatch
from robots.g1.embodiment import G1
from tests.doubles import INFO, EchoPolicy, observe, running_server, scripted_server
from tests.test_server import ask, greet, raw_client


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> dict[str, Path]:
    """Folders of a server, of a robot that it allows, and of a stranger."""
    folders = {name: tmp_path_factory.mktemp("ends") / name for name in ("lab", "g1", "eve")}
    for name, folder in folders.items():
        make_pair(folder, name)
    allow(folders["lab"], folders["g1"] / "g1.public")
    return folders


@pytest.fixture(scope="module")
def secured(ends) -> Iterator[str]:
    """A server with keys, at every address of this machine."""
    with running_server("tcp://0.0.0.0:*", keys=ends["lab"]) as process:
        port = process.address.rpartition(":")[2]
        yield f"tcp://127.0.0.1:{port}"


def keys_of(ends: dict[str, Path], name: str = "g1", server: str = "lab") -> key_room.ClientKeys:
    return client_keys(ends[name], ends[server] / f"{server}.public")


# --- files ---


def test_a_pair_is_for_its_owner_alone(tmp_path):
    folder = tmp_path / "new" / "keys"
    before = os.umask(0)
    try:
        public = make_pair(folder, "g1")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"g1.secret": 0o600, "g1.public": 0o644, "allowed": 0o700}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    pair = own_pair(folder)
    assert zmq.curve_public(pair.secret.encode()).decode() == pair.public
    assert pair.public in public.read_text(
        encoding="utf-8"
    ) and pair.secret not in public.read_text(encoding="utf-8")
    assert pair.secret not in repr(pair)
    with pytest.raises(UserError, match=r"g1.secret is there already"):
        make_pair(folder, "g2")
    assert own_pair(folder) == pair


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_secret_that_others_can_open_is_refused(mode, tmp_path):
    make_pair(tmp_path / "k", "g1")
    (tmp_path / "k" / "g1.secret").chmod(mode)
    with pytest.raises(UserError, match=r"run `chmod 600 .*g1.secret`"):
        own_pair(tmp_path / "k")


def test_keys_that_others_can_exchange_are_refused(tmp_path, monkeypatch):
    home, lab = tmp_path / "home", tmp_path / "home" / "lab"
    make_pair(lab, "lab")
    copy = allow(lab, make_pair(home / "g1", "g1"))
    public = lab / "lab.public"
    server_keys(lab)
    client_keys(home / "g1", public)
    for path in (home, lab, lab / "allowed", copy):
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | 0o020)
        with pytest.raises(UserError, match=rf"can change {path}: run `chmod go-w {path}`"):
            server_keys(lab)
        path.chmod(mode)
    public.chmod(0o646)
    with pytest.raises(UserError, match=rf"can change {public}"):
        client_keys(home / "g1", public)
    public.chmod(0o644)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    if os.getuid():  # what is root's is trusted
        with pytest.raises(UserError, match="belongs to another user"):
            own_pair(lab)


@pytest.mark.parametrize("name", ["", "../g1", "a b", "x" * 33, "-g1", "g1\n", "é"])
def test_names_that_no_key_may_have(name, tmp_path):
    with pytest.raises(UserError, match="names no key"):
        make_pair(tmp_path / "k", name)
    good = zmq.curve_keypair()[0].decode()
    file = tmp_path / "file"
    file.write_text(f"hitogata-public-key {good} {name}", encoding="utf-8")
    if name not in ("g1\n",):  # a file may end with a line's end
        with pytest.raises(UserError, match="no public key"):
            allow(tmp_path, file)


def test_what_is_no_public_key_is_refused(tmp_path):
    make_pair(tmp_path / "k", "g1")
    with pytest.raises(UserError, match="secret key, which stays where it is"):
        allow(tmp_path, tmp_path / "k" / "g1.secret")
    file = tmp_path / "file"
    contents = (b"", b"\xff\xfe", b"hitogata-public-key g1", b"hitogata-public-key " + b"#" * 40)
    keys = (b"a" * 39, b"a" * 41, b"#" * 40, b'"' * 40, "é".encode() * 40)
    for content in (*contents, *(b"hitogata-public-key " + key + b" g1" for key in keys)):
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            allow(tmp_path, file)
        assert "hitogata keys make" in str(caught.value), content
    with pytest.raises(UserError, match="hitogata keys make"):
        allow(tmp_path, tmp_path / "none")


def test_a_server_needs_its_pair_and_a_client_to_allow(tmp_path):
    with pytest.raises(UserError, match="hitogata keys make NAME"):
        server_keys(tmp_path / "lab")
    make_pair(tmp_path / "lab", "lab")
    with pytest.raises(UserError, match=r"hitogata keys allow NAME\.public"):
        server_keys(tmp_path / "lab")
    copy = allow(tmp_path / "lab", make_pair(tmp_path / "a", "g1"))
    assert server_keys(tmp_path / "lab").allowed == copy.parent
    with pytest.raises(UserError, match="another key: remove it first"):
        allow(tmp_path / "lab", make_pair(tmp_path / "b", "g1"))
    copy.parent.chmod(0o777)
    with pytest.raises(UserError, match="other users can change"):
        server_keys(tmp_path / "lab")


def test_the_command_makes_allows_and_lists(tmp_path, capsys):
    def hitogata_keys(*words: str | Path) -> str:
        dispatch(COMMANDS, ["keys", *map(str, words)])
        return capsys.readouterr().out

    lab, robot = tmp_path / "lab", tmp_path / "robot"
    hitogata_keys("make", "lab", "--folder", lab)
    hitogata_keys("make", "g1", "--folder", robot)
    hitogata_keys("allow", robot / "g1.public", "--folder", lab)
    told = hitogata_keys("list", "--folder", lab).splitlines()
    assert told[0].split() == ["own", own_pair(lab).public, str(lab / "lab.public")]
    assert told[1].split() == ["allowed", own_pair(robot).public, str(lab / "allowed/g1.public")]
    assert len(told) == 2
    for words in (("make",), ("allow",)):
        with pytest.raises(UserError, match=rf"hitogata keys {words[0]} [A-Z]+"):
            hitogata_keys(*words, "--folder", lab)


def test_the_options_go_together(ends, tmp_path):
    assert Connection().client_keys() is None
    assert Connection("tcp://lab:1").client_keys() is None
    server_key = ends["lab"] / "lab.public"
    found = Connection("tcp://lab:1", ends["g1"], server_key).client_keys()
    assert found == keys_of(ends)
    for connection in (Connection(None, ends["g1"], server_key), Connection("x", ends["g1"])):
        with pytest.raises(UserError, match="--connect, --keys and --server-key"):
            connection.client_keys()
    with pytest.raises(UserError, match="hitogata keys make NAME"):
        dispatch(COMMANDS, ["serve", "--keys", str(tmp_path / "none")])


# --- who gets in ---


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:*", "tcp://*:5757", "tcp://eth0:5757"])
def test_no_address_off_this_machine_without_keys(address):
    with pytest.raises(UserError, match="hitogata keys --help"):
        serve_policy(EchoPolicy(), G1, address, INFO)
    with pytest.raises(UserError, match="hitogata keys --help"):
        RemotePolicy(address, G1)


def test_an_allowed_robot_is_served(secured, ends):
    with RemotePolicy(secured, G1, INFO, keys=keys_of(ends)) as policy:
        assert policy.act("go", observe(2.0)).observed_at_s == 2.0


def test_keys_work_over_ipc_as_well(ends, tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    with (
        running_server(place, keys=ends["lab"]),
        RemotePolicy(place, G1, INFO, keys=keys_of(ends)) as policy,
    ):
        assert policy.act("go", observe()).status is Status.DONE
        with pytest.raises(UserError, match="asks for keys"):
            RemotePolicy(place, G1)


def test_strangers_are_told_what_is_missing(secured, ends):
    cases = {
        None: "asks for keys.*--keys FOLDER and --server-key FILE",
        keys_of(ends, "eve"): r"does not allow the key of eve.*hitogata keys allow eve\.public",
        keys_of(ends, server="eve"): "does not hold the key of --server-key",
    }
    for keys, remedy in cases.items():
        with pytest.raises(UserError, match=remedy):
            RemotePolicy(secured, G1, keys=keys)
    with RemotePolicy(secured, G1, keys=keys_of(ends)) as policy:  # and the robot is still served
        assert policy.act("go", observe()).status is Status.DONE


def test_a_server_without_keys_is_refused_by_a_client_with_keys(ends):
    refused = pytest.raises(UserError, match="hitogata serve --keys FOLDER")
    with running_server("tcp://127.0.0.1:*") as process, refused:
        RemotePolicy(process.address, G1, keys=keys_of(ends))


def test_the_allow_list_is_read_anew_for_every_client(ends, tmp_path):
    lab, place = tmp_path / "lab", f"ipc://{tmp_path}/p.sock"
    make_pair(lab, "lab")
    allow(lab, ends["g1"] / "g1.public")
    eve = client_keys(ends["eve"], lab / "lab.public")
    refused = pytest.raises(UserError, match="does not allow the key of eve")
    with running_server(place, keys=lab):
        with refused:
            RemotePolicy(place, G1, keys=eve)
        copy = allow(lab, ends["eve"] / "eve.public")
        RemotePolicy(place, G1, keys=eve).close()
        (lab / "allowed" / "broken.public").write_text("hitogata-public-key", encoding="utf-8")
        with refused:  # a list that cannot be read lets nobody in
            RemotePolicy(place, G1, keys=eve)
        (lab / "allowed" / "broken.public").unlink()
        RemotePolicy(place, G1, keys=eve).close()
        copy.unlink()
        with refused:
            RemotePolicy(place, G1, keys=eve)


def test_a_socket_without_its_authenticator_lets_nobody_in(ends):
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    key_room.secure_server(router, server_keys(ends["lab"]))
    router.bind("tcp://127.0.0.1:*")
    try:
        key_room.check_secured(router)
        with pytest.raises(UserError):
            RemotePolicy(router.getsockopt_string(zmq.LAST_ENDPOINT), G1, keys=keys_of(ends))
        with context.socket(zmq.ROUTER) as open_to_all, pytest.raises(RuntimeError):
            key_room.check_secured(open_to_all)
    finally:
        context.destroy(0)


@contextmanager
def overheard(address: str) -> Iterator[tuple[str, bytearray]]:
    """A way to a tcp server on which all bytes are written down."""
    port, heard = int(address.rpartition(":")[2]), bytearray()
    ears = plain.create_server(("127.0.0.1", 0))

    def carry(source: plain.socket, sink: plain.socket) -> None:
        while data := source.recv(65536):
            heard.extend(data)
            sink.sendall(data)
        sink.shutdown(plain.SHUT_WR)

    def listen() -> None:
        here, _ = ears.accept()
        with here, plain.create_connection(("127.0.0.1", port)) as there:
            back = threading.Thread(target=carry, args=(there, here))
            back.start()
            carry(here, there)
            back.join()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    yield f"tcp://127.0.0.1:{ears.getsockname()[1]}", heard
    thread.join(30)
    ears.close()


def test_nobody_overhears_an_instruction(secured, ends):
    words = "walk to the red ball"
    with running_server("tcp://127.0.0.1:*") as process, overheard(process.address) as (way, heard):
        with RemotePolicy(way, G1) as policy:
            policy.act(words, observe())
        assert words.encode() in heard
    with overheard(secured) as (way, heard), RemotePolicy(way, G1, keys=keys_of(ends)) as policy:
        policy.act(words, observe())
    assert len(heard) > observe().images["head"].nbytes and words.encode() not in heard


def test_an_ipc_server_is_for_its_user_alone(tmp_path):
    with running_server(f"ipc://{tmp_path}/p.sock"):
        assert stat.S_IMODE((tmp_path / "p.sock").stat().st_mode) == 0o600


# --- what the sockets refuse ---


def test_the_options_of_both_sockets(tmp_path):
    both = {
        zmq.LINGER: 0,
        zmq.SNDHWM: 4,
        zmq.HANDSHAKE_IVL: 2000,
    }
    # The end that must notice first keeps the heartbeat for both, and no bound to its queue.
    server = {zmq.MAXMSGSIZE: 8 << 20, zmq.RCVHWM: 4, zmq.HEARTBEAT_IVL: 0}
    beat = {zmq.HEARTBEAT_IVL: 200, zmq.HEARTBEAT_TIMEOUT: 600, zmq.HEARTBEAT_TTL: 600}
    client = {zmq.MAXMSGSIZE: 1 << 20, zmq.IMMEDIATE: 1, zmq.CONNECT_TIMEOUT: 1000}
    client |= {zmq.RECONNECT_IVL: -1, zmq.RCVHWM: 0} | beat
    place = f"ipc://{tmp_path}/p.sock"
    with running_server(place), RemotePolicy(place, G1) as policy:
        for option, value in (both | client).items():
            assert policy._socket.getsockopt(option) == value, option
    with _bound_router(place, None) as router:
        for option, value in (both | server).items():
            assert router.getsockopt(option) == value, option
        with pytest.raises(zmq.ZMQError, match="unreachable"):  # ROUTER_MANDATORY
            router.send_multipart([b"nobody", b""])


def test_a_gibibyte_is_refused_before_it_is_read():
    with running_server("tcp://127.0.0.1:*") as process:
        announce_and_garble(process.address, 1 << 30)
        with RemotePolicy(process.address, G1) as policy:
            assert policy.act("go", observe()).status is Status.DONE
        status = Path(f"/proc/{process.pid}/status")
        if status.exists():  # VmHWM, the most that it ever had, in KiB
            most = next(
                line for line in status.read_text(encoding="utf-8").splitlines() if "VmHWM" in line
            )
            assert int(most.split()[1]) < 500_000


def test_a_robot_keeps_its_session_among_strangers(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    with running_server(place), raw_client(place) as robot, ExitStack() as strangers:
        session = greet(robot)
        for turn in range(1, 71):
            greet(strangers.enter_context(raw_client(place)))
            reply = ask(robot, messages.pack_observation(session, turn, "go", observe()))
            assert isinstance(reply, messages.Chunk)


def test_text_of_any_length_is_refused(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    with running_server(place), raw_client(place) as socket:
        hello = messages.Hello(protocol=messages.PROTOCOL, model_id="x" * (2 << 20))
        assert isinstance(ask(socket, messages.pack(hello)), messages.Fault)
        hello = messages.Hello(protocol=messages.PROTOCOL, embodiment=G1, model_id="x" * 201)
        assert isinstance(ask(socket, messages.pack(hello)), messages.Fault)


def test_an_answer_to_another_observation_is_refused(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"

    def replies(act: messages.Act) -> list[list[bytes]]:
        later = EchoPolicy().act("go", observe(act.observed_at_s + 1.0))
        return [messages.pack_chunk("s", act.sequence, later, G1)]

    refused = pytest.raises(MalformedReply, match="an answer to 4")
    with scripted_server(place, replies), RemotePolicy(place, G1) as policy, refused:
        policy.act("go", observe(3.0))


def test_a_server_s_words_cannot_control_the_terminal(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"

    def replies(act: messages.Act) -> list[list[bytes]]:
        text = "bad\x1b]0;title\x07\nnews" + "x" * 1000
        return [messages.pack(messages.Fault(session="s", sequence=act.sequence, message=text))]

    refused = pytest.raises(UserError)
    with scripted_server(place, replies), RemotePolicy(place, G1) as policy, refused as caught:
        policy.act("go", observe())
    assert str(caught.value).startswith("bad ]0;title newsx") and str(caught.value).isprintable()
    assert len(str(caught.value)) == messages.LINE_CHARACTERS
