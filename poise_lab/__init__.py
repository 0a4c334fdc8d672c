"""poise_lab: understand and measure reinforcement learning with value estimates from the actor's own states.

import poise_lab as pl

policy = pl.load_policy("thinker")
task = pl.load_task("chain_sum", min_terms=2, max_terms=5)
rollouts = pl.sample_rollouts(policy, task.sample(128, seed=0), responses=2, seed=0)
internals = pl.read_internals(policy, rollouts, layer=2, pool=4)
probe = pl.ValueProbe.preset("release").fit(internals, rollouts.partner_rewards())
"""

from . import threads  # before all that imports torch
from .baselines import BASELINES, make_baseline
from .baselines.base import Baseline
from .baselines.critic import Critic, gae
from .baselines.poise import Poise
from .errors import PoiseLabError
from .generate import sample_rollouts
from .internals import Internals, read_internals
from .policies import Policy, load_policy
from .probe import RecentBuffer, ValueProbe
from .rollouts import Rollouts
from .runs import RunRecord, compare, read_run
from .sampler import Sampler
from .sources import data_dir
from .stats import agreement, bootstrap_interval, mean_interval, own_share, variance_reduction
from .studies.common import settings_features
from .tasks import TINY_TASKS, Problem, Task, TaskMixture, load_task
from .trainer import TrainConfig, Trainer

__version__ = "0.1.0"
threads.use_for(parameters=0)  # until a policy is loaded

__all__ = [
    "BASELINES",
    "TINY_TASKS",
    "Baseline",
    "Critic",
    "Internals",
    "Poise",
    "Policy",
    "PoiseLabError",
    "Problem",
    "RecentBuffer",
    "Rollouts",
    "RunRecord",
    "Sampler",
    "Task",
    "TaskMixture",
    "TrainConfig",
    "Trainer",
    "ValueProbe",
    "agreement",
    "bootstrap_interval",
    "compare",
    "data_dir",
    "gae",
    "load_policy",
    "load_task",
    "make_baseline",
    "mean_interval",
    "own_share",
    "read_run",
    "read_internals",
    "sample_rollouts",
    "settings_features",
    "variance_reduction",
]
