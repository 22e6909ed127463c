from ...frozen import divert

divert()
