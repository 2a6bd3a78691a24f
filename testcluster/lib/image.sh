#!/bin/bash
# image.sh DIR: small images with bash, coreutils, jp2a and the libraries they need, made from the
# root file system it runs in: DIR/jp2a.sif runs jp2a, DIR/sh.sif runs a shell, and DIR/jp2a.tar is what
# docker save writes of an image that runs jp2a.
set -euo pipefail
dir=$1
box=$(mktemp -d /var/tmp/box.XXXXXX)
chmod 755 "$box"

# add FILE: copies it to the same place, following the links of merged /usr.
add() {
    local to=$box$1
    [ ! -e "$to" ] || return 0
    mkdir -p "$(dirname "$to")"
    cp -L "$1" "$to"
}

mkdir -p "$box"/usr/{bin,sbin,lib,lib64} "$box"/{etc,proc,sys,dev,tmp,var/tmp,root,home,run,opt,mnt,srv}
chmod 1777 "$box/tmp" "$box/var/tmp"
for link in bin sbin lib lib64; do ln -s "usr/$link" "$box/$link"; done

programs=(/usr/bin/bash /usr/bin/jp2a)
mapfile -t -O 2 programs < <(dpkg -L coreutils | grep -E '^/(usr/)?s?bin/[^/]+$' | sed 's|^/bin|/usr/bin|')
for program in "${programs[@]}"; do
    if [ -L "$program" ]; then cp -P "$program" "$box$program"; else add "$program"; fi
    # ldd names libraries by their links in /lib; the closure is what it lists.
    while read -r library; do add "$library"; done < <(ldd "$program" 2>/dev/null | grep -oE '/[^ ]+' || true)
done
ln -s bash "$box/usr/bin/sh"

# jp2a asks terminfo for the terminal even when it writes a file.
for entry in /usr/share/terminfo/*/{dumb,linux,xterm} /lib/terminfo/*/{dumb,linux,xterm}; do
    [ ! -e "$entry" ] || add "$entry"
done
printf 'root:x:0:0:root:/root:/bin/bash\n' >"$box/etc/passwd"
printf 'root:x:0:\n' >"$box/etc/group"
printf 'PRETTY_NAME="sealbatch test image"\nID=debian\n' >"$box/etc/os-release"
: >"$box/etc/resolv.conf"
: >"$box/etc/hosts"
: >"$box/etc/localtime"

# As Docker has it: a layer, and a configuration that names it and is the image's name.
archive=$(mktemp -d /var/tmp/archive.XXXXXX)
digest() { sha256sum "$1" | cut -d' ' -f1; }
tar -C "$box" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1700000000 -cf "$archive/layer.tar" .
cat >"$archive/config" <<EOF
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "created": "2023-11-14T22:13:20Z",
 "config": {"Entrypoint": ["jp2a"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
  "Labels": {"org.opencontainers.image.title": "jp2a"}},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$(digest "$archive/layer.tar")"]}}
EOF
config=$(digest "$archive/config").json
mv "$archive/config" "$archive/$config"
printf '[{"Config": "%s", "RepoTags": ["talinx/jp2a:latest"], "Layers": ["layer.tar"]}]' "$config" >"$archive/manifest.json"
tar -C "$archive" -cf "$dir/jp2a.tar" manifest.json "$config" layer.tar
rm -rf "$archive"

mkdir "$box/.singularity.d"
for entry in jp2a sh; do
    printf '#!/bin/sh\nexec %s "$@"\n' "$entry" >"$box/.singularity.d/runscript"
    chmod 755 "$box/.singularity.d/runscript"
    apptainer --quiet build --force "$dir/$entry.sif" "$box"
done
rm -rf "$box"
