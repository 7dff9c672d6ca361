from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cifarkit.console import Terminal
from cifarkit.data.datasets import DATASETS
from cifarkit.data.loading import Splits
from cifarkit.errors import OtherVersion, UsageError
from cifarkit.recipes import RECIPES, Plan
from cifarkit.sessions.fit import prepare
from cifarkit.sessions.request import FitRequest, Job, recorded
from cifarkit.training.data import Data
from cifarkit.training.hardware import Hardware


@pytest.fixture(scope="module")
def request_() -> FitRequest:
    return FitRequest(
        source=DATASETS["digits"],
        plan=Plan(RECIPES["fast"].override(model="small-cnn"), seed=7, target_acc=0.9, workers=2),
        data_dir=Path("unused"),
        val_size=100,
        own_batch_size=False,
        gpus=None,
        nodes=1,
        experiment="trial",
        run_name=None,
        tracking_uri=None,
    )


@pytest.fixture(scope="module")
def job(request_: FitRequest) -> Job:
    data, hardware = Data.of(request_.source, request_.read()), Hardware("cpu", 1, 1, "bf16")
    return Job(request_.on(hardware), data, hardware)


def test_a_plan_brings_the_training_back(request_: FitRequest, job: Job) -> None:
    """In its own precision, which `auto` would choose anew on another machine."""
    other = replace(request_, source=DATASETS["mnist"], plan=Plan(RECIPES["digits"]), val_size=0)
    again = other.as_recorded(json.loads(json.dumps(job.request.record())))
    assert (request_.plan.recipe.precision, again.plan.recipe.precision) == ("auto", "bf16")
    assert again.plan.settings() == job.plan.settings()
    assert (again.source, again.val_size) == (request_.source, 100)
    assert again.on(job.hardware) == again


def test_a_run_of_another_version_is_said_to_be_that(job: Job) -> None:
    def run(training: Any) -> Any:
        tags = {"cifarkit.plan": json.dumps(training)}
        return SimpleNamespace(data=SimpleNamespace(tags=tags), info=SimpleNamespace(run_id="abcdef123456"))

    assert recorded(run(job.request.record())) == json.loads(json.dumps(job.request.record()))
    for other in (job.request.record() | {"format": 5}, {"dataset": "digits", "settings": {}}):
        with pytest.raises(OtherVersion, match="run abcdef12 was begun by another version of cifarkit"):
            recorded(run(other))


def test_a_batch_is_shared_by_the_devices(request_: FitRequest) -> None:
    three = Hardware("cuda", 3, 1, "bf16")
    assert (request_.plan.recipe.batch_size, request_.on(three).plan.recipe.batch_size) == (500, 498)
    with pytest.raises(UsageError, match="3 devices cannot share batches of 500"):
        replace(request_, own_batch_size=True).on(three)


def test_a_run_tells_its_images_and_its_plan(request_: FitRequest, job: Job) -> None:
    tags = job.tags()
    assert json.loads(tags["cifarkit.plan"]) == job.request.record()
    told = tags["dataset.fingerprint"], tags["dataset.val_fingerprint"]
    assert told == (job.data.train.fingerprint, job.data.val.fingerprint)
    others = replace(request_, plan=replace(request_.plan, seed=8)).read()
    assert len({*told, others.train.fingerprint, others.val.fingerprint}) == 4


def test_a_run_records_every_setting_of_its_recipe(job: Job) -> None:
    params = job.params()
    settings = job.plan.settings()
    assert {key: params[key] for key in settings} == settings
    assert (params["device"], params["world_size"], params["seed"]) == ("cpu", 1, 7)
    assert params["train_images"] + params["val_images"] == len(job.data.train) + 100


def test_a_job_says_on_what_it_is_validated(job: Job) -> None:
    assert job.describe().endswith("validating on 100 of the training split, held out")
    sampled = job.with_plan(job.plan.with_recipe(val_sample=40))
    assert sampled.describe().endswith("held out (50 of them before the last epoch)")


def test_images_that_make_no_batch_are_refused_before_a_run_is_opened(request_: FitRequest, job: Job) -> None:
    few = Splits(job.data.train.take(range(499)), job.data.val)
    with pytest.raises(UsageError, match="a batch of 500 is larger than the 349 of 499"):
        prepare(request_, job.hardware, Terminal(quiet=True), few, None)


@pytest.mark.parametrize(
    ("started", "words"),
    [
        ("/usr/bin/cifarkit", ["cifarkit"]),
        ("/usr/lib/python3/site-packages/cifarkit/__main__.py", ["cifarkit"]),
        ("mine.py", ["python", "mine.py"]),
    ],
)
def test_what_adds_to_the_tables_is_needed_to_go_on(
    started: str, words: list[str], request_: FitRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [started, "fit"])
    assert shlex.split(request_.resuming("abc"))[: len(words) + 3] == [*words, "fit", "--resume", "abc"]
