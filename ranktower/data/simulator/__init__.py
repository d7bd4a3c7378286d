"""A seeded generator of a whole recommendation cascade, for tests, benchmarks and users who have no data yet."""

from ranktower.data.simulator.cascade import Simulation, simulate
from ranktower.data.simulator.options import SimulatorOptions

__all__ = ["Simulation", "SimulatorOptions", "simulate"]
