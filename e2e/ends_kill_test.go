package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Kills, by SIGKILL, at points spread over the whole life of a job: whatever is
// killed and whenever, nothing stays on the node, and results say exactly what
// there is. Every node of a job has a plan of its own; what happens to one must
// not reach the other.

// slowly writes ten small files, then a large one, so that there are points to
// kill at while it runs and while its outputs are sealed. MARK is in all of it.
const slowly = `set -e
cd /sd-container/output
for i in 0 1 2 3 4 5 6 7 8 9; do yes "$i of MARK" | head -n 1000 >f$i; sleep 0.06; done
yes "MARK" | head -c 8000000 >big
`

// Victims, as job.find knows them.
const (
	wrapper     = "job script's task" // before it becomes the supervisor
	supervisor  = "supervisor"
	namespace   = "namespace"
	outputFuse  = "gocryptfs of the outputs"
	scratchFuse = "gocryptfs of the scratch volume"
	runtimeProc = "container runtime"
	imageFuse   = "image server"
	application = "application"
)

// Stages of a run, by what there is in the node's directory.
const (
	stageStart       = "start"
	stageAttestation = "attestation" // there are namespaces, but no statement
	stageMounts      = "mounts"
	stageApplication = "application"
	stageSealing     = "sealing"
	stageReceipt     = "receipt"
)

// plan is one kill: of whom, once what has come to be, and how long after.
type plan struct {
	victim string
	when   func(s seen) bool
	after  time.Duration
}

// seen is how far a run has come.
type seen struct {
	running                               string // wrapper or supervisor
	namespace, statement, origin, partial bool
	sealed, receipt                       bool
	entries                               int // in the outputs' cipher directory
}

func (s seen) stage() string {
	switch {
	case s.receipt:
		return stageReceipt
	case s.partial || s.sealed:
		return stageSealing
	case s.entries >= 4: // its diriv, the log, stdout and stderr
		return stageApplication
	case s.statement:
		return stageMounts
	case s.namespace:
		return stageAttestation
	}
	return stageStart
}

func begun(victim string) func(seen) bool { return func(s seen) bool { return s.running == victim } }
func wrote(n int) func(seen) bool         { return func(s seen) bool { return s.entries >= n } }
func attesting(s seen) bool               { return s.namespace }
func attested(s seen) bool                { return s.statement }
func mounting(s seen) bool                { return s.origin }
func sealing(s seen) bool                 { return s.partial || s.sealed }
func signed(s seen) bool                  { return s.receipt }

// plans are the kills: at least twenty each of supervisor, gocryptfs of the
// outputs and the application itself, and some of what else a run consists of.
func plans() []plan {
	const ms = time.Millisecond
	out := []plan{{wrapper, begun(wrapper), 0}, {wrapper, begun(wrapper), 10 * ms}, {namespace, mounting, 0}, {namespace, wrote(6), 0}}
	for _, p := range []struct {
		when  func(seen) bool
		after []time.Duration
	}{
		{begun(supervisor), []time.Duration{0, 30 * ms, 60 * ms}},
		{attesting, []time.Duration{0, 10 * ms, 20 * ms}},
		{attested, []time.Duration{0, 5 * ms}},
		{mounting, []time.Duration{0, 15 * ms, 30 * ms}},
		{wrote(4), []time.Duration{0}}, {wrote(8), []time.Duration{0}}, {wrote(15), []time.Duration{0}},
		{sealing, []time.Duration{0, 0, 5 * ms, 15 * ms}},
		{signed, []time.Duration{0, 5 * ms, 15 * ms}},
	} {
		for _, d := range p.after {
			out = append(out, plan{supervisor, p.when, d})
		}
	}
	out = append(out, plan{scratchFuse, mounting, 0}, plan{scratchFuse, wrote(2), 0}, plan{scratchFuse, wrote(12), 0})
	out = append(out, plan{outputFuse, mounting, 0}, plan{outputFuse, mounting, 20 * ms}, plan{outputFuse, wrote(2), 0})
	for n := 4; n <= 15; n++ {
		out = append(out, plan{outputFuse, wrote(n), 0})
	}
	for _, d := range []time.Duration{5, 10, 20} {
		out = append(out, plan{outputFuse, wrote(15), d * ms}, plan{outputFuse, sealing, (d - 5) * ms})
	}
	for _, victim := range []string{runtimeProc, imageFuse} {
		out = append(out, plan{victim, wrote(4), 0}, plan{victim, wrote(9), 0})
	}
	for n := 4; n <= 15; n++ { // the program that the user brought
		out = append(out, plan{application, wrote(n), 0})
		if n%3 != 2 {
			out = append(out, plan{application, wrote(n), 25 * ms})
		}
	}
	return out
}

// doomed is one run on one node, and the plan for it.
type doomed struct {
	plan
	node, dir string // the node's directory, on this machine
	jobDir    string // on the site
	tasks     func() map[string]task
	hit       string // the stage in which it was hit; "" if its time passed
	self      string // the supervisor's node-local directory, if there was one
}

// task is a job's process on a node: the wrapper, later the supervisor.
type task struct {
	pid  int
	who  string
	self string // the supervisor's node-local directory
}

// watchTasks looks for jobs' tasks on a node until the test ends.
func watchTasks(t *testing.T, node string) func() map[string]task {
	t.Helper()
	var mu sync.Mutex
	found := map[string]task{}
	var groups []string
	for _, g := range []string{"/sys/fs/cgroup/freezer/", "/sys/fs/cgroup/"} {
		dir := g + "sealbatch-" + os.Getenv("SEALBATCH_CLUSTER") + "/" + node
		if _, err := os.Stat(dir); err == nil {
			groups = append(groups, dir)
			break
		}
	}
	if len(groups) == 0 {
		t.Fatalf("no cgroup of %s is found", node)
	}
	go func() {
		for tick := time.NewTicker(10 * time.Millisecond); t.Context().Err() == nil; <-tick.C {
			now := map[string]task{}
			for _, pid := range cgroupPIDs(groups[0]) {
				if dir, found := taskOf(pid); dir != "" {
					now[dir] = found
				}
			}
			mu.Lock()
			found = now
			mu.Unlock()
		}
	}()
	return func() map[string]task {
		mu.Lock()
		defer mu.Unlock()
		return found
	}
}

func cgroupPIDs(dir string) (pids []int) {
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			b, _ := os.ReadFile(p)
			for f := range strings.FieldsSeq(string(b)) {
				pid, _ := strconv.Atoi(f)
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

func argv(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// taskOf returns a job's task and the job's directory, if that is what it is.
func taskOf(pid int) (jobDir string, found task) {
	args := argv(pid)
	value := func(flag string) string {
		if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	found = task{pid: pid, self: value("--self")}
	switch {
	case value("--job-dir") == "":
		return "", found
	case args[0] == "/bin/bash" && args[1] == "-c":
		found.who = wrapper
	case filepath.Base(args[0]) == "sealbatch" && args[1] == "node-run":
		found.who = supervisor
	default:
		return "", found
	}
	return value("--job-dir"), found
}

// descendants lists the processes below pid.
func descendants(pid int) (out []int) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, th := range threads {
		b, _ := os.ReadFile(th)
		for f := range strings.FieldsSeq(string(b)) {
			child, _ := strconv.Atoi(f)
			out = append(append(out, child), descendants(child)...)
		}
	}
	return out
}

// look reports how far the run has come.
func (d *doomed) look() seen {
	has := func(name string) bool { _, err := os.Lstat(filepath.Join(d.dir, name)); return err == nil }
	s := seen{statement: has("statement.jws"), running: d.tasks()[d.jobDir].who}
	s.namespace = s.statement || d.find(namespace) != 0
	if s.statement {
		s.origin, s.partial, s.sealed, s.receipt = has("origin.jws"), has("results.sealed.partial"), has("results.sealed"), has("receipt.jws")
		list, _ := os.ReadDir(filepath.Join(d.dir, "output"))
		s.entries = len(list)
	}
	return s
}

// find returns the victim's pid, 0 if there is none.
func (d *doomed) find(victim string) int {
	task, ok := d.tasks()[d.jobDir]
	if !ok {
		return 0
	}
	if victim == wrapper || victim == supervisor {
		if task.who == victim {
			return task.pid
		}
		return 0
	}
	for _, pid := range descendants(task.pid) {
		args := strings.Join(argv(pid), " ")
		var is bool
		switch victim {
		case namespace:
			is = args == "sealbatch ns-child"
		case outputFuse:
			is = strings.Contains(args, "gocryptfs -fg") && strings.Contains(args, "/output ")
		case scratchFuse:
			is = strings.Contains(args, "gocryptfs -fg") && strings.Contains(args, "/scratch /proc/")
		case runtimeProc:
			is = strings.HasPrefix(args, "Apptainer runtime parent")
		case imageFuse:
			is = strings.Contains(args, "squashfuse")
		case application:
			is = strings.HasSuffix(args, "sh /sd-container/input/run.sh")
		}
		if is {
			return pid
		}
	}
	return 0
}

// strike waits until it is time and kills. It gives up when the run has ended.
// The victim is looked for beforehand, so that it can be hit at once.
func (d *doomed) strike(ended func() bool) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	victim := -1
	for timely := false; !ended(); <-tick.C {
		if victim < 0 {
			if pid := d.find(d.victim); pid != 0 {
				victim, _ = unix.PidfdOpen(pid, 0)
			}
		}
		if !timely && d.when(d.look()) {
			timely = true
			time.Sleep(d.after)
		}
		if timely && victim >= 0 {
			break
		}
	}
	if victim < 0 {
		return
	}
	defer unix.Close(victim)
	stage := d.look().stage()
	d.self = d.tasks()[d.jobDir].self
	if unix.PidfdSendSignal(victim, unix.SIGKILL, nil, 0) == nil {
		d.hit = stage
	}
}

func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	const mark = "killed-anywhere"
	data := alice.dataset(t, mark, map[string]string{"run.sh": strings.ReplaceAll(slowly, "MARK", mark)})
	image := shell(t)
	watch := map[string]func() map[string]task{"cn1": watchTasks(t, "cn1"), "cn2": watchTasks(t, "cn2")}
	hits, selves := map[string]int{}, map[string][]string{}
	var mu sync.Mutex
	round := func(all []plan) {
		slots := make(chan struct{}, 6)
		var jobs sync.WaitGroup
		for pair := range slices.Chunk(all, 2) {
			slots <- struct{}{}
			jobs.Go(func() {
				defer func() { <-slots }()
				for _, d := range killJob(t, image, data, mark, pair, watch) {
					mu.Lock()
					if d.self != "" {
						selves[d.node] = append(selves[d.node], d.self)
					}
					if d.hit != "" {
						hits[d.victim]++
						hits[d.victim+", "+d.hit]++
					}
					mu.Unlock()
				}
			})
		}
		jobs.Wait()
	}
	begin := time.Now()
	round(plans())
	// A busy machine may let a short stage pass by: it is tried again.
	for again := 0; again < 12 && len(missed(hits)) > 0 && !t.Failed(); again++ {
		round(slices.Collect(maps.Values(missed(hits))))
	}
	t.Logf("in %v: %v", time.Since(begin).Round(time.Second), hits)
	for what := range missed(hits) {
		t.Errorf("not enough kills: %s", what)
	}
	// What a killed supervisor could not remove, the next job on its node does: at
	// once if it had its lock, else when an hour has passed.
	for node, dirs := range selves {
		early := must(t, node, "root", append([]string{"sh", "-c",
			`for d; do [ ! -d "$d" ] || [ -e "$d/lock" ] || { touch -d "2 hours ago" "$d" && echo "$d"; }; done`, "sh"}, dirs...)...)
		t.Logf("killed on %s before they had a lock: %q", node, strings.Fields(early))
	}
	if r := alice.submit(t, image, alice.dataset(t, "after-kills", map[string]string{"run.sh": "true\n"}), "-N", "2"); r.wait() != 0 {
		t.Error("the job after all those that were killed failed")
	}
	for node, dirs := range selves {
		left := must(t, node, "root", append([]string{"sh", "-c", `for d; do [ ! -e "$d" ] || echo "$d:" $(ls -A "$d"); done`, "sh"}, dirs...)...)
		if len(dirs) < 20 || left != "" {
			t.Errorf("of %d node-local directories on %s there are left: %s", len(dirs), node, left)
		}
	}
	h := &haystack{t: t, since: begin, needles: []needle{{"the application's output", []byte(" of " + mark)}}}
	for _, node := range []string{"cn1", "cn2"} {
		for _, f := range h.files(node) {
			t.Errorf("plaintext is left: %s in %s", f.what, f.where)
		}
	}
}

// missed returns which kills are missing, and how to come by them.
func missed(hits map[string]int) map[string]plan {
	out := map[string]plan{
		supervisor + ", " + stageStart:        {supervisor, begun(supervisor), 0},
		supervisor + ", " + stageAttestation:  {supervisor, attesting, 0},
		supervisor + ", " + stageMounts:       {supervisor, attested, 0},
		supervisor + ", " + stageApplication:  {supervisor, wrote(7), 0},
		supervisor + ", " + stageSealing:      {supervisor, sealing, 0},
		supervisor + ", " + stageReceipt:      {supervisor, signed, 0},
		outputFuse + ", " + stageMounts:       {outputFuse, mounting, 0},
		outputFuse + ", " + stageApplication:  {outputFuse, wrote(7), 0},
		outputFuse + ", " + stageSealing:      {outputFuse, sealing, 0},
		application + ", " + stageApplication: {application, wrote(7), 0},
	}
	maps.DeleteFunc(out, func(what string, _ plan) bool { return hits[what] > 0 })
	for victim, least := range map[string]int{supervisor: 20, outputFuse: 20, application: 20, scratchFuse: 2,
		runtimeProc: 1, imageFuse: 1, namespace: 1, wrapper: 1} {
		for n := hits[victim]; n < least; n++ {
			when := wrote(5 + n%8)
			if victim == wrapper {
				when = begun(wrapper)
			}
			out[fmt.Sprintf("%s, number %d", victim, n+1)] = plan{victim, when, 0}
		}
	}
	return out
}

// killJob runs one job whose nodes have a plan each, and checks what is left.
func killJob(t *testing.T, image, data, mark string, pair []plan, watch map[string]func() map[string]task) []*doomed {
	submitted := alice.sb(t, "job-prep", "-ai", image, "-di", data, "-N", "2", "-t", "10", "--seal-time", "60",
		"--workdir", alice.scratch(), "-args", "/sd-container/input/run.sh")
	id := strings.TrimSpace(submitted.out)
	m := regexp.MustCompile(`directory=site:(\S+)`).FindStringSubmatch(submitted.err)
	if submitted.code != 0 || m == nil {
		t.Errorf("job-prep: %s", submitted)
		return nil
	}
	jobDir := m[1]
	onThis := onDisk(t, "login", jobDir)
	done := make(chan struct{})
	ended := func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	var out []*doomed
	var strikes sync.WaitGroup
	for i, p := range pair {
		node := []string{"cn1", "cn2"}[i]
		d := &doomed{plan: p, node: node, dir: filepath.Join(onThis, "nodes", node), jobDir: jobDir, tasks: watch[node]}
		out = append(out, d)
		strikes.Go(func() { d.strike(ended) })
	}
	finished := jobEnds(t, id)
	close(done)
	strikes.Wait()
	what := fmt.Sprintf("job %s (%s killed in %q, %s in %q)", id, out[0].victim, out[0].hit, out[len(out)-1].victim, out[len(out)-1].hit)
	if !finished {
		t.Errorf("%s does not end", what)
		return out
	}
	checkKilled(t, what, id, mark, out)
	if !t.Failed() {
		must(t, "login", "alice", "rm", "-rf", jobDir)
	}
	return out
}

// jobEnds waits for a job's end.
func jobEnds(t *testing.T, id string) bool {
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		state := strings.TrimSpace(run(t.Context(), "login", "alice", nil, "squeue", "-h", "-t", "all", "-j", id, "-o", "%T").out)
		switch state {
		case "PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "":
		default:
			return true
		}
	}
	return false
}

// checkKilled holds what results say and give against what is there.
func checkKilled(t *testing.T, what, id, mark string, nodes []*doomed) {
	dir := "/home/alice/results-" + id
	r := alice.sb(t, "results", id, "-o", dir)
	lines := map[string]string{}
	for line := range strings.Lines(r.err) {
		node, rest, _ := strings.Cut(line, ": ")
		lines[node] = rest
	}
	for _, d := range nodes {
		s := d.look()
		opened := strings.Contains(r.out, dir+"/"+d.node+"\n")
		var wrong string
		switch line := lines[d.node]; {
		case s.receipt && s.sealed != strings.Contains(line, "sealed and signed by the job"):
			wrong = "not what the receipt says"
		case !s.receipt && strings.Contains(line, "signed by the job"):
			wrong = "nobody signed"
		case !opened && (s.sealed || s.entries > 1 || s.origin && !s.receipt):
			wrong = "its outputs are not opened"
		case !s.origin && opened:
			wrong = "there was nothing to open"
		case s.statement && line == "":
			wrong = "nothing is said of it"
		}
		if wrong != "" {
			t.Errorf("%s: %s: %s: %+v\n%s", what, d.node, wrong, s, r)
		}
		if opened {
			genuineOutputs(t, what+": "+d.node, onDisk(t, "laptop", dir+"/"+d.node), mark, d.hit == "")
		}
		if pids := run(t.Context(), d.node, "root", nil, "pgrep", "-f", d.jobDir).out; pids != "" {
			t.Errorf("%s: processes are left on %s: %s", what, d.node, pids)
		}
	}
}

// genuineOutputs checks that outputs are what the application wrote, in its order, up
// to some point: the last file may be cut, none may be different.
func genuineOutputs(t *testing.T, what, dir, mark string, all bool) {
	whole := map[string]string{"big": strings.Repeat(mark+"\n", 8000000/(len(mark)+1)+1)[:8000000]}
	order := []string{}
	for i := range 10 {
		name := fmt.Sprintf("f%d", i)
		whole[name] = strings.Repeat(fmt.Sprintf("%d of %s\n", i, mark), 1000)
		order = append(order, name)
	}
	cut := ""
	for _, name := range append(order, "big") {
		b, err := os.ReadFile(filepath.Join(dir, name))
		switch {
		case err == nil && cut != "":
			t.Errorf("%s: %s is there, although %s before it is not whole", what, name, cut)
		case err == nil && !strings.HasPrefix(whole[name], string(b)):
			t.Errorf("%s: %s is not what was written", what, name)
		}
		if len(b) < len(whole[name]) && cut == "" {
			cut = name
		}
	}
	if all && cut != "" {
		t.Errorf("%s: it was not killed, but %s is not whole", what, cut)
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	for _, e := range list {
		if whole[e.Name()] == "" && !slices.Contains([]string{"stdout", "stderr", "exit_code", "sealbatch.log"}, e.Name()) {
			t.Errorf("%s: nobody wrote %q", what, e.Name())
		}
	}
}
