# SPDX-License-Identifier: Apache-2.0
"""Entry point of `sluice` and `python -m sluicefs`: hide secrets, parse, run, turn errors into one line and exit 1.

Exit codes (cli §1.3): 0 success; 1 any error, wrong usage too; 130 interrupted. Commands may return others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if args is None else args)
    from sluicefs.privacy import conceal

    conceal(arguments)
    code = run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line; the exit code. Raises nothing unless --debug is given and the error is a surprise."""
    import click

    from core.errors import SluiceError
    from sluicefs.cli import cli
    from sluicefs.output import report_error, settings

    settings.reset()
    try:
        result = cli.main(arguments, prog_name="sluice", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0 if not arguments else 1
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "sluice"
        message = error.format_message().rstrip(".")
        return report_error(f"{message}; `{path} --help` shows what is possible", error)
    except click.ClickException as error:
        return report_error(error.format_message(), error)
    except click.Abort:
        click.echo("Aborted.", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except (SluiceError, OSError) as error:
        return report_error(describe(error), error)
    except Exception as error:
        hint = "" if settings.debug else "; run again with --debug and report it"
        return report_error(f"unexpected {type(error).__name__}: {error}{hint}", error)
    return result if isinstance(result, int) else 0


def describe(error: BaseException) -> str:
    """The message of an error without the "[Errno 2]" that Python puts in front."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{' -> '.join(names)}: {error.strerror}" if names else str(error.strerror)
    return str(error) or type(error).__name__


if __name__ == "__main__":
    main()
