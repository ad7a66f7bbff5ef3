"""Demonstrations in memory, and batches drawn from them.

A recorded frame carries labels for many instructions. A batch draws frames and, for each, one of
its labels: the same picture comes back with other words and another action, which is what makes a
policy listen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bridge.contract import UserError
from bridge.data.dataset import (
    Episode,
    episode_count,
    read_embodiment,
    read_episodes,
    read_slots,
)
from bridge.data.sentences import Sentences, read_sentences
from bridge.embodiment import Embodiment
from bridge.files import read_npz, reading, text_array, write_npz
from bridge.ranges import NonNegativeFloat, NonNegativeInt, Share
from bridge.symmetry import mirror_commands, mirror_states
from policy.model.encoders import MAX_TOKENS, STATE_WIDTH
from policy.model.vla import BANDS_PER_STEP, known_bands
from policy.runtime.legacy import release_0_1

# Instructions to token states (N, 24, 384) and their mask (N, 24), as
# `policy.runtime.text_encoder.TextEncoder`.
Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
Slots = tuple[tuple[str, tuple[str, ...]], ...]

# Below this a state that hardly moved in the data would be blown up by normalisation.
LEAST_DEVIATION = 0.02


@dataclass(frozen=True)
class Augmentation:
    """Noise on what the policy is given. Colours may shift a little, never into the next colour.

    `brightness`, `contrast` and `channel` are relative; `noise` is in standard deviations of the
    state; `hidden_command` is how often the command in execution is hidden, so that the policy
    does not merely go on with what it is doing; `dropped_words` the share of word pieces dropped.
    Where nothing but the picture decides - in labels of `seen_actions` whose named object is seen -
    left and right are exchanged as often as `mirrored` says, and time and odometry are those of
    another label as often as `other_context` says.
    """

    brightness: NonNegativeFloat = 0.15
    contrast: NonNegativeFloat = 0.15
    channel: NonNegativeFloat = 0.05
    shift_px: NonNegativeInt = 1
    noise: NonNegativeFloat = 0.02
    elapsed_s: NonNegativeFloat = 0.05
    odometry: NonNegativeFloat = 0.01
    hidden_command: Share = 0.1
    dropped_words: Share = 0.15
    mirrored: Share = 0.5
    other_context: Share = 0.3
    seen_actions: tuple[str, ...] = ("go_to",)


class Batch(NamedTuple):
    """Inputs and targets of one training step; shapes as in `Model.forward`.

    `slots` (B, S) int64 are classes, 0 where the instruction does not mention the slot.
    `target_location` (B, 2) as in `bridge.data.labels.Labels`.
    """

    states: Tensor
    mask: Tensor
    image: Tensor
    state: Tensor
    commands: Tensor
    status: Tensor
    slots: Tensor
    known: Tensor
    target_location: Tensor


@dataclass
class Demonstrations:
    """All frames and labels of one or more datasets of one robot, a G1 as far as sizes go.

    Per frame: `images` (N, 96, 96, 3) uint8 of the first camera, and `state` (N, 86). Per label:
    its `frame` (M,), `instruction` (M,), `context` (M, 4), `commands` (M, 16, 18), `status` (M,),
    `slots` (M, S) and `target_location` (M, 2).
    Per instruction: `text`, `word_states` (I, 24, 384) float16 and `word_mask` (I, 24).
    The last `n_held_out` labels belong to episodes that training never draws.
    `sentences` (K,) are instructions known by words alone, `sentence_slots` (K, S) their meaning.
    """

    embodiment: Embodiment
    slot_names: Slots
    images: np.ndarray
    state: np.ndarray
    frame: np.ndarray
    instruction: np.ndarray
    context: np.ndarray
    commands: np.ndarray
    status: np.ndarray
    slots: np.ndarray
    target_location: np.ndarray
    text: list[str]
    word_states: np.ndarray
    word_mask: np.ndarray
    n_held_out: int
    sentences: np.ndarray
    sentence_slots: np.ndarray

    @property
    def n_labels(self) -> int:
        """How many labels training draws from."""
        return len(self.frame) - self.n_held_out

    def state_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (86,) of the states as the policy is given them."""
        mean, deviation = self.state.mean(0), self.state.std(0)
        context = self.embodiment.context
        mean[context], deviation[context] = self.context.mean(0), self.context.std(0)
        return mean, np.maximum(deviation, LEAST_DEVIATION)

    def draw(self, rng: np.random.Generator, size: int, augmentation: Augmentation | None) -> Batch:
        """A batch of random labels, equally likely but for those that `emphasise` named."""
        if self._likely is None:
            return self.batch(rng.integers(0, self.n_labels, size), rng, augmentation)
        labels = np.searchsorted(self._likely, rng.random(size), side="right")
        return self.batch(labels, rng, augmentation)

    def draw_named(
        self, rng: np.random.Generator, size: int, augmentation: Augmentation | None
    ) -> Batch:
        """A batch of random labels whose instruction names an object."""
        if not len(self._named):
            raise UserError(
                "no instruction of the data names an object: train with --perception-fraction 0"
            )
        return self.batch(rng.choice(self._named, size), rng, augmentation)

    def draw_sentences(
        self, rng: np.random.Generator, size: int, augmentation: Augmentation
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States, mask and slots, as in `Batch`, of random sentences without pictures."""
        chosen = rng.integers(0, len(self.sentences), size)
        states, mask = self._words(self.sentences[chosen], rng, augmentation)
        return states, mask, torch.from_numpy(self.sentence_slots[chosen].astype(np.int64) + 1)

    def emphasise(self, actions: Sequence[str], times: float) -> None:
        """Draws labels of these actions more often from now on, each so many times."""
        labels = np.arange(self.n_labels)
        likely = np.cumsum(np.where(self._of(actions, labels), times, 1.0))
        self._likely = likely / likely[-1]

    def held_out(self, rng: np.random.Generator, size: int) -> Batch:
        """A batch of labels that training never sees, without noise."""
        first = self.n_labels if self.n_held_out else 0
        return self.batch(rng.integers(first, len(self.frame), size), rng, None)

    def batch(
        self, labels: np.ndarray, rng: np.random.Generator, augmentation: Augmentation | None
    ) -> Batch:
        """The given labels (B,), with noise if asked for."""
        frames, body = self.frame[labels], self.embodiment
        images, state = self.images[frames], self.state[frames]
        state[:, body.context] = self.context[labels]
        commands = self.commands[labels].astype(np.float32)
        location = self.target_location[labels].astype(np.float32)
        instructions = self.instruction[labels]
        if augmentation is not None:
            visible = self._of(augmentation.seen_actions, labels) & (location[:, 0] >= 0)
            other = visible & (rng.random(len(labels)) < augmentation.other_context)
            state[other, body.context] = self.context[rng.permutation(labels)[other]]
            turned = visible & (rng.random(len(labels)) < augmentation.mirrored)
            images[turned] = images[turned, :, ::-1]
            state[turned] = mirror_states(body, state[turned])
            commands[turned] = mirror_commands(body, commands[turned])
            location[turned, 0] = 1 - location[turned, 0]
            images = augment_images(rng, images, augmentation)
            state = self._augment_state(rng, state, augmentation)
        states, mask = self._words(instructions, rng, augmentation)
        return Batch(
            states=states,
            mask=mask,
            image=torch.from_numpy(images),
            state=torch.from_numpy(state),
            commands=torch.from_numpy(commands),
            status=torch.from_numpy(self.status[labels].astype(np.int64)),
            slots=torch.from_numpy(self.slots[labels].astype(np.int64) + 1),
            known=draw_known(rng, len(labels)),
            target_location=torch.from_numpy(location),
        )

    def _words(
        self, instructions: np.ndarray, rng: np.random.Generator, augmentation: Augmentation | None
    ) -> tuple[Tensor, Tensor]:
        """States and mask of instructions (B,), without the padding that none of them needs."""
        mask = self.word_mask[instructions]
        if augmentation is not None:
            dropped = rng.random(mask.shape) < augmentation.dropped_words
            dropped[:, 0] = False
            mask = mask & ~dropped
        # Trailing padding costs time and says nothing.
        used = int(np.flatnonzero(mask.any(0))[-1]) + 1
        states = self.word_states[instructions, :used].astype(np.float32)
        return torch.from_numpy(states), torch.from_numpy(mask[:, :used])

    def _of(self, actions: Sequence[str], labels: np.ndarray) -> np.ndarray:
        """(B,) bool: the labels whose instruction is one of these actions."""
        for slot, (name, values) in enumerate(self.slot_names):
            if name == "action":
                chosen = [i for i, value in enumerate(values) if value in actions]
                return np.isin(self.slots[labels, slot], chosen)
        return np.zeros(len(labels), dtype=bool)

    def _augment_state(
        self, rng: np.random.Generator, state: np.ndarray, augmentation: Augmentation
    ) -> np.ndarray:
        mean, deviation = self._moments
        scale = augmentation.noise * deviation
        scale[self.embodiment.context] = [augmentation.elapsed_s, *[augmentation.odometry] * 3]
        state = state + scale * rng.standard_normal(state.shape, dtype=np.float32)
        hidden = rng.random(len(state)) < augmentation.hidden_command
        command = self.embodiment.state_parts["command"]
        state[hidden, command] = mean[command]
        return state.astype(np.float32)

    def __post_init__(self) -> None:
        self._moments = self.state_moments()
        self._likely: np.ndarray | None = None
        self._named = np.flatnonzero(~np.isnan(self.target_location[: self.n_labels, 0]))


def draw_known(rng: np.random.Generator, size: int) -> Tensor:
    """(size, 6) bool: each sample practises one of the ways of decoding, six steps most often."""
    patterns = torch.stack([known_bands(bands) for bands in BANDS_PER_STEP])
    return patterns[torch.from_numpy(rng.choice(len(patterns), size, p=(0.5, 0.15, 0.35)))]


def augment_images(
    rng: np.random.Generator, images: np.ndarray, augmentation: Augmentation
) -> np.ndarray:
    """Shifted images (B, 96, 96, 3) float32 in other light, still within 0..255."""
    n, shift = len(images), augmentation.shift_px
    side = images.shape[1]
    wide = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), "edge")
    corners = rng.integers(0, 2 * shift + 1, (n, 2))
    moved = np.stack(
        [i[y : y + side, x : x + side] for i, (y, x) in zip(wide, corners, strict=True)]
    )
    around = rng.uniform(-1, 1, (3, n, 3)).astype(np.float32)
    gain = 1 + augmentation.contrast * around[0, :, :1] + augmentation.channel * around[1]
    offset = 127.5 * augmentation.brightness * around[2, :, :1] + 127.5 * (1 - gain)
    # By torch, on all of its threads: four passes over every pixel of a batch.
    lit = torch.from_numpy(moved).float()
    lit.mul_(torch.from_numpy(gain[:, None, None])).add_(torch.from_numpy(offset[:, None, None]))
    return lit.clamp_(0, 255).numpy()


def load_demonstrations(
    folders: Sequence[Path],
    encode: Encode,
    cache: Path | None = None,
    held_out: float = 0.05,
    encoder_id: str = "",
) -> Demonstrations:
    """Reads datasets into memory, the last `held_out` share of each one's episodes set apart.

    Encoded instructions are kept in the file `cache`, under the encoder's id.
    """
    slots = tuple(read_slots(folders[0]).items())
    body = read_embodiment(folders[0], unnamed=release_0_1())
    train: list[Episode] = []
    apart: list[Episode] = []
    for folder in folders:
        if tuple(read_slots(folder).items()) != slots:
            raise UserError(f"{folder} has other slots than {folders[0]}: train on one of them")
        if found := body.difference(read_embodiment(folder, unnamed=release_0_1())):
            raise UserError(f"{found} between {folders[0]} and {folder}: train on one of them")
        count = episode_count(folder)
        if not count:
            raise UserError(f"{folder} holds no episode: record some with `hitogata collect`")
        first_apart = count - int(count * held_out)
        for episode in read_episodes(folder):
            (train if episode.index < first_apart else apart).append(episode)
    sentences = [found for folder in folders if (found := read_sentences(folder))]
    return assemble(train, apart, body, slots, encode, cache, sentences, encoder_id)


def assemble(
    train: list[Episode],
    apart: list[Episode],
    body: Embodiment,
    slots: Slots,
    encode: Encode,
    cache: Path | None = None,
    sentences: Sequence[Sentences] = (),
    encoder_id: str = "",
) -> Demonstrations:
    """One array per quantity, from episodes to train on, episodes to set apart and sentences."""
    episodes = [*train, *apart]
    lengths = [len(episode.state) for episode in episodes]
    camera = body.cameras[0]
    images = np.empty((sum(lengths), camera.height, camera.width, 3), np.uint8)
    numbers: dict[str, int] = {}
    frames, instructions = [], []
    start = 0
    for episode, length in zip(episodes, lengths, strict=True):
        for i, image in enumerate(episode.images[camera.name]):
            images[start + i] = image
        episode.__dict__.pop("images", None)  # cached there too, and pictures are most of it
        labels = episode.labels
        own = [numbers.setdefault(text, len(numbers)) for text in labels.instructions]
        instructions.append(np.array(own, np.int64)[labels.instruction].ravel())
        per_frame = labels.instruction.shape[1]
        frames.append(np.repeat(np.arange(start, start + length), per_frame))
        start += length
    texts = [text for some in sentences for text in some.texts]
    said = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
    word_states, word_mask = encode_once(list(numbers), encode, cache, encoder_id)
    return Demonstrations(
        embodiment=body,
        slot_names=slots,
        images=images,
        state=np.concatenate([episode.state for episode in episodes]),
        frame=np.concatenate(frames),
        instruction=np.concatenate(instructions),
        context=_joined(episodes, "context", 4),
        commands=_joined(episodes, "commands", *body.chunk_shape),
        status=_joined(episodes, "status"),
        slots=_joined(episodes, "slots", len(slots)),
        target_location=_joined(episodes, "target_location", 2),
        text=list(numbers),
        word_states=word_states,
        word_mask=word_mask,
        n_held_out=sum(episode.labels.status.size for episode in apart),
        sentences=said,
        sentence_slots=np.concatenate(
            [np.empty((0, len(slots)), np.int8), *(some.slots for some in sentences)]
        ),
    )


def encode_once(
    texts: list[str], encode: Encode, cache: Path | None, encoder_id: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Token states (N, 24, 384) float16 and mask (N, 24); a cache keeps what was encoded before.

    By the same encoder: what another one encoded is not used.
    """
    known: dict[str, int] = {}
    states, mask = (
        np.empty((0, MAX_TOKENS, STATE_WIDTH), np.float16),
        np.empty((0, MAX_TOKENS), bool),
    )
    if cache is not None and cache.is_file():
        remedy = "delete it: it is made again"
        stored = read_npz(cache, remedy)
        with reading(cache, remedy):
            # Release 0.1 did not tell whose states these are.
            if "encoder" in stored and json.loads(stored["encoder"].tobytes()) == encoder_id:
                known = {text: i for i, text in enumerate(json.loads(stored["texts"].tobytes()))}
                states, mask = stored["states"], stored["mask"]
    missing = [text for text in texts if text not in known]
    if missing:
        new_states, new_mask = encode(missing)
        states = np.concatenate([states, new_states.astype(np.float16)])
        mask = np.concatenate([mask, new_mask])
        known |= {text: len(known) + i for i, text in enumerate(missing)}
        if cache is not None:
            texts_of, own = text_array([*known]), text_array(encoder_id)
            write_npz(cache, states=states, mask=mask, texts=texts_of, encoder=own)
    rows = [known[text] for text in texts]
    return states[rows], mask[rows]


def _joined(episodes: list[Episode], name: str, *shape: int) -> np.ndarray:
    return np.concatenate([getattr(e.labels, name).reshape(-1, *shape) for e in episodes])
