from PyInstaller.utils.hooks import collect_submodules

# What the compiled modules import, and the daemon: it and its verbs are imported by their names.
hiddenimports = [*collect_submodules("wdkmutex_shm"), "wdkmutex_daemon.frozen", "wdkmutex_daemon.cli.app"]
