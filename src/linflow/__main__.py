"""``python -m linflow``."""

from linflow.cli import main

if __name__ == "__main__":
    main()
