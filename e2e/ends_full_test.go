package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// fillsScratch writes to the scratch volume by each of its names until nothing
// more fits, then wants to write a result. (/dev/shm is the node's memory, which
// is not filled here: that it has an end is looked at.)
const fillsScratch = `cd /sd-container/output
echo before >before
df -k --output=size,fstype /dev/shm | tail -n 1 >shm
head -n 1 /proc/meminfo >memory
head -c 100000000 /dev/zero >/sd-container/scratch/fill && exit 1
for d in /tmp /var/tmp "$HOME"; do head -c 5000000 /dev/zero >"$d/fill" && exit 2; done
dd if=/dev/zero of=/dev/shm/some bs=1M count=8 2>/dev/null || exit 3
head -c 5000000 /dev/zero >result && exit 4
exit 9
`

// TestScratchFillsTheDisk: what an application keeps for itself takes the room
// away in which its results could be sealed. It goes first.
func TestScratchFillsTheDisk(t *testing.T) {
	t.Parallel()
	j := onSmallDisk(t, "scratch-fills", fillsScratch)
	if code := j.wait(); code != 9 {
		t.Errorf("exit code %d, want the application's 9", code)
	}
	j.missing("output", "scratch", "reserve", "*.partial")
	nodes, r := j.results()
	if len(nodes) != 1 || r.code != 0 || !strings.Contains(r.err, "completed, exit code 9; sealed and signed by the job") {
		t.Fatalf("results: %s", r)
	}
	for _, dir := range nodes {
		if read(t, dir, "before") != "before\n" {
			t.Error("what was written before is lost")
		}
		shm, memory := read(t, dir, "shm"), read(t, dir, "memory")
		var has, all int
		_, err := fmt.Sscanf(strings.TrimSpace(shm), "%d tmpfs", &has)
		_, merr := fmt.Sscanf(memory, "MemTotal: %d kB", &all)
		if err != nil || merr != nil || has < 8<<10 || has > all*3/4 {
			t.Errorf("/dev/shm is %q, of a memory of %q", shm, memory)
		}
	}
}
