"""Running a policy: an instruction and an observation to an action chunk, without torch.

`GraphPolicy` holds what happens around a model's three parts; `OnnxPolicy` gives it the parts of a
bundle, `policy.training.torch_policy.TorchPolicy` those of a checkpoint.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np

from assets.inference import ort
from bridge.contract import (
    ActionChunk,
    InferenceStats,
    Observation,
    Refusal,
    Status,
    UserError,
    check_instruction,
)
from bridge.embodiment import Embodiment
from bridge.pictures import as_known
from policy.runtime.bundle import DECODE_FILE, PREFILL_FILE, WORDS_FILE, open_bundle
from policy.runtime.decoding import decode_bands
from policy.runtime.disambiguation import (
    NAMES,
    Hypothesis,
    hypotheses,
    no_prior,
    prior_for,
    select,
)
from policy.runtime.text_encoder import TextEncoder

Blind = Literal["text", "image"]
# What a policy without text hears instead: that it shall go somewhere, but not where.
UNINFORMATIVE_INSTRUCTION = "go to the object"
UNINFORMATIVE_GREY = 127

# A part of a model, from arrays to arrays in the order of its graph's inputs and outputs.
Part = Callable[..., Sequence[np.ndarray]]


class Reading(NamedTuple):
    """One meaning of an instruction and its word vector (1, W)."""

    meaning: Hypothesis
    word: np.ndarray


class Parts(Protocol):
    """The three parts of a model, as in `policy.model.stages`; batch size is one throughout."""

    @property
    def words(self) -> Part:
        """Token states, mask, prior (1, C) -> word vector, slots (1, S) int64, chances (1, C)."""
        ...

    @property
    def prefill(self) -> Part:
        """Word, image (1, 96, 96, 3), state (1, 86) -> cache, status, experts, visibility (1,)."""
        ...

    @property
    def decode(self) -> Part:
        """Next bands, previous tokens, which are known, commands so far, cache (keys, values).

        -> tokens (1, n, 18), commands (1, 16, 18), keys, values.
        """
        ...


class GraphPolicy:
    """A `bridge.contract.Policy` for the robot `body` around a model's parts.

    `tokens_per_step` are emitted by one decoding step: those of one band, by default, or several.
    With `deadline_s`, decoding stops after the step that passes it; what is there by then is a
    smooth, coarser chunk. `blind` makes a baseline that is told nothing by words or sees nothing.
    """

    def __init__(
        self,
        parts: Parts,
        encoder: TextEncoder,
        body: Embodiment,
        slots: Mapping[str, Sequence[str]],
        bands: int,
        tokens_per_step: int | None = None,
        blind: Blind | None = None,
        deadline_s: float | None = None,
    ) -> None:
        band = len(body.commands)
        choices = [band * n for n in range(1, bands + 1) if bands % n == 0]
        if tokens_per_step not in (None, *choices):
            raise UserError(f"{tokens_per_step} tokens per step is not possible: choose {choices}")
        self.embodiment = body
        self.slots = {name: tuple(values) for name, values in slots.items()}
        self.bands = bands
        self.tokens_per_step = tokens_per_step or band
        self.blind = blind
        self.deadline_s = deadline_s
        self._parts = parts
        self._encoder = encoder
        # An instruction is read once, not at every observation.
        self._read = functools.lru_cache(maxsize=64)(self._read_words)

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        """The chunk for one observation; UserError for unusable text or numbers."""
        start = time.monotonic()
        text = check_instruction(instruction)
        readings = self._read(UNINFORMATIVE_INSTRUCTION if self.blind == "text" else text)
        image, state = self._inputs(observation)
        if not readings:
            return self._refuse(observation, Refusal.LENGTH)
        # Where words leave doubt, every meaning is looked for; nearly always there is but one.
        looks = [self._parts.prefill(reading.word, image, state) for reading in readings]
        best = select([reading.meaning for reading in readings], [look[4].item() for look in looks])
        keys, values, status, experts, _ = looks[best]
        tokens, commands = self.decode(keys, values, start)
        if not (np.isfinite(commands).all() and np.isfinite(status).all()):
            raise UserError("the policy computed non-finite numbers: export its bundle again")
        chances = np.exp(status[0] - status[0].max())
        chances /= chances.sum()
        most_likely = Status(chances.argmax())
        understood = self._names(readings[best].meaning.classes)
        return ActionChunk(
            observed_at_s=observation.time_s,
            commands=commands[0],
            status=most_likely,
            status_probability=float(chances[most_likely]),
            understood=understood,
            reason=_why(understood) if most_likely == Status.REFUSED else "",
            stats=InferenceStats(
                expert_use=tuple(map(tuple, experts[0].tolist())),
                tokens=tokens.size,
                steps=-(-tokens.size // self.tokens_per_step),
            ),
        )

    def _refuse(self, observation: Observation, reason: Refusal) -> ActionChunk:
        """Stands, and says why."""
        stand = np.tile(self.embodiment.stand, (self.embodiment.chunk_steps, 1))
        return ActionChunk(observation.time_s, stand, Status.REFUSED, 1.0, {}, reason=reason)

    def reset(self) -> None:
        """Nothing to forget: an answer depends on its instruction and observation alone."""

    def decode(
        self, keys: np.ndarray, values: np.ndarray, start_s: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (1, bands, 18) and commands (1, 16, 18) after a prefill begun at `start_s`."""

        def late() -> bool:
            return self.deadline_s is not None and time.monotonic() - start_s > self.deadline_s

        shape = self.embodiment.chunk_shape
        step = self.tokens_per_step // shape[1]
        return decode_bands(self._parts.decode, keys, values, shape, self.bands, step, late=late)

    def _inputs(self, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        known = as_known(observation, self.embodiment)
        state = known.state
        if not np.isfinite(state).all():
            wrong = [
                known.embodiment.state_names[i] for i in np.flatnonzero(~np.isfinite(state))[:3]
            ]
            raise UserError(
                f"the observation is not finite ({', '.join(wrong)}): check the robot's sensors"
            )
        image = known.images[self.embodiment.cameras[0].name]
        if self.blind == "image":
            image = np.full_like(image, UNINFORMATIVE_GREY)
        return image[None], state[None]

    def _read_words(self, text: str) -> list[Reading]:
        """What an instruction may mean, likeliest first, with the word vector of each meaning.

        Nothing where its end would not be read, which may be a "stop".
        """
        try:
            states = self._encoder.encode([text])
        except UserError:  # it has more word pieces than the encoder reads
            return []
        word, classes, chances = self._parts.words(*states, no_prior(self.slots))
        meanings = hypotheses(self.slots, classes[0], chances[0])
        if len(meanings) == 1:
            return [Reading(meanings[0], word)]
        priors = [prior_for(self.slots, meaning.classes) for meaning in meanings]
        words = [self._parts.words(*states, prior)[0] for prior in priors]
        return [Reading(*pair) for pair in zip(meanings, words, strict=True)]

    def _names(self, classes: np.ndarray) -> dict[str, str]:
        pairs = zip(self.slots.items(), classes.tolist(), strict=True)
        return {name: values[index - 1] for (name, values), index in pairs if index > 0}


def _why(understood: Mapping[str, str]) -> Refusal:
    """Why an instruction that was understood like this is refused.

    What names an object is refused only after a search has found none.
    """
    if understood.get("action", "unknown") == "unknown":
        return Refusal.WORDS
    return Refusal.UNSEEN if understood.keys() & set(NAMES) else Refusal.UNABLE


class OnnxPolicy(GraphPolicy):
    """The policy of a bundle, checked before anything of it is opened.

    `device` says in words what it runs on. `strict_gpu` refuses to run any part on the CPU.
    """

    def __init__(
        self,
        bundle: Path,
        threads: int = 2,
        strict_gpu: bool = False,
        tokens_per_step: int | None = None,
        blind: Blind | None = None,
        deadline_s: float | None = None,
    ) -> None:
        opened = open_bundle(Path(bundle))
        self.manifest = opened.manifest
        graphs = {name: graph.SerializeToString() for name, graph in opened.graphs.items()}
        parts = OnnxParts(graphs, threads, strict_gpu)
        self.device = parts.device
        super().__init__(
            parts,
            TextEncoder(Path(bundle), threads, opened.files),
            self.manifest.embodiment,
            self.manifest.slots,
            self.manifest.bands,
            tokens_per_step,
            blind,
            deadline_s,
        )


class OnnxParts:
    """The three graphs of a bundle as sessions of ONNX Runtime; `graphs` by the files' names."""

    def __init__(
        self, graphs: Mapping[str, bytes], threads: int = 2, strict_gpu: bool = False
    ) -> None:
        prefill, self.device = open_session(graphs[PREFILL_FILE], threads, strict_gpu)
        on_cuda = "CUDAExecutionProvider" in prefill.get_providers()
        providers = None if on_cuda else ["CPUExecutionProvider"]
        words, _ = open_session(graphs[WORDS_FILE], threads, strict_gpu, providers)
        decode, _ = open_session(graphs[DECODE_FILE], threads, strict_gpu, providers)
        self.words, self.prefill, self.decode = map(_part, (words, prefill, decode))


def _part(session: ort.InferenceSession) -> Part:
    names = [port.name for port in session.get_inputs()]
    return lambda *arrays: cast(
        Sequence[np.ndarray], session.run(None, dict(zip(names, arrays, strict=True)))
    )


def open_session(
    model: bytes,
    threads: int,
    strict_gpu: bool = False,
    providers: Sequence[str] | None = None,
) -> tuple[ort.InferenceSession, str]:
    """A session on the GPU where there is one, else on the CPU, and which of them in words."""
    # To name the CPU and to forbid it at once is refused before anything is tried.
    both = ["CUDAExecutionProvider", *([] if strict_gpu else ["CPUExecutionProvider"])]
    wanted = providers or both
    usable = [name for name in wanted if name in ort.get_available_providers()]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Waiting threads would take the cores that physics and walker need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if strict_gpu:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # Without CUDA's libraries the runtime logs an error and carries on; we say it ourselves.
    ort.set_default_logger_severity(4)
    try:
        session = ort.InferenceSession(model, options, providers=usable)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        remedy = "run without --strict-gpu" if strict_gpu else "export the bundle again"
        raise UserError(f"ONNX Runtime refused the graph ({reason}): {remedy}") from error
    finally:
        ort.set_default_logger_severity(2)
    if "CUDAExecutionProvider" in session.get_providers():
        return session, "GPU (CUDA), operators without a CUDA kernel on the CPU"
    if strict_gpu:
        raise UserError("no CUDA GPU can be used: install its libraries or drop --strict-gpu")
    return session, f"CPU, {threads} threads"
