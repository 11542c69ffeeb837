"""`ftadvisor run`: trains what a plan says."""

from __future__ import annotations

import sys
from typing import Any

from ftadvisor.cli.aside import said_aside
from ftadvisor.cli.calibrated import own_calibration
from ftadvisor.cli.command import Argument, Command, Group, Option
from ftadvisor.cli.options import CALIBRATION, JSON, SETTINGS
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.values import number, text, whole
from ftadvisor.cli.wishes import FIXED
from ftadvisor.errors import FtadvisorError, InvalidSettingError

RUN = Group(
    "How it is run",
    (
        Option(
            "output_dir", text, "DIR",
            "Where everything goes; a new or an empty directory (default: MODEL-TECHNIQUE).",
            short="o", also=("output", "out", "save_dir"),
        ),
        Option(
            "num_processes", whole, "N",
            "Train in so many processes, one a GPU (default: the plan's num_gpus); the batch "
            "stays.",
            also=("nproc_per_node", "num_gpus_per_node"),
        ),
        Option("max_steps", whole, "N", "Stop after so many optimizer steps.", also=("steps",)),
        Option(
            "eval_dataset", text, "FILE",
            "What is evaluated on (default: the data's own other splits, else a share of it).",
            also=("eval_file", "validation_file"),
        ),
        Option(
            "eval_share", number, "X",
            "The share of the rows that is held out for it (default: 0.05, at most 200 rows).",
            also=("val_size", "test_size", "validation_split"),
        ),
        Option(
            "eval_answers", whole, "N",
            "Held-out prompts that are answered before and after training (default: 64; 0: none).",
        ),
        Option(
            "teacher_model", text, "MODEL",
            "Whom distillation follows: a directory or an id, of the student's vocabulary.",
            also=("teacher",),
        ),
        Option(
            "lmbda", number, "X",
            "The share of distillation's batches that the student answers itself; the data's own "
            "answers serve for the others (default: 1).",
        ),
        Option("eval_steps", whole, "N", "Evaluate every N steps, not only before and after."),
        Option(
            "save_steps", whole, "N",
            "A checkpoint every N steps; 0: none (default: a tenth of the run, 10 to 500 steps). "
            "The last two are kept.",
        ),
        Option(
            "resume", None, "",
            "Go on from the last checkpoint in --output-dir, exactly as if nothing had happened; "
            "the plan is the directory's where none is given.",
            also=("resume_from_checkpoint",),
        ),
        Option("progress", None, "", "Show on standard error how far it is (the default)."),
        Option(
            "reward_model", text, "DIR",
            "What scores answers (grpo, rloo): what a run with --objective reward left.",
            also=("reward",),
        ),
        Option(
            "reward_function", text, "MODULE:FUNCTION",
            "Instead of it a Python function, as TRL's trainers take; its module is executed.",
            also=("reward_func", "reward_funcs"),
        ),
        Option(
            "report_to", text, "NAME", "Reporters of Transformers' own: tensorboard, wandb ...",
            many=True,
        ),
        Option(
            "preview", None, "",
            "Show three examples as the model will see them, with what is learnt, and stop.",
        ),
        Option(
            "merge", None, "",
            "Write the adapter merged into its base too: DIR/merged is a whole model.",
            also=("merge_and_unload", "merge_adapter"),
        ),
        Option(
            "force", None, "",
            "Run what the checks refuse that may be wrong: another GPU, too little memory or disk.",
        ),
        Option("dry_run", None, "", "Check everything, say what would run, and stop."),
        Option(
            "print_command", None, "",
            "Write plan.yaml and accelerate.yaml into the output directory, and print the command "
            "that runs them.",
        ),
    ),
)  # fmt: skip


def run(given: dict[str, Any]) -> int:
    """Train and print the report; 0 when it is done, else 1."""
    from ftadvisor import api
    from ftadvisor.api.calibrating import load_calibration
    from ftadvisor.render.run import ending, run_document

    as_json, own = given.pop("json", False), given.pop("calibration", True)
    if given.pop("preview", False):
        # It stops as early.
        given.pop("dry_run", None)
        if given.pop("print_command", False):
            raise InvalidSettingError("preview and print_command each stop.", ["one of them"])
        return _preview(given, as_json)
    if own:
        # Of several processes one says what is wrong with it.
        given["calibration"] = own_calibration() if api.speaks() else load_calibration()
    only_command = given.pop("print_command", False)
    if given.pop("dry_run", False) or only_command:
        return _rehearse(given, only_command, as_json)
    try:
        with said_aside():
            report = api.run(**given)
    except FtadvisorError as error:
        if not api.hand_over(error):
            raise
        return 2
    broken = report.status in ("failed", "out_of_memory")
    if not api.speaks():
        # The other processes may wait for this one: torchrun ends them when it fails.
        said = FtadvisorError(ending(report))
        return int(broken and api.hand_over(said, report.status))
    print_answer(report, lambda: run_document(report), as_json=as_json)
    if report.status != "done":
        print(f"ftadvisor: {ending(report)}", file=sys.stderr)
    return 0 if report.status == "done" else 1


def _preview(given: dict[str, Any], as_json: bool) -> int:
    from ftadvisor import api
    from ftadvisor.render.preview import preview_document

    with said_aside():
        shown = api.preview(**given)
    print_answer(shown, lambda: preview_document(shown), as_json=as_json)
    return 0


def _rehearse(given: dict[str, Any], only_command: bool, as_json: bool) -> int:
    """`--dry-run`, or `--print-command`."""
    from ftadvisor import api
    from ftadvisor.render.run import rehearsal_document

    with said_aside():
        found = api.rehearse(**given, write=only_command)
    if only_command and not as_json:
        print(found.command)
    else:
        print_answer(found, lambda: rehearsal_document(found), as_json=as_json)
    return 0


COMMAND = Command(
    name="run",
    summary="Train: what a plan says, or what the options say. Needs pip install 'ftadvisor[run]'.",
    usage="run [PLAN.yaml] [--model MODEL --technique T --dataset FILE] [--output-dir DIR] "
    "[options]",
    arguments=(
        Argument(
            "plan",
            "PLAN.yaml",
            "A plan that `ftadvisor recommend --output` wrote, or one written by hand: model, "
            "technique, dataset.",
        ),
    ),
    groups=(RUN, *SETTINGS, FIXED, Group("Output", (CALIBRATION, JSON))),
    examples=(
        ("ftadvisor run plan.yaml --output-dir out", "train what was recommended"),
        (
            "ftadvisor run --model qwen3-0.6b --technique lora --dataset train.jsonl "
            "--max-steps 50 --output-dir out",
            "both in one go",
        ),
    ),
    run=run,
    details="Transformers, PEFT, TRL and bitsandbytes train; ftadvisor maps the plan to their own "
    "objects. Everything that can be checked is checked before anything expensive starts. The "
    "directory then holds plan.yaml, report.json, report.html, log.jsonl, a model card and the "
    "adapter or the model with its tokenizer.\n\nThe exit code is 0 when the run is done, 1 when "
    "it ended before its last step, 2 when it cannot be run.\n\nWhat ends a run too early loses "
    "nothing: checkpoints are whole or not there, Ctrl-C writes one, and --resume goes on with the "
    "same losses as if nothing had happened. Where memory runs out the same batch is learnt in "
    "smaller pieces.",
)
