"""Agents: policies that decide the tying. `names()` lists them, `make("dqn", env, seed=0)` makes one."""

from agents.base import Agent
from agents.registry import agent_class, load, make, make_env, names

__all__ = ["Agent", "agent_class", "load", "make", "make_env", "names"]
