"""A stand-in with HumanoidBench's surface, and what breaks of it on current packages."""

from .env import HumanoidEnv as HumanoidEnv
