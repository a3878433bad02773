"""Wrong arguments of commands that don't run Lightning."""

import pytest

from lightning_nas.__main__ import main


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["fti"], "'fti' is not a command. Did you mean fit?"),
        (["search"], "'search' is not a command. Expected one of pipeline, compare, report,"),
        (["pipeline"], "It lacks: --config. 'lightning-nas pipeline --help' describes the arguments."),
        (["pipeline", "--config"], "--config: expected one argument."),
        (["export", "--ckpt", "x"], "--ckpt is not an option of 'lightning-nas export'. Did you mean --ckpt_path?"),
        (["pipeline", "--confg", "x"], "--confg is not an option of 'lightning-nas pipeline'. Did you mean --config"),
        (["pipeline", "--data.root", "x"], "It lacks: --config."),
        (["export", "--ckpt_path", "x", "--format", "py"], "--format is not an option of 'lightning-nas export'. Did"),
        (["report"], "It lacks: run_dir."),
        (["report", "x", "--imprts=y"], "--imprts is not an option of 'lightning-nas report'. Did you mean --import?"),
        (["report", "x", "y"], "'y' is not an argument of 'lightning-nas report'. Leave it out"),
        (["table", "nas", "x"], "benchmark: invalid choice: 'nas'"),
        (["fit", "--forecast", "maybe"], "--forecast: invalid choice: 'maybe'"),
    ],
)
def test_what_is_wrong_is_said_without_a_page_of_usage(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert str(stopped.value).startswith("lightning-nas: ConfigError: ")
    assert said in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert capsys.readouterr().err == ""
