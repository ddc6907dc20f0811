.PHONY: quickstart test lint

# Everything from a drawn data set to an evaluated model, on a CPU
quickstart:
	sh scripts/quickstart.sh

# Environment, linters, contracts and all tests
test:
	sh scripts/test.sh

# The linters and contracts only, in the environment that `make test` creates
lint:
	sh scripts/test.sh --lint-only
