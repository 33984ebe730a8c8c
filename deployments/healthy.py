"""Exit 0 where an address answers 2xx: the health check of images that have Python and no curl."""

import sys
import urllib.request

if __name__ == "__main__":
    with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
        sys.exit(0 if 200 <= answer.status < 300 else 1)
