#!/bin/sh
# A root file system with Python from the distribution's packages, for machines that reach no registry.
#   debian.sh FOLDER > base.tar        needs root and debootstrap; MOROCCO_MIRROR names another mirror
set -eu
debootstrap --variant=minbase --include=python3-minimal,libpython3-stdlib,ca-certificates \
  bookworm "$1" "${MOROCCO_MIRROR:-http://deb.debian.org/debian}" >&2
cd "$1"
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* usr/share/doc/* usr/share/man/* usr/share/locale/* usr/share/info/*
tar --create --sort=name --mtime=@0 --numeric-owner --one-file-system .
