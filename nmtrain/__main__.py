"""``python -m nmtrain`` is the command ``nmtrain``."""

from nmtrain.cli import main

if __name__ == "__main__":
    main()
