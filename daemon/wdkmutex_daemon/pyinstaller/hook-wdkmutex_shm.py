from PyInstaller.utils.hooks import collect_submodules

# What the compiled modules import, and the daemon, whose verbs are imported by their names.
hiddenimports = [*collect_submodules("wdkmutex_shm"), "wdkmutex_daemon.cli.app"]
