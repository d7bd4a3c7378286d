"""RankTower: an open pre-ranking system. The root package holds the version, nothing else."""

__version__ = "0.1.0"
