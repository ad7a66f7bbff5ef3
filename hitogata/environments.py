"""The environments' names in Gymnasium: `gymnasium.make("hitogata:Hitogata/G1Scene-v0")`.

What a name stands for is imported as it is made, so to register costs nothing.
"""

from __future__ import annotations

import gymnasium

SCENE_ID = "Hitogata/G1Scene-v0"
WALK_ID = "Hitogata/G1Walk-v0"


def register_envs() -> None:
    """Registers the project's environments, once."""
    if SCENE_ID not in gymnasium.registry:
        gymnasium.register(
            SCENE_ID,
            entry_point="sim.envs:SceneEnv",
            vector_entry_point="sim.envs:SceneVectorEnv",
        )
        gymnasium.register(WALK_ID, vector_entry_point="sim.locomotion.env:make_walk_worlds")
