"""Says by its exit code whether what runs in this container is healthy: for HEALTHCHECK.

    python healthcheck.py http://127.0.0.1:8811/healthz

0: it answered that it is. 1: it did not; what it said is on standard output, where `docker inspect` shows it.
Needs nothing but Python, so that it stands alone in an image.
"""

import sys
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

#: Less than the time that HEALTHCHECK gives.
SECONDS = 4.0


def complaint(url: str, seconds: float = SECONDS) -> str:
    """What is wrong; empty: nothing is."""
    # Never through a proxy, whatever the environment says: it is this container that is asked.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(url, timeout=seconds):
            return ""
    except HTTPError as error:
        with error:
            return f"{url} answered {error.code}: {error.read(2_000).decode('utf-8', 'replace')}"
    except (OSError, HTTPException) as error:
        return f"{url} does not answer: {error}"


if __name__ == "__main__":
    said = complaint(sys.argv[1])
    sys.stdout.write(said)
    sys.exit(1 if said else 0)
