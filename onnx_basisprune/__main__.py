"""`python -m onnx_basisprune` is the command `basisprune`."""

from onnx_basisprune.cli.main import main

if __name__ == "__main__":
    main()
