"""The commands of the documents, and which test runs each of them."""

from __future__ import annotations

import re

from tests.helpers import docs
from tests.helpers.docs import Command

COMMANDS = docs.all_commands()
HARNESS = [command for command in COMMANDS if command.harness is not None]
TYPED = [command for command in COMMANDS if not command.synopsis and not command.mention]

# What reads runs and nothing else: run by `test_commands.py`. All else: `test_commands_slow.py`.
READING = {"show", "compare", "list", "report", "explain", "history"}

# What cannot be run here: why, and what covers it as far as it can be.
ELSEWHERE = {
    "python3 -m venv .venv": ("makes the environment", ".ci/run"),
    ".venv/bin/pip install -c constraints.txt *": ("downloads everything, for minutes", ".ci/run"),
    ".venv/bin/python -m pytest": ("is the suite that this is part of", ".ci/run"),
    "python -m pytest -m slow": (
        "is the suite that this is part of",
        "tests/docs/test_commands_slow.py",
    ),
    "python -m pytest -m slow tests/*": (
        "is in the suite",
        "tests/dispatch/test_cluster_ssh.py",
    ),
    "source .venv/bin/activate": ("is for the shell that it is typed in", ".ci/run"),
    "export *": ("is for the shell that it is typed in", "tests/dispatch/test_cluster_ssh.py"),
    "eval *": ("is for the shell that it is typed in", "tests/cli/test_completion.py"),
    "ray up cluster.yaml": ("needs hosts with SSH", "tests/dispatch/test_cluster_ssh.py"),
    "ray exec cluster.yaml *": ("needs hosts with SSH", "tests/dispatch/test_cluster_ssh.py"),
    "ray dashboard cluster.yaml": ("needs hosts with SSH", "tests/dispatch/test_cluster_ssh.py"),
    "ray down cluster.yaml": ("needs hosts with SSH", "tests/dispatch/test_cluster_ssh.py"),
    "ray up deploy/aws.yaml": ("rents machines", "tests/dispatch/test_deploy.py"),
    "ray down deploy/aws.yaml": ("rents machines", "tests/dispatch/test_deploy.py"),
    "ray up": ("speaks of a program", "tests/dispatch/test_cluster_ssh.py"),
    "ray start": ("speaks of a program", "tests/submit/test_submit.py"),
    "ray start --node-name": ("speaks of an option", "tests/dispatch/test_cluster_ssh.py"),
    "ray dashboard": ("speaks of a program", "tests/dispatch/test_cluster_ssh.py"),
    "ray job stop": ("speaks of a program", "tests/submit/test_submit.py"),
    "ray job submit": ("speaks of a program", "tests/docs/test_commands_slow.py"),
    "ray stop": ("ends every Ray of this account", "tests/dispatch/test_cluster_ssh.py"),
    "pip install harness*": ("downloads packages", "tests/report/test_mlflow.py"),
    "pip install pre-commit": ("downloads packages", ".ci/run"),
    "pip install boto3": ("is for AWS alone", "tests/dispatch/test_deploy.py"),
    "python -m benchmarks.peer_race": ("needs another program, benchopt", ".ci/run"),
    "docker *": ("needs Docker", "tests/dispatch/test_deploy.py"),
    "kubectl *": ("needs Kubernetes", "tests/dispatch/test_deploy.py"),
    "ssh-keygen *": ("needs hosts with SSH", "tests/dispatch/test_cluster_ssh.py"),
    "ssh-copy-id *": ("needs hosts with SSH", "tests/dispatch/test_cluster_ssh.py"),
    "ssh -*": ("needs hosts with SSH", "tests/dispatch/test_cluster_ssh.py"),
    "rm -rf ~/harness-node *": ("needs hosts with SSH", "tests/dispatch/test_cluster_ssh.py"),
    "apt install *": ("changes the system", "tests/dispatch/test_cluster_ssh.py"),
    "ufw *": ("changes the firewall", "tests/dispatch/test_deploy.py"),
    "chmod 600": ("speaks of a mode", "tests/dispatch/test_cluster_ssh.py"),
    "chmod a+r /sys/class/powercap/*": ("changes the system", "tests/measure/test_energy.py"),
}


def excused(command: Command) -> bool:
    return any(command.matches(pattern) for pattern in ELSEWHERE)


def is_fast(command: Command) -> bool:
    words = command.harness or ()
    return bool(words) and words[0] in READING and "://" not in command.text


RUN_HERE = [command for command in TYPED if is_fast(command) and not excused(command)]


def name(command: Command) -> str:
    return re.sub(r"[^\w.=,/:-]+", " ", command.text)
