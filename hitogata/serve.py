"""`hitogata serve`: answers robots and clients with a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from bridge.compat import gr00t, openpi
from bridge.compat.adapter import Endpoint, read_token
from bridge.contract import UserError
from bridge.ranges import PositiveFloat, PositiveInt, Workers
from bridge.wire.keys import server_keys
from bridge.wire.server import ServerInfo, serve_policy
from hitogata.policies import BUNDLE
from policy.runtime.onnx_policy import Blind, OnnxPolicy

# The wires of other projects; each is a file of bridge/compat.
WIRES = {"gr00t": gr00t.serve_gr00t, "openpi": openpi.serve_openpi}
if TYPE_CHECKING:
    Wire = str
else:
    Wire = Literal[("hitogata", *WIRES)]


def serve(
    bundle: Positional[Path] = BUNDLE,
    wire: Wire = "hitogata",
    address: str | None = None,
    threads: Workers = 2,
    tokens_per_step: PositiveInt | None = None,
    deadline_s: PositiveFloat | None = None,
    blind: Blind | None = None,
    strict_gpu: bool = False,
    keys: Path | None = None,
    token_file: Path | None = None,
    exposed: bool = False,
) -> None:
    """Serves a bundle until interrupted.

    Example: hitogata serve runs/bundle --address ipc:///tmp/hitogata.sock

    Args:
        bundle: Folder written by `hitogata export`.
        wire: Whose clients to answer: ours, or those of another project.
        address: Where to listen: ipc:// or loopback tcp://, with keys any tcp://; for openpi
            ws://. Without one, where clients of the wire look first.
        threads: CPU threads of the policy.
        tokens_per_step: Action tokens that one decoding step emits: 18, 36 or 108.
        deadline_s: After this time a chunk is answered as far as it is decoded.
        blind: Withhold the words or the picture from the policy, as a baseline.
        strict_gpu: Refuse to run any part on the CPU.
        keys: Folder of keys (hitogata keys): encrypt, and let in only who is allowed there.
        token_file: File with the token that clients of other projects must present.
        exposed: Let those reach it from other machines, unencrypted: needs a token.
    """
    if wire == "hitogata" and (token_file or exposed):
        raise UserError("--token-file and --exposed are for other wires: use --keys FOLDER")
    if wire != "hitogata" and keys:
        raise UserError(f"the wire of {wire} knows no keys: use --token-file FILE")
    endpoint = Endpoint(address, exposed, read_token(token_file) if token_file else None)
    pair = server_keys(keys) if keys else None
    policy = OnnxPolicy(bundle, threads, strict_gpu, tokens_per_step, blind, deadline_s)
    info = ServerInfo(policy.manifest.model_id, policy.manifest.normalisation_id)

    def ready(place: str) -> None:
        print(f"serving {bundle} at {place} on {policy.device}", flush=True)

    if wire == "hitogata":
        serve_policy(
            policy, policy.embodiment, address or "tcp://127.0.0.1:5757", info, ready, pair
        )
    else:
        WIRES[wire](policy, policy.embodiment, endpoint, info, ready)
