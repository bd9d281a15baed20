#!/bin/sh
# valkey.sh FOLDER: puts a program redis-server into FOLDER/bin that is valkey-server: the one in PATH, or Debian's. Of the
# machine's own packages nothing is changed.
set -eu
folder=$1
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ ! -e "$folder/complete" ] || exit 0
mkdir -p "$folder/bin"
if server=$(command -v valkey-server); then
    ln -sf "$server" "$folder/bin/redis-server"
    touch "$folder/complete"
    exit 0
fi

# Debian 12 has it among the packages made for it later, at the mirror of all others.
. /etc/os-release
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME)' | awk -v of="$VERSION_CODENAME" '$2 == of { print $1; exit }')
key=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
echo "deb [signed-by=$key] $mirror $VERSION_CODENAME-backports main" >"$folder/sources.list"
own="-o Dir::Etc::SourceList=$folder/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$folder/lists"
own="$own -o Dir::Cache=$folder/cache -o APT::Sandbox::User=root"
cd "$folder"
# shellcheck disable=SC2086 # a list of words
apt-get $own --quiet=2 update
# shellcheck disable=SC2086
apt-get $own --quiet=2 download valkey-server valkey-tools
for package in ./*.deb; do
    dpkg-deb -x "$package" files
done
ln -sf "$folder/files/usr/bin/valkey-server" bin/redis-server
touch complete
