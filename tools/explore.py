#!/usr/bin/env python
import sys

from detr_d2.cli.explore import main

if __name__ == "__main__":
    sys.exit(main())
