"""nginx for the tests, as a proxy: that of this machine, or Debian's package, unpacked in the cache."""

import sys

from debian import DebianPrograms

ADVICE = "install Debian's package nginx, or another nginx 1.22 or newer in the PATH"
_PACKAGE = DebianPrograms("nginx", "nginx", needed_for="the server behind a proxy", advice=ADVICE)
find, missing = _PACKAGE.find, _PACKAGE.missing

if __name__ == "__main__":
    sys.exit(_PACKAGE.main())
