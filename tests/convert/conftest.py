from tests.worlds import drawn_world as drawn_world
