"""``python -m proof``."""

from .app import main

if __name__ == "__main__":
    main()
