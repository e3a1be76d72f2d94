"""The demo: the whole chain, from an empty repository to light curves in a TOM, through Airflow."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tololo.facility.run import write_json
from tololo.services import facility
from tololo.services.airflow_client import ENDED, AirflowClient
from tololo.services.demo_plan import DemoPlan, plan_data, simulate
from tololo.services.home import Home

DAGS = ["repo_bootstrap", "nightly_decam", "template_coadds", "difference_imaging", "photometry_to_tom"]


def main(argv: Sequence[str]) -> int:
    """Run the demo and return its exit status: 0 only if every stage succeeded."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--data", default="", help="folder of raws or InstCal files; without it raws are simulated"
    )
    parser.add_argument(
        "--refcat", default="", help="folder of reference stars; default: gaia beside the data"
    )
    arguments = parser.parse_args(argv)
    home = Home.from_environment()
    demo = Demo(home)
    succeeded = demo.run(arguments.data, arguments.refcat)
    return 0 if succeeded else 1


@dataclass
class Stage:
    """One run of a DAG that the demo waits for."""

    dag_id: str
    night: str | None
    params: dict[str, Any]
    run_id: str = ""
    state: str = "queued"
    began: float = 0.0
    seconds: float = 0.0
    shown: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """How the stage is called on the screen."""
        return f"{self.dag_id} {self.night}" if self.night else self.dag_id


class Demo:
    """One call of the demo.

    Parameters
    ----------
    home : `Home`
        Where the facility keeps its state.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.began = time.monotonic()
        self.stages: list[Stage] = []

    def run(self, data: str, refcat: str) -> bool:
        """Do all stages, write the summary, print the tables; return whether every stage succeeded."""
        plan = plan_data(Path(data), refcat) if data else simulate(self.home.root / "simulation")
        self._say(plan.description)
        self._say("Starting PostgreSQL, Airflow and the TOM")
        running = facility.up(self.home)
        self.client = AirflowClient(running.airflow.url, running.airflow.token)
        self._say(f"The web UI is at {running.airflow.url} (user {running.airflow.user})")
        self.client.wait_for_dags(DAGS)
        succeeded = True
        for stages in _stages(plan):
            succeeded &= self._run_together(stages)
            # One night that fails does not take the others along.
            if all(stage.state == "failed" for stage in stages):
                break
        from tololo.services.tally import count_differences, summary

        figures = summary(self.home, running, plan)
        if succeeded and not count_differences(self.home, plan):
            succeeded = False
            self._say("No difference image was made; the reasons stand above")
        figures["seconds"] = round(time.monotonic() - self.began, 1)
        figures["dag_runs"] = [
            {
                "dag_id": stage.dag_id,
                "run_id": stage.run_id,
                "night": stage.night,
                "state": stage.state,
                "seconds": stage.seconds,
            }
            for stage in self.stages
        ]
        path = self.home.folder("demo") / "summary.json"
        write_json(path, figures)
        self._report(figures, running, path, succeeded)
        return succeeded

    def _say(self, text: str) -> None:
        elapsed = time.monotonic() - self.began
        print(f"[{int(elapsed // 60):3d}:{int(elapsed % 60):02d}] {text}", flush=True)

    def _run_together(self, stages: list[Stage], at_once: int = 2) -> bool:
        """Run stages that do not depend on each other, some at a time; return whether all succeeded."""
        waiting, active = list(stages), list[Stage]()
        self.stages += stages
        while waiting or active:
            while waiting and len(active) < at_once:
                stage = waiting.pop(0)
                stage.began = time.monotonic()
                stage.run_id = self.client.trigger(stage.dag_id, stage.params)
                self._say(f"{stage.title}: started")
                active.append(stage)
            for stage in list(active):
                if self._follow(stage):
                    active.remove(stage)
            time.sleep(1)
        return all(stage.state == "success" for stage in stages)

    def _follow(self, stage: Stage) -> bool:
        """Show what is new of a run; return whether it has ended."""
        run = self.client.run(stage.dag_id, stage.run_id)
        tasks = self.client.tasks(stage.dag_id, stage.run_id)
        for task in tasks:
            name, state = _name(task), task["state"] or "scheduled"
            line = state
            if state in ("running", "skipped") and task["map_index"] < 0:
                progress = self.client.progress(stage.dag_id, stage.run_id, name)
                line = f"{state}, {progress}" if progress else state
            if line != stage.shown.get(name) and state not in ("scheduled", "queued", "none"):
                self._say(f"{stage.title} / {name}: {line}")
                stage.shown[name] = line
        if run["state"] not in ENDED:
            return False
        stage.state, stage.seconds = run["state"], round(time.monotonic() - stage.began, 1)
        if stage.state == "failed":
            for task in tasks:
                if task["state"] == "failed":
                    why = self.client.last_lines(
                        stage.dag_id, stage.run_id, task["task_id"], task["try_number"], task["map_index"]
                    )
                    self._say(f"{stage.title} / {_name(task)} failed: {why}")
        self._say(f"{stage.title}: {stage.state} after {stage.seconds:.0f} s")
        return True

    def _report(
        self, figures: dict[str, Any], running: facility.Facility, path: Path, succeeded: bool
    ) -> None:
        rows = [
            ("visits", figures["visits"]),
            ("calibrated detectors", figures["detectors"]),
            ("templates", figures["templates"]),
            ("difference images", figures["difference_images"]),
            ("sources on them", figures["dia_sources"]),
            *((f"APDB {name}", count) for name, count in figures["apdb"].items()),
            ("TOM targets", figures["tom"]["targets"]),
            ("TOM points", figures["tom"]["points"]),
        ]
        if figures["planted"] is not None:
            rows += [
                ("transients planted", figures["planted"]),
                ("  recovered", figures["recovered"]),
                ("false positives", figures["false_positives"]),
            ]
        if made := figures["datasets"]:
            rows += [
                ("datasets reduced", made["reduced"]),
                ("  points of their targets", made["points"]),
                ("  bias (mmag)", made["bias_mmag"]),
            ]
        print("\n" + "\n".join(f"  {name:24} {value:>8}" for name, value in rows))
        web, tom = running.airflow, running.tom
        verdict = "Every stage succeeded" if succeeded else "A STAGE FAILED"
        print(
            f"\n{verdict} after {figures['seconds']:.0f} s. Figures: {path}\n"
            f"  Web UI  {web.url}  user {web.user}  password {web.password}\n"
            f"  TOM     {tom.url}  user {tom.user}  password {tom.password}\n"
            "Both stay up until `make stop`.",
            flush=True,
        )


def _name(task: dict[str, Any]) -> str:
    """Return the name of a task, of a mapped one with that of its instance."""
    index = task["map_index"]
    return str(task["task_id"]) if index < 0 else f"{task['task_id']} {task['rendered_map_index'] or index}"


def _stages(plan: DemoPlan) -> list[list[Stage]]:
    """Return the runs of the demo: groups that follow each other, of runs that may go on together."""
    template = {"coadd_subset": plan.subset, "template_type": plan.template_type}
    last = plan.science_nights[-1]
    publications: list[dict[str, Any]] = [{"selection": plan.n_targets}]
    if plan.targets:
        publications.append({"source": "visits", "targets": plan.targets})
    if plan.datasets:
        publications.append({"source": "datasets", "manager": str(plan.datasets)})
    return [
        [
            Stage(
                "repo_bootstrap",
                None,
                {"refcats": str(plan.refcat), "calibrations": plan.calibrations or None},
            )
        ],
        *(
            [
                Stage(
                    "nightly_decam",
                    night,
                    {"night": night, "data": str(plan.folder), "source": plan.source},
                )
                for night in nights
            ]
            for nights in plan.rounds
        ),
        [
            Stage(
                "template_coadds",
                None,
                {**template, "nights": ", ".join(plan.template_nights), "where": plan.template_where},
            )
        ],
        # The APDB takes nights in time order: one after the other.
        *(
            [
                Stage(
                    "difference_imaging",
                    night,
                    {
                        **template,
                        "night": night,
                        "proc_type": plan.proc_type,
                        "where": plan.science_where,
                        # A folder with one more night makes another version of the template.
                        "apdb_templates": "use",
                    },
                )
            ]
            for night in plan.science_nights
        ),
        [Stage("photometry_to_tom", last, {**template, "night": last, **params}) for params in publications],
    ]
