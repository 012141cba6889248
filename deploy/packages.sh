# Sourced by setup.sh and drivers.sh: the machine's package manager, as root, by sudo, or not at all.

manager() {
  for candidate in apt-get dnf yum brew; do
    if command -v "$candidate" >/dev/null 2>&1; then echo "$candidate"; return; fi
  done
}

# What must stand before a command that changes the system; "no" when it may not be changed.
privilege() {
  if [ "$(manager)" = brew ] || [ "$(id -u)" = 0 ]; then echo ""; return; fi
  if command -v sudo >/dev/null 2>&1; then
    if sudo -n true 2>/dev/null; then echo "sudo -n"; return; fi
    if [ -t 0 ] && [ -t 1 ]; then echo "sudo"; return; fi
  fi
  echo no
}

# install PACKAGE...: installs, or prints the command that would and fails.
install() {
  local manager privilege
  manager=$(manager)
  privilege=$(privilege)
  if [ -z "$manager" ]; then
    echo "no package manager found; please install: $*" >&2
    return 1
  fi
  if [ "$privilege" = no ]; then
    echo "missing: $*. Please run: sudo $manager install -y $*" >&2
    return 1
  fi
  echo "installing: $*"
  case $manager in
    apt-get)
      # Lists of an image may be empty or old.
      $privilege env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null 2>&1 && return
      $privilege apt-get update -qq </dev/null &&
        $privilege env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null
      ;;
    brew) brew install --quiet "$@" </dev/null ;;
    *) $privilege "$manager" install -q -y "$@" </dev/null ;;
  esac
}
