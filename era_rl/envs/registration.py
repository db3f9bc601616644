"""Registers the environments' ids with gymnasium, without loading what they run on."""

import gymnasium

# dm_control.suite.TASKS_BY_DOMAIN, written out: importing dm_control costs a second and loads
# OpenGL, which a process that only wants to know the ids should not pay.
DM_CONTROL_TASKS = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse two_poles three_poles",
    "cheetah": "run",
    "dog": "stand walk trot run fetch",
    "finger": "spin turn_easy turn_hard",
    "fish": "upright swim",
    "hopper": "stand hop",
    "humanoid": "stand walk run run_pure_state",
    "humanoid_CMU": "stand walk run",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "walk run escape fetch",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer6 swimmer15",
    "walker": "stand walk run",
}

_ANY_BODY = (
    "stand walk run maze hurdle crawl door push reach basketball package sit_simple sit_hard "
    "balance_simple balance_hard stair slide pole"
)
_WITH_HANDS = (
    "cube bookshelf_simple bookshelf_hard window spoon cabinet room insert_normal insert_small "
    "powerlift"
)
# HumanoidBench's tasks by robot, of which its own ids name 192. Missing here are 80 whose models it
# does not have, its kitchens, which current mujoco cannot parse, and g1-truck, whose reset fails.
HUMANOID_BENCH_TASKS = {
    "h1": f"{_ANY_BODY} truck highbar_simple",
    "h1hand": f"{_ANY_BODY} truck {_WITH_HANDS}",
    "h1touch": f"{_ANY_BODY} truck {_WITH_HANDS}",
    "g1": f"{_ANY_BODY} {_WITH_HANDS}",
    "h1simplehand": "stand",
    "h1strong": "highbar_hard",
}


def register_humanoid_bench() -> None:
    """Register ``humanoid_bench/<robot>-<task>-v0``; the package is looked for when one is made.

    Episodes end after HumanoidBench's own number of control steps, 1000 or 500, which
    :func:`era_rl.envs.humanoid_bench.make` counts.
    """
    for robot, tasks in HUMANOID_BENCH_TASKS.items():
        for task in tasks.split():
            gymnasium.register(
                id=f"humanoid_bench/{robot}-{task}-v0",
                entry_point="era_rl.envs.humanoid_bench:make",
                kwargs={"robot": robot, "task": task},
            )


def register_dm_control() -> None:
    """Register ``dm_control/<domain>-<task>-v0``; dm_control is looked for when one is made.

    Episodes are as long as dm_control's own, 1000 steps (lqr: no limit). Gymnasium counts them,
    so that ``make(..., max_episode_steps=...)`` can shorten and lengthen them. lqr is marked
    nondeterministic: it draws its dynamics when it is made, before it can be seeded.
    """
    for domain, tasks in DM_CONTROL_TASKS.items():
        for task in tasks.split():
            env_id = f"dm_control/{domain}-{task}-v0"
            # Shimmy may have registered the id; gymnasium warns when one is overwritten.
            gymnasium.registry.pop(env_id, None)
            gymnasium.register(
                id=env_id,
                entry_point="era_rl.envs.dm_control:DMControlEnv",
                max_episode_steps=None if domain == "lqr" else 1000,
                nondeterministic=domain == "lqr",
                kwargs={"domain": domain, "task": task, "time_limit": float("inf")},
            )
