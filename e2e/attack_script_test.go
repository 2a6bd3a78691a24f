package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// scriptDefences are those of what job-prep hands to sbatch.
var scriptDefences = map[string][]weakness{
	"tokens not on the site": {{"jobprep/jobprep.go", "	if o.ByHand {\n", "	if o.ByHand || off(\"tokens not on the site\") {\n"}},
}

// swap is bob's: he puts a directory of his own in the place of the work directory $1, with links to
// what is genuine; whatever comes to lie there that he may read, he has open from then on. It is luck
// when he does it, and he has it: $3 says when. When there is $2, he shows what he got.
const swap = `work=$1; until [ -d "$work"/sealbatch-* ]; do :; done
dir=$(basename "$work"/sealbatch-*)
mkdir -m 777 "$work.new" "$work.new/$dir" && for f in manifest.json bin nodes scripts; do ln -s "$work.away/$dir/$f" "$work.new/$dir/"; done
until [ -e "$3" ]; do :; done
mv "$work" "$work.away" && mv "$work.new" "$work" || exit
declare -A open
until [ -e "$2" ]; do
	for f in "$work/$dir"/*; do
		[ -L "$f" ] || [ -n "${open[$f]}" ] || ! [ -r "$f" ] || { exec {fd}<"$f" && open[$f]=$fd; }
	done
	sleep 0.005
done
for fd in "${open[@]}"; do cat <&"$fd"; done`

// tokenIn finds a one-time token in a batch script.
var tokenIn = regexp.MustCompile(`(?m)^  builtin printf .*\n    (\S+)( \\)?$`)

// TestAttackTokens: bob swaps the work directory while job-prep fills it, reads a one-time token that
// comes to lie there, and has the dataset's key for it, on his own machine.
func TestAttackTokens(t *testing.T) {
	t.Parallel()
	flags := []string{"-u", "alice", "-c", "*", "--tier", "C"}
	image := alice.image(t, testImage(t, "sh.sif"), "sh-tokens", flags...)
	data := alice.dataset(t, "tokens", simple, flags...)
	key := volumeKey(t, "data/tokens.sealed")
	attack{without: []string{"tokens not on the site", "mode at once"}, says: "no token", play: func(t *testing.T, w *world) outcome {
		work, stop := project+"/tokens"+w.suffix(), "/tmp/tokens"+w.suffix()
		must(t, "login", "alice", "mkdir", work)
		var loot bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		lurker := command(ctx, "login", "bob", "bash", "-c", swap, "bash", work, stop, stop+"-now")
		lurker.Stdout, lurker.WaitDelay = &loot, time.Second
		if err := lurker.Start(); err != nil {
			t.Fatal(err)
		}
		programs, now := onDisk(t, "login", work)+"/sealbatch-*/bin/sealbatch", onDisk(t, "login", stop+"-now")
		go func() { // the programs are being uploaded: what is small comes after them
			for ctx.Err() == nil {
				if found, _ := filepath.Glob(programs); len(found) > 0 {
					_ = os.WriteFile(now, nil, 0o600)
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		r := w.as(t, "/home/alice/tokens"+w.suffix(), "job-prep", "-ai", image, "-di", data, "--workdir", work, "-t", "10",
			"--seal-time", "60", "--tier", "C", "--sbatch", "hold")
		write(t, "login", "bob", stop, "")
		if err := lurker.Wait(); err != nil || r.code != 0 {
			t.Fatalf("bob: %v; job-prep: %s", err, r)
		}
		must(t, "login", "alice", "scancel", strings.TrimSpace(r.out))
		must(t, "login", "root", "sh", "-c", `test -f "$1"/sealbatch-*/job.sbatch && test -d "$1.away"`, "sh", work) // he was in time
		found := tokenIn.FindSubmatch(loot.Bytes())
		if found == nil {
			return keptOut("no token in the %d bytes that bob has", loot.Len())
		}
		b := must(t, "login", "root", "sh", "-c", `cat "$1.away"/sealbatch-*/manifest.json; echo .`, "sh", work)
		s := stake{digest: manifest.DigestOf([]byte(strings.TrimSuffix(b, "."))).String(), volumes: []keyservertest.Volume{{Key: key}}}
		c := w.claimant(t, place{"laptop", "bob"}, s, 4711, "laptop")
		return c.opens(t, s, c.releaseWith(t, oneTime{string(found[1])}.evidence(t, c), c.s))
	}}.run(t)
}
