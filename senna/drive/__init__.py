"""A closed loop: a driver decides, its decision becomes motion, and the world goes on from there (`senna drive`)."""
