"""Record row changes with listeners on the application's sessions and engines. Imports neither triggers nor relay."""
