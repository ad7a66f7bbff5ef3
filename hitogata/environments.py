"""The environments' names in Gymnasium: `gymnasium.make("hitogata:Hitogata/GoTo-v0")`.

What a name stands for is imported as it is made, so to register costs nothing.
"""

from __future__ import annotations

import gymnasium

SCENE_ID = "Hitogata/G1Scene-v0"
WALK_ID = "Hitogata/G1Walk-v0"
# Any family, of any catalogue, by its argument `family`; those of the shipped one have names too.
TASK_ID = "Hitogata/Task-v0"
FAMILY_IDS = {
    "walk": "Hitogata/Walk-v0",
    "go_to": "Hitogata/GoTo-v0",
    "gesture": "Hitogata/Gesture-v0",
}


def register_envs() -> None:
    """Registers the project's environments, once."""
    if SCENE_ID in gymnasium.registry:
        return
    gymnasium.register(
        SCENE_ID,
        entry_point="sim.envs:SceneEnv",
        vector_entry_point="sim.envs:SceneVectorEnv",
    )
    gymnasium.register(WALK_ID, vector_entry_point="sim.locomotion.env:make_walk_worlds")
    for name, family in [(TASK_ID, {}), *((FAMILY_IDS[f], {"family": f}) for f in FAMILY_IDS)]:
        gymnasium.register(
            name,
            entry_point="tasks.envs:TaskEnv",
            vector_entry_point="tasks.envs:TaskVectorEnv",
            kwargs=family,
        )
