"""``cifarkit``, and ``python -m cifarkit``."""

import signal


def main() -> None:
    """`cifarkit.cli.main`; until that has been loaded, Ctrl-C ends the process without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is to be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cifarkit.cli import main as run

    run()


if __name__ == "__main__":
    main()
