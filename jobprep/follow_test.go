package jobprep

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// followed is a submitted job on a site that is this machine.
type followed struct {
	t     *testing.T
	rec   submission.Record
	key   ed25519.PrivateKey // the key service's
	begin time.Time
	out   bytes.Buffer
	asked int
}

func newFollowed(t *testing.T, nodes int) *followed {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, "nodes"), 0o700))
	return &followed{t: t, key: key, begin: time.Now(), rec: submission.Record{
		Run: strings.Repeat("a", 32), Manifest: manifest.DigestOf([]byte("m")), JobID: "41", JobDir: dir, LogFile: filepath.Join(dir, "job.log"),
		Nodes: nodes, Tier: manifest.TierC,
		Service: manifest.Service{ID: "keys", StatementKey: manifest.EncodeKey(key.Public().(ed25519.PublicKey))}}}
}

func (f *followed) since() time.Duration { return time.Since(f.begin) }

func (f *followed) log(format string, a ...any) {
	f.t.Helper()
	l, err := os.OpenFile(f.rec.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(f.t, err)
	_, err = fmt.Fprintf(l, format, a...)
	check(f.t, errors.Join(err, l.Close()))
}

// receipt lets a node leave its signed account.
func (f *followed) receipt(node string, exit int, reason string) {
	f.t.Helper()
	_, s, err := ed25519.GenerateKey(nil)
	check(f.t, err)
	dir := filepath.Join(f.rec.JobDir, "nodes", node)
	check(f.t, os.Mkdir(dir, 0o700))
	job := manifest.Job{Cluster: "c", ID: 41, ArrayTask: -1}
	for name, d := range map[string]struct {
		typ string
		key ed25519.PrivateKey
		v   any
	}{
		jobdir.StatementName: {manifest.TypeStatement, f.key, manifest.Statement{Service: "keys", Manifest: f.rec.Manifest, Job: job, Node: node,
			Tier: manifest.TierC, S: manifest.EncodeKey(s.Public().(ed25519.PublicKey))}},
		jobdir.OriginName: {manifest.TypeOrigin, s, manifest.Origin{Run: f.rec.Run, Manifest: f.rec.Manifest, Job: job, Node: node}},
		jobdir.ReceiptName: {manifest.TypeReceipt, s, manifest.Receipt{Run: f.rec.Run, Manifest: f.rec.Manifest, Job: job, Node: node,
			Tier: manifest.TierC, Exit: exit, Reason: reason}},
	} {
		jws, err := manifest.SignJWS(d.typ, d.key, d.v)
		check(f.t, err)
		check(f.t, os.WriteFile(filepath.Join(dir, name), []byte(jws), 0o600))
	}
}

// line is squeue's answer: right-aligned columns, their widths as asked for.
func line(argv []string, values ...string) string {
	format := argv[len(argv)-1]
	var b strings.Builder
	for i, col := range strings.Split(format, ",") {
		_, width, _ := strings.Cut(col, ":.")
		var n int
		_, _ = fmt.Sscan(width, &n)
		fmt.Fprintf(&b, "%*s", n, values[i])
	}
	return b.String() + "\n"
}

// follow follows the job while slurm answers squeue with a state, its reason
// and its exit status; "" is for a job that Slurm does not know, "no nodes: " before the reason is for one without.
func (f *followed) follow(ctx context.Context, answer func() (state, reason, exit string)) (int, error) {
	store, err := submission.Open(filepath.Join(f.rec.JobDir, "state"))
	check(f.t, err)
	d := Deps{FS: transfer.Local{}, Log: slog.New(slog.DiscardHandler), Store: store,
		Slurm: slurm.Commands{Runner: runner(func(argv []string, _ string) (string, string, int) {
			if !strings.Contains(strings.Join(argv, " "), " squeue ") {
				return "", "Slurm accounting storage is disabled", 1
			}
			f.asked++
			state, reason, exit := answer()
			switch state {
			case "":
				return "", "slurm_load_jobs error: Invalid job id specified", 1
			case "down":
				return "", "Unable to contact slurm controller", 1
			}
			if without, ok := strings.CutPrefix(reason, "no nodes: "); ok {
				return line(argv, "41", state, exit, "N/A", without, ""), "", 0
			}
			return line(argv, "41", state, exit, "N/A", reason, "cn[1-2]"), "", 0
		})}}
	return Follow(ctx, d, f.rec, FollowOptions{Out: &f.out, Log: true})
}

// A job of which neither Slurm nor the nodes know the end is not followed for ever.
func TestFollowEndsWithoutAnyAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowed(t, 2)
		f.receipt("cn1", 0, "completed")
		code, err := f.follow(t.Context(), func() (string, string, string) {
			if f.since() < time.Minute {
				return "RUNNING", "None", "0"
			}
			return "", "", ""
		})
		if code != NoExitCode && fault.ClassOf(err) != fault.Job || !strings.Contains(err.Error(), "1 of its 2 nodes") ||
			!strings.Contains(fault.Hint(err), "sealbatch results 41") || f.since() > 3*time.Minute {
			t.Errorf("Follow = %d, %v, hint %q after %v", code, err, fault.Hint(err), f.since())
		}
	})
}

// A job that is killed leaves no receipt, but a line in its log.
func TestFollowSeesAKillSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowed(t, 1)
		killed := f.begin.Add(20 * time.Minute)
		time.AfterFunc(time.Until(killed), func() { f.log("slurmstepd: error: *** JOB 41 ON cn1 CANCELLED ***\n") })
		code, err := f.follow(t.Context(), func() (string, string, string) {
			if time.Now().Before(killed) {
				return "RUNNING", "None", "0"
			}
			return "CANCELLED", "None", "9"
		})
		if late := time.Since(killed); code != 128+9 || err != nil || late > 10*time.Second || f.asked > 35 {
			t.Errorf("Follow = %d, %v, %v after the kill; Slurm was asked %d times", code, err, late, f.asked)
		}
	})
}

func TestFollowSaysWhyAJobEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowed(t, 1)
		code, err := f.follow(t.Context(), func() (string, string, string) { return "NODE_FAIL", "NodeDown", "1" })
		if code != NoExitCode || err != nil || !strings.Contains(f.out.String(), "submit the job again") {
			t.Errorf("Follow = %d, %v: %s", code, err, &f.out)
		}
	})
}

func TestFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowed(t, 1)
		said := false
		code, err := f.follow(t.Context(), func() (string, string, string) {
			switch at := f.since(); {
			case at < 20*time.Second:
				return "PENDING", "Priority", "0"
			case at < 60*time.Second:
				if !said {
					f.log("first\nhalf")
				}
				said = true
				return "RUNNING", "None", "0"
			}
			f.log(" a line\n\x1b[2Jcleared\x07\nwithout an end")
			return "FAILED", "NonZeroExitCode", "768"
		})
		if code != 3 || err != nil {
			t.Errorf("Follow = %d, %v", code, err)
		}
		want := "job 41: PENDING (Priority): jobs of higher priority are before it\njob 41: RUNNING on cn[1-2]\n" +
			"first\njob 41: FAILED\nhalf a line\n" +
			"\\u001b[2Jcleared\\u0007\nwithout an end\n"
		if f.out.String() != want {
			t.Errorf("shown:\n%s\nwant:\n%s", &f.out, want)
		}
		// 5 s rising by half each time: six to eight questions in the 60 to 70 seconds, not sixty.
		if f.asked < 5 || f.asked > 9 {
			t.Errorf("Slurm was asked %d times in %s", f.asked, f.since())
		}
	})
}

// TestFollowLongLog: nothing of a log is lost that grows faster than it is read.
func TestFollowLongLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowed(t, 1)
		f.log("%s", strings.Repeat("x", maxLook+10)) // one line, longer than a look
		f.log("\n%s", strings.Repeat("0123456789abcde\n", 3*maxLook/16))
		code, err := f.follow(t.Context(), func() (string, string, string) { return "COMPLETED", "None", "0" })
		if code != 0 || err != nil {
			t.Errorf("Follow = %d, %v", code, err)
		}
		if n := strings.Count(f.out.String(), "0123456789abcde\n"); n != 3*maxLook/16 {
			t.Errorf("%d of %d lines", n, 3*maxLook/16)
		}
		if n := strings.Count(f.out.String(), "x"); n != maxLook+10 {
			t.Errorf("%d of %d bytes of the long line", n, maxLook+10)
		}
	})
}

// TestFollowExit has exit statuses as Slurm 24.11 and 20.11 write them.
func TestFollowExit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state, reason, exit string
		want                int
		says                string
	}{
		"completed":            {"COMPLETED", "None", "0", 0, ""},
		"the application's":    {"FAILED", "NonZeroExitCode", "7:0", 7, ""},
		"the same, raw":        {"FAILED", "NonZeroExitCode", "1792", 7, ""},
		"the supervisor's":     {"FAILED", "NonZeroExitCode", "241:0", 241, ""},
		"a signal's":           {"FAILED", "RaisedSignal:9(Killed)", "0:9", 128 + 9, ""},
		"the same, raw signal": {"FAILED", "None", "9", 128 + 9, ""},
		"a true hangup":        {"FAILED", "RaisedSignal:1(Hangup)", "0:1", 128 + 1, ""},
		"no signal at all":     {"FAILED", "JobLaunchFailure", "0:1", NoExitCode, "could not run its script"},
		"slurmstepd's number":  {"FAILED", "RaisedSignal:53(Real-time signal 19)", "0:53", NoExitCode, "could not run its script"},
		"cancelled":            {"CANCELLED", "None", "0:15", 128 + 15, "it was cancelled"},
		"cancelled and sealed": {"CANCELLED", "None", "249:0", 249, "it was cancelled"},
		"cancelled while idle": {"CANCELLED", "None", "0", NoExitCode, "it was cancelled"},
		"node failed":          {"NODE_FAIL", "NodeDown", "0:1", NoExitCode, "a node of it failed"},
		"out of memory":        {"OUT_OF_MEMORY", "OutOfMemory", "0:125", NoExitCode, "--mem"},
		"out of time":          {"TIMEOUT", "TimeLimit", "0:9", NoExitCode, "--time"},
		"out of time, sealed":  {"TIMEOUT", "TimeLimit", "248:0", 248, "--time"},
		"preempted":            {"PREEMPTED", "None", "0:15", NoExitCode, "higher priority"},
		"deadline":             {"DEADLINE", "DeadLine", "0:1", NoExitCode, "deadline"},
		"no boot":              {"BOOT_FAIL", "None", "0:1", NoExitCode, "did not boot"},
		"taken elsewhere":      {"REVOKED", "None", "0:0", NoExitCode, "another cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFollowed(t, 1)
			code, err := f.follow(t.Context(), func() (string, string, string) { return c.state, c.reason, c.exit })
			if code != c.want || err != nil || !strings.Contains(f.out.String(), c.says) {
				t.Errorf("Follow = %d, %v; want %d: %s", code, err, c.want, &f.out)
			}
		})
	}
}

// TestFollowWithoutAStart: a job that will not start, or ended before it began, is an error, and not one of the job's.
func TestFollowWithoutAStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state, reason, exit string
		class               fault.Class
		says, hint          string
	}{
		"refused": {"FAILED", "no nodes: BadConstraints", "0:1", fault.Slurm, "no nodes like those", "is left"},
		"never": {"PENDING", "no nodes: DependencyNeverSatisfied", "0:0", fault.Slurm, "will not start as it was submitted",
			"scancel 41"},
		"cancelled": {"CANCELLED", "no nodes: Priority", "0:0", fault.Job, "before it began: nothing ran", "is left"},
		"deadline":  {"DEADLINE", "no nodes: DeadLine", "0:1", fault.Slurm, "deadline", "is left"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFollowed(t, 1)
				check(t, os.Mkdir(filepath.Join(f.rec.JobDir, "state"), 0o700))
				check(t, os.WriteFile(filepath.Join(f.rec.JobDir, "state", "jobs"), nil, 0o600)) // so that there is no lock
				_, err := f.follow(t.Context(), func() (string, string, string) { return c.state, c.reason, c.exit })
				if err == nil || fault.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) ||
					!strings.Contains(fault.Hint(err), c.hint) || f.since() > time.Minute {
					t.Errorf("Follow: %v, class %v, hint %q after %v", err, fault.ClassOf(err), fault.Hint(err), f.since())
				}
			})
		})
	}
	// One that ran before it was requeued and cancelled has results.
	f := newFollowed(t, 1)
	f.log("it ran\n")
	if code, err := f.follow(t.Context(), func() (string, string, string) {
		return "CANCELLED", "no nodes: BeginTime", "0:0"
	}); code != NoExitCode || err != nil {
		t.Errorf("requeued and cancelled: %d, %v", code, err)
	}
}

// A job whose nodes are done is not waited for without an end.
func TestFollowEndsWithTheNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowed(t, 1)
		f.receipt("cn1", 3, "exit code 3")
		code, err := f.follow(t.Context(), func() (string, string, string) { return "COMPLETING", "None", "0:0" })
		if code != 3 || err != nil || f.since() > 2*maxEnding || f.asked > 80 {
			t.Errorf("Follow = %d, %v after %v; Slurm was asked %d times", code, err, f.since(), f.asked)
		}
	})
}

// TestFollowForgotten: Slurm forgets finished jobs; then the receipts decide,
// but only genuine ones.
func TestFollowForgotten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		want  int
		leave func(f *followed)
	}{
		"both went well":          {0, func(f *followed) { f.receipt("cn1", 0, "completed"); f.receipt("cn2", 0, "completed") }},
		"one failed":              {3, func(f *followed) { f.receipt("cn1", 0, "completed"); f.receipt("cn2", 3, "exit code 3") }},
		"never ran":               {NoExitCode, func(f *followed) { f.receipt("cn1", 0, "completed"); f.receipt("cn2", -1, "input check") }},
		"an output script failed": {NoExitCode, func(f *followed) { f.receipt("cn1", 0, "output script"); f.receipt("cn2", 0, "completed") }},
		"forged": {NoExitCode, func(f *followed) {
			_, other, err := ed25519.GenerateKey(nil)
			check(f.t, err)
			f.receipt("cn1", 0, "completed")
			f.key = other
			f.receipt("cn2", 0, "completed")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFollowed(t, 2)
				left := false
				code, err := f.follow(t.Context(), func() (string, string, string) {
					if f.since() < 10*time.Minute {
						return "RUNNING", "None", "0"
					}
					if !left {
						c.leave(f)
						left = true
					}
					return "", "", ""
				})
				if code != c.want || err != nil || !left {
					t.Errorf("Follow = %d, %v; want %d", code, err, c.want)
				}
			})
		})
	}
}

// TestFollowOutages: a controller that is away for a while does not end the
// following; one that stays away does.
func TestFollowOutages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowed(t, 1)
		code, err := f.follow(t.Context(), func() (string, string, string) {
			if f.asked < maxFailures {
				return "down", "", ""
			}
			return "COMPLETED", "None", "0"
		})
		if code != 0 || err != nil {
			t.Errorf("after an outage: %d, %v", code, err)
		}
		f = newFollowed(t, 1)
		if _, err := f.follow(t.Context(), func() (string, string, string) { return "down", "", "" }); !errors.Is(err, slurm.ErrSlurm) {
			t.Errorf("Slurm is away for good: %v", err)
		}
	})
}

func TestFollowInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowed(t, 1)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, nil)
		defer cancel()
		_, err := f.follow(ctx, func() (string, string, string) { return "RUNNING", "None", "0" })
		if fault.ClassOf(err) != fault.Interrupted || !strings.Contains(fault.Hint(err), "scancel 41") {
			t.Errorf("Follow: %v, hint %q", err, fault.Hint(err))
		}
	})
}
