"""``python -m benchmark``."""

from benchmark.app import main

if __name__ == "__main__":
    main(prog_name="bench")
