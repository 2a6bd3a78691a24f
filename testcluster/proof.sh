#!/bin/bash
# First proof that everything subtle holds together, with no code of sealbatch's own: a two-node job
# of alice's in /scratch/project_1 (root:project_1 2770) in which a container writes through a
# gocryptfs mount in a private user and mount namespace. It brings the cluster up if need be, leaves
# it up, and says what it saw.
set -euo pipefail
HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
REPO=$(dirname "$HERE")
cluster() { "$HERE/cluster" "$@"; }

fail() {
    printf 'proof: FAILED: %s\n' "$*" >&2
    exit 1
}
ok() { printf 'proof: %s\n' "$*"; }

[ -x "$REPO/bin/gocryptfs" ] || (cd "$REPO/tools/gocryptfs" && CGO_ENABLED=0 go build -tags without_openssl -o ../../bin/gocryptfs github.com/rfjakob/gocryptfs/v2)
cluster up

on_laptop() { cluster exec laptop -u alice -- "$@"; }
ssh_login() { on_laptop ssh -o BatchMode=yes login "$@"; }

work=/scratch/project_1/proof-$$
mine=$(mktemp -d)
touch "$mine/began"
cleanup() {
    umount "$mine/plain" 2>/dev/null || true
    rm -rf --one-file-system "$mine"
    ssh_login rm -rf "$work"
    on_laptop rm -f "proof-$$.key" "proof-$$.age"
}
trap cleanup EXIT

# The researcher's side: a key to recover outputs with, and the files on scratch.
on_laptop age-keygen -o "proof-$$.key" 2>/dev/null
recipient=$(on_laptop age-keygen -y "proof-$$.key")
ssh_login mkdir -m 700 "$work"
on_laptop scp -q /opt/sealbatch/bin/gocryptfs /opt/sealbatch/images/jp2a.sif /opt/sealbatch/images/image.png "login:$work/"
[ "$(ssh_login stat -c %G "$work")" = project_1 ] || fail "$work did not inherit its group, so it proves nothing about setgid directories"

# On every node. The master key and a canary, the plaintext to search for afterwards, are made here and
# leave only encrypted or on a pipe; printf is a builtin, so its arguments are in no process list.
ssh_login sh -c "'cat >$work/node.sh'" <<'EOF'
set -euo pipefail
umask 077
work=$1 recipient=$2
out=$work/$(hostname)
mkdir "$out" "$out/cipher"
# The directory's group is not mapped in the namespace, so the cipher directory takes one that is.
chgrp "$(id -g)" "$out/cipher"
chmod g-s "$out/cipher"
head -c 16 /dev/urandom >"$out/cipher/gocryptfs.diriv"
chmod 440 "$out/cipher/gocryptfs.diriv"
key=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
canary=canary-$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')
printf '%s\n' "$key" "$canary" | age -r "$recipient" -o "$out/secrets.age"
printf '%s\n' "$key" "$canary" | unshare -U --map-current-user --keep-caps -m -p -f --kill-child --mount-proc bash "$work/inside.sh" "$work" "$out"
EOF

# In the namespace; the secrets are on standard input.
ssh_login sh -c "'cat >$work/inside.sh'" <<'EOF'
set -euo pipefail
work=$1 out=$2
ulimit -c 0
mount -t tmpfs -o mode=0700,size=1m tmpfs /mnt
mkdir /mnt/out
read -r key
read -r canary
printf '%s\n' "$key" | "$work/gocryptfs" -q -nosyslog -masterkey=stdin "$out/cipher" /mnt/out 2>/dev/null
# A FUSE root is uid 0, unmapped, until its attributes are first read.
[ "$(stat -c %u /mnt/out)" = "$(id -u)" ]
mount -o remount,ro,bind /mnt
printf '%s\n' "$canary" | APPTAINER_TMPDIR=/proc apptainer -q exec --containall --no-home --pwd /sd-container/output \
    --bind /mnt/out:/sd-container/output --bind "$work/image.png:/image.png" "$work/jp2a.sif" \
    sh -c 'cat >/sd-container/output/note && id -u >/sd-container/output/uid && jp2a --width=78 --output=/sd-container/output/result /image.png'
umount /mnt/out
if echo lost 2>/dev/null >/mnt/out/after; then
    echo "a write after the mount went landed beneath it"
    exit 99
fi
echo "done on $(hostname)"
EOF

ssh_login sbatch --parsable --wait >"$mine/job" <<EOF || fail "the job failed: $(ssh_login cat "$work/log")"
#!/bin/bash
#SBATCH --job-name=proof --nodes=2 --ntasks-per-node=1 --time=2 --export=NONE --no-requeue
#SBATCH --output=$work/log
unset SLURM_EXPORT_ENV
exec srun --overlap --export=ALL --kill-on-bad-exit=1 -l bash $work/node.sh $work $recipient
EOF
job=$(cat "$mine/job")
ok "job $job ran on two nodes: $(ssh_login sort "$work/log" | paste -sd ';')"

# hunt STRING: files written since the beginning that hold it, on every host and on what they share.
places=()
for host in laptop login cn1 cn2 keys; do
    for place in / /tmp /dev/shm /run; do places+=("$(cluster path "$host" "$place")/"); done
done
for place in /home /scratch; do places+=("$(cluster path login "$place")/"); done
hunt() {
    printf '%s\n' "$1" >"$mine/pattern"
    find "${places[@]}" -xdev -type f -newer "$mine/began" -exec grep -lFf "$mine/pattern" {} + 2>/dev/null || true
}

mkdir "$mine/plain"
for node in cn1 cn2; do
    from=$(cluster path login "$work/$node")
    on_laptop scp -q "login:$work/$node/secrets.age" "proof-$$.age"
    { read -r key && read -r canary; } < <(on_laptop age -d -i "proof-$$.key" "proof-$$.age")

    # Opened here with the gocryptfs 2.3 of Debian 12.
    printf '%s\n' "$key" | "$(cluster tools)/gocryptfs-2.3" -fg -q -nosyslog -ro -masterkey=stdin "$from/cipher" "$mine/plain" 2>/dev/null &
    for _ in $(seq 250); do if mountpoint -q "$mine/plain"; then break; else sleep 0.02; fi; done
    [ "$(cat "$mine/plain/note")" = "$canary" ] || fail "$node: the canary is not in the output"
    [ "$(cat "$mine/plain/uid")" = "$(on_laptop id -u)" ] || fail "$node: the container did not run as alice"
    [ "$(wc -l <"$mine/plain/result")" -ge 20 ] || fail "$node: jp2a wrote no picture"
    [ "$node" = cn1 ] || cat "$mine/plain/result"
    umount "$mine/plain"
    wait
    ok "$node: the container wrote through gocryptfs as alice, and gocryptfs 2.3 opens it"

    found=$(hunt "$canary")$(hunt "$key")
    [ -z "$found" ] || fail "$node: plaintext or key in $found"
    [ -z "$(cluster exec "$node" -- pgrep -u alice || true)" ] || fail "$node: processes of alice's are left"
    ! cluster exec "$node" -- grep fuse /proc/1/mountinfo || fail "$node: a mount is left"
    cluster exec "$node" -u alice -- sh -c 'cat >/tmp/planted' <<<"$canary"
    [ "$(hunt "$canary" | wc -l)" = 1 ] || fail "$node: the search does not find a planted canary"
    cluster exec "$node" -- rm /tmp/planted
    ok "$node: no key, plaintext, process or mount left (and a planted canary is found)"
done
