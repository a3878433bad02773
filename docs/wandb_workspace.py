"""Create a saved Weights & Biases workspace for the runs of a project, and declare the inputs of offline runs.

    python docs/wandb_workspace.py --entity E --project P

prints the address of the workspace. An offline run cannot declare its inputs; run after ``wandb sync``, this script
declares them, so that the lineage graph of the project leads from distillation to search to final training. It needs
``pip install wandb-workspaces``.
"""

import argparse
import sys
from typing import Any

STEP = "trainer/global_step"
"""The step metric of Lightning's logger."""


def line(title: str, *metrics: str, log: bool = False) -> Any:
    """Create a panel of curves."""
    from wandb_workspaces.reports.v2.interface import LinePlot

    return LinePlot(title=title, x=STEP, y=list(metrics), log_y=log)


def bars(title: str, *metrics: str) -> Any:
    """Create a panel with the last values of each run."""
    from wandb_workspaces.reports.v2.interface import BarPlot

    return BarPlot(title=title, metrics=list(metrics))


def pictures(title: str, key: str) -> Any:
    """Create a panel of pictures with a slider over the epochs."""
    from wandb_workspaces.reports.v2.interface import MediaBrowser

    return MediaBrowser(title=title, media_keys=[key], num_columns=1, gallery_axis="step")


def build(entity: str, project: str, cells: list[str]) -> Any:
    """Create the workspace without saving it.

    Args:
        entity: User or team.
        project: Project of the runs.
        cells: Cell types of the searched space.
    """
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.reports.v2.interface import RunComparer

    def section(name: str, panels: list[Any], columns: int, rows: int = 1) -> Any:
        layout = ws.SectionLayoutSettings(columns=columns, rows=rows)
        return ws.Section(name=name, panels=panels, is_open=True, layout_settings=layout)

    curves = [
        line("Loss: distillation, train half, final training", "train/loss", log=True),
        line("Accuracy: train half, final training", "train/accuracy"),
        line("Loss on the search half", "search/loss"),
        line("Entropy of the alphas", *(f"search/entropy_{cell}" for cell in cells)),
        line("Validation loss", "val/loss"),
        line("Validation accuracy", "val/accuracy"),
    ]
    errors = ("selection_errors/edges", "selection_errors/operations")
    return ws.Workspace(
        entity=entity,
        project=project,
        name="lightning_nas",
        sections=[
            section("Curves", curves, columns=3, rows=2),
            section("Cells that would be chosen", [pictures(f"{c} cell", f"cells/{c}") for c in cells], 1, len(cells)),
            section("Weights of the operations", [pictures(f"{c} cell", f"alphas/{c}") for c in cells], len(cells)),
            section("Proxy and real images", [pictures("proxy, real", "proxy/images")], columns=1),
            section(
                "Selection errors",
                [
                    bars("Rate of wrong decisions among the decided ones", *errors),
                    bars("Decided and undecided", *(f"{e}_{k}" for e in errors for k in ("decided", "undecided"))),
                ],
                columns=2,
            ),
            section("Comparison of runs", [bars("Test accuracy", "test/accuracy"), RunComparer(diff_only="split")], 2),
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(pinned_columns=["config:task.value", "config:command.value"]),
    )


def declare_inputs(api: Any, entity: str, project: str) -> list[str]:
    """Declare the inputs that offline runs have stored in their config.

    Args:
        api: ``wandb.Api()``.
        entity: User or team.
        project: Project of the runs.

    Returns:
        One line per input that had not been declared.
    """
    lines = []
    for run in api.runs(f"{entity}/{project}"):
        if "cli" not in run.config:  # not a run of this library
            continue
        declared = {artifact.digest for artifact in run.used_artifacts()}
        for name, described in run.config.get("inputs", {}).items():
            logged = f"{entity}/{project}/{name}:{described['digest']}"
            if described["digest"] in declared:
                continue
            if api.artifact_exists(logged, name):
                run.use_artifact(api.artifact(logged, name))
                lines.append(f"{run.id} used {logged}")
            else:
                lines.append(f"{run.id} used {described['files'][0]['path']}, which no run of the project has logged")
    return lines


def main() -> None:
    """Parse the command line, save the workspace and print its address."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", required=True, help="user or team")
    parser.add_argument("--project", default="lightning_nas")
    parser.add_argument("--cells", nargs="+", default=["normal", "reduce"], help="cell types (NAS-Bench-201: cell)")
    arguments = parser.parse_args()
    try:
        workspace = build(arguments.entity, arguments.project, arguments.cells)
    except ImportError as error:
        sys.exit(f"{error}. Install it: pip install wandb-workspaces")
    import wandb

    for text in declare_inputs(wandb.Api(), arguments.entity, arguments.project):
        print(text)
    print(workspace.save().url)


if __name__ == "__main__":
    main()
