"""The command line."""

import signal


def main() -> None:
    """The program `skep`. An interrupt while its code is loaded ends it without a word: nothing has been done yet."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from skep.cli.app import main  # noqa: PLC0415  what takes its time

    main()
