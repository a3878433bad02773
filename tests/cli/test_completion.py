"""The completion scripts of the shells know every command, option, configuration and component."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from lightning_nas.__main__ import COMMANDS, main, parsers
from lightning_nas.cli.arguments import options
from lightning_nas.cli.completion import script
from lightning_nas.cli.config_files import shipped_names

LINES = {
    "con": {"configs"},
    "pipeline --config pipeline/cifar10_c": {"pipeline/cifar10_cpu"},
    "compare --config compare/digi": {"compare/digits"},
    "fit --config search/darts_sec": {"search/darts_second_order"},
    "fit --config own": {"own.yaml"},
    "test --trainer.accu": {"--trainer.accumulate_grad_batches"},
    "fit --model Bi": {"BilevelTask"},
    "fit --config own.yaml --model.space NASBench2": {"NASBench201Space"},
    "fit --config own.yaml --model.space.part": {"--model.space.partial_channels"},
    "predict --data.bat": {"--data.batch_size"},
    "table nasbench1": {"nasbench101"},
    "table nasbench101 ow": {"own.yaml"},
    "completion z": {"zsh"},
    "configs --c": {"--copy"},
    "configs pipeline/cifar10_": {"pipeline/cifar10_cpu"},
}
"""What is typed, and what it may become."""

ANSWER = 'COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_lightning_nas; echo "${{COMPREPLY[*]}}"'


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    return {shell: script(shell, parsers()) for shell in ("bash", "zsh")}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_script_has_every_command_with_its_options_and_is_small(shell: str, scripts: dict[str, str]) -> None:
    text = scripts[shell]
    assert 50_000 < len(text) < 2_000_000
    lightning = {"fit", "validate", "test", "predict", "forecast"}
    assert set(parsers()) | lightning == set(COMMANDS)
    for command in COMMANDS:
        known = options(parsers()[command]) if command in parsers() else ["--model.space", "--data.batch_size"]
        place = text.index(f"_shtab_lightning_nas_{command}_option")
        assert [name for name in known if name not in text[place : place + 60_000]] == [], command
    assert [name for name in shipped_names() if name not in text] == []


def test_bash_completes_what_is_typed(scripts: dict[str, str], tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    Path("own.yaml").touch()
    lines = [scripts["bash"], *(ANSWER.format(line=f"lightning-nas {line}") for line in LINES)]
    Path("complete.sh").write_text("\n".join(lines))
    output = subprocess.run([bash, "--norc", "complete.sh"], check=True, capture_output=True, text=True)
    assert output.stderr == ""
    answers = [set(shlex.split(line)) for line in output.stdout.splitlines()]
    assert dict(zip(LINES, answers, strict=True)) == LINES


def test_zsh_reads_its_script(scripts: dict[str, str], tmp_path: Path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    (tmp_path / "_lightning-nas").write_text(scripts["zsh"])
    code = "fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u; autoload +X _lightning-nas; _lightning-nas"
    output = subprocess.run([zsh, "-f", "-c", code], check=False, capture_output=True, text=True)
    # outside of a completion, the script gets as far as asking for one
    assert "can only be called from completion function" in output.stderr
    assert "parse error" not in output.stderr


def test_the_command_prints_the_script(scripts: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    assert capsys.readouterr().out.rstrip() == scripts["bash"].rstrip()


def test_another_shell_is_refused() -> None:
    with pytest.raises(SystemExit, match="invalid choice: 'tcsh'"):
        main(["completion", "tcsh"])
