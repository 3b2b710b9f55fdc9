"""Studies that several processes or machines work on together, through one of Optuna's storages.

Every process runs the same `servecast plan ... --storage URL`. The first one makes the study of a load
and queues the public and screened recipes; all take trials from it until the budget is spent, and each
reads what the others found. A trial carries its recipe and its outcome, so that nothing is simulated
twice. A process that is killed loses its running trial alone: its heartbeat stops, another process marks
the trial failed and queues it again.
"""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from planner.evaluate import Evaluator, Outcome
from planner.screen import Candidate, usable
from search_spaces.errors import BadInput, MissingData
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace

HEARTBEAT_S, GRACE_S = 5, 20
"""How often a running trial says that it lives, and after which silence it counts as killed."""
MOST_RETRIES = 3
"""How often the trial of a killed process is queued again."""
WAIT_S = 0.5
PATIENCE_S = 60.0
"""Longest wait for a trial of another process once the budget is spent."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def storage_for(url: str) -> BaseStorage:
    """The storage a URL names: a database, or `grpc://host:port` of an Optuna proxy server.

    Only databases carry heartbeats; behind a proxy, a killed process loses its trial for good.

    Raises:
        BadInput: the URL is of no known form, or its server does not answer.
        MissingData: the package of a database driver or of gRPC is absent.
    """
    proxy = re.fullmatch(r"grpc://([^:/]+):(\d+)", url)
    try:
        if proxy:
            return optuna.storages.GrpcStorageProxy(host=proxy[1], port=int(proxy[2]))
        if not re.match(r"(sqlite|postgresql|mysql)(\+\w+)?://", url):
            raise BadInput(
                f"storage={url!r} is no storage; write postgresql://user@host/db, mysql://..., "
                "sqlite:///file.db or grpc://host:port"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return RDBStorage(
                url,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES),
            )
    except ImportError as error:
        raise MissingData(
            f"storage={url!r}: {error}; install servecast[distributed] or the driver of this database"
        ) from None
    except _database_errors() as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"storage={url!r} does not answer: {reason}; start it, or correct the URL") from None


def _database_errors() -> tuple[type[Exception], ...]:
    from sqlalchemy.exc import SQLAlchemyError

    return (SQLAlchemyError, optuna.exceptions.StorageInternalError)


class SharedStudy:
    """The study of one load, worked on together."""

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        spaces: Sequence[SearchSpace],
        sampler: optuna.samplers.BaseSampler,
    ) -> None:
        """Args: where it is kept, its name, the spaces it draws from, and the sampler of this process."""
        self.spaces = {space.name: space for space in spaces}
        try:
            self.study = optuna.create_study(
                study_name=name, storage=storage, sampler=sampler, directions=["maximize", "maximize"]
            )
            self.made_here = True
        except DuplicatedStudyError:
            self.study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
            self.made_here = False

    def queue(self, candidates: Iterable[Candidate]) -> None:
        """Queue recipes that have a point, each once; the process that made the study does this."""
        for candidate in candidates:
            if candidate.point and candidate.space in self.spaces:
                knobs = self.spaces[candidate.space].knobs()
                params = {"space": candidate.space} | {
                    f"{candidate.space}/{k}": v for k, v in candidate.point.items() if k in knobs
                }
                self.study.enqueue_trial(params, {"origin": candidate.origin}, skip_if_exists=True)

    def work(
        self,
        evaluator: Evaluator,
        decode: Callable[[dict[str, Any]], Candidate | None],
        concurrency: int,
        trials: int,
        threads: int,
        on_trial: Callable[[], None],
    ) -> None:
        """Take trials until `trials` of all processes together are finished.

        Args:
            evaluator: simulates, and remembers what others simulated.
            decode: recipe of a trial's parameters, or None where a law removes it.
            concurrency: the load.
            trials: finished trials of the study, by whomever.
            threads: trials this process runs at once.
            on_trial: called after each trial of this process.
        """
        lock = threading.Lock()

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            candidate = decode(self._params(trial))
            if candidate is None:
                raise optuna.TrialPruned
            self.learn(evaluator, concurrency)
            task = (candidate.recipe, concurrency, True)
            future = evaluator.submit(*task)
            future.result()
            with lock:
                outcome = evaluator.collect(*task, future)
            trial.set_user_attr("digest", candidate.recipe.digest)
            trial.set_user_attr("recipe", candidate.recipe.model_dump(mode="json", exclude_defaults=True))
            trial.set_user_attr("outcome", asdict(outcome))
            if not usable(outcome):
                raise optuna.TrialPruned
            return outcome.throughput, outcome.interactivity

        def stop(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            on_trial()
            if self.finished() >= trials:
                study.stop()

        patience = PATIENCE_S
        while patience > 0:
            if self.finished() < trials or self._count(TrialState.WAITING):
                self.study.optimize(objective, n_trials=None, n_jobs=threads, callbacks=[stop])
                patience = PATIENCE_S
            elif self._count(TrialState.RUNNING):
                # Another process finishes its trial, or was killed: then the trial is tried again here.
                time.sleep(WAIT_S)
                patience -= WAIT_S
                optuna.storages.fail_stale_trials(self.study)
            else:
                return

    def finished(self) -> int:
        """Trials of all processes that ended with a result."""
        return len(self.study.get_trials(deepcopy=False, states=DONE))

    def _count(self, state: TrialState) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(state,)))

    def learn(self, evaluator: Evaluator, concurrency: int) -> None:
        """Take over what other processes simulated."""
        for recipe, outcome, _ in self.results():
            evaluator.remember(recipe, concurrency, True, outcome)

    def results(self) -> Iterator[tuple[Recipe, Outcome, str]]:
        """Recipe, outcome and origin of every finished trial that was simulated."""
        for trial in self.study.get_trials(deepcopy=False, states=DONE):
            if "outcome" in trial.user_attrs:
                stored: Mapping[str, Any] = trial.user_attrs["outcome"]
                outcome = Outcome(
                    stored["metrics"], stored["limit"], tuple(stored["warnings"]), stored["infeasible"]
                )
                where = f"study {self.study.study_name}: trial {trial.number}"
                recipe = Recipe.parse(trial.user_attrs["recipe"], where)
                yield recipe, outcome, str(trial.user_attrs.get("origin", "search"))

    def _params(self, trial: optuna.Trial) -> dict[str, Any]:
        """The space, then the knobs of that space alone."""
        name = trial.suggest_categorical("space", tuple(self.spaces))
        found: dict[str, Any] = {"space": name}
        for knob, choices in self.spaces[name].knobs().items():
            found[f"{name}/{knob}"] = trial.suggest_categorical(f"{name}/{knob}", choices)
        return found
