from wdkmutex_daemon.frozen import divert

divert()
