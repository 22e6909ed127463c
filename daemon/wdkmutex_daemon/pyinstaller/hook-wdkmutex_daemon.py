from PyInstaller.utils.hooks import collect_data_files, collect_submodules

hiddenimports = [
    name for name in collect_submodules("wdkmutex_daemon") if not name.startswith("wdkmutex_daemon.pyinstaller")
]
datas = collect_data_files("wdkmutex_daemon", includes=["units/*"])
