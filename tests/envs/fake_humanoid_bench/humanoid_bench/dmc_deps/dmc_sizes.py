# the first of each is a field that mujoco has, the second one that it has dropped
array_sizes = (
{'mjdata': {'qpos': ('nq',), 'dropped_field': ('nv',)},
 'mjmodel': {'body_mass': ('nbody',), 'flex_evpair': ('nflexevpair', 2)}}
)  # fmt: skip
