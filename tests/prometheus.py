"""Prometheus and promtool for the tests: those of this machine, or Debian's package, unpacked in the cache."""

import sys

from debian import DebianPrograms

ADVICE = "install Debian's package prometheus, or another Prometheus 2.42 or newer with promtool in the PATH"
_PACKAGE = DebianPrograms("prometheus", "promtool", "prometheus", needed_for="the alerts", advice=ADVICE)
find, missing = _PACKAGE.find, _PACKAGE.missing

if __name__ == "__main__":
    sys.exit(_PACKAGE.main())
