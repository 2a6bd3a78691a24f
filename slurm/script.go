package slurm

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/hostlist"
)

// maxNodes is how many nodes a job may have, and names and ranges a host list of
// Slurm's own.
const maxNodes = 1 << 16

// Script is everything that a batch script says. The zero value of a field leaves the option out.
type Script struct {
	JobName     string // any printable text
	Nodes       int    // required; each runs the supervisor once
	MinNodes    int    // least number of nodes, if Slurm may give fewer than Nodes; 0 for exactly Nodes
	NodeList    string // host list
	Partition   string // one or several, separated by commas
	Account     string
	Time        string // as ParseTime takes it
	Mem         string // "16G", "0"
	CPUsPerTask int
	Gres, GPUs  string // "gpu:a100:2"; "2"
	Constraint  string
	QOS         string
	Reservation string
	Exclusive   bool
	Dependency  string // "afterok:123"
	MailType    string // "END,FAIL"
	MailUser    string
	Raw         []KV // further options; those that the script sets itself are refused

	// Dir is the job's directory, an absolute path. Slurm starts the script there; what the path leads
	// to by then is used only if it is a private directory of the user's own that holds Pin. Required.
	Dir string
	Pin Pin
	// Log is the name of the job's log in Dir. Required.
	Log string
	// Input says what every node gets on standard input, such as "one-time tokens"; empty for nothing.
	// Render leaves it out, WithInput puts it in.
	Input string
	// SealTime is how long before the time limit the supervisors get SIGUSR1, from a second on; Slurm
	// may send it up to a minute earlier. Required.
	SealTime time.Duration
	// Setup are the site's own shell lines, run as they are before anything else.
	Setup []string
	// Node is what every node runs.
	Node NodeRun
}

// Pin is a file in the job's directory by which the script knows it.
type Pin struct {
	Name   string
	SHA256 string // of its contents, 64 lower-case hexadecimal digits
}

// NodeRun is the part of the script that runs on every node: it copies Binaries into a fresh private
// directory of the node's own, checks the copies and becomes
// DIR/(name of the first) Command --self DIR Args...
type NodeRun struct {
	Binaries []Binary // the supervisor first
	Command  string   // the supervisor's subcommand
	Args     []string // its arguments; visible to other users, so never secrets
}

// Binary is a program that travels with the job.
type Binary struct {
	Name   string // file name in the node's directory: letters, digits, dots, dashes
	Path   string // in the job's directory, such as "bin/sealbatch"
	SHA256 string // of its contents, 64 lower-case hexadecimal digits
	Size   int64  // bytes
}

// Shapes of values. They are wider than what Slurm accepts: they keep nonsense and options apart.
var (
	nameShape       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.,@+-]*$`)
	resourceShape   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.,:=()/*-]*$`)
	constraintShape = regexp.MustCompile(`^[A-Za-z0-9_\[(][][A-Za-z0-9_.,&|()*:=+-]*$`)
	memShape        = regexp.MustCompile(`^[0-9]{1,12}[KMGTkmgt]?[Bb]?$`)
	dependencyShape = regexp.MustCompile(`^[a-z][a-z0-9_:,?+()-]*$`)
	mailTypeShape   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_,]*$`)
	mailUserShape   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+@%-]*$`)
	keyShape        = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)
	fileShape       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	digestShape     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// options returns the #SBATCH options in the order in which they are written.
func (s *Script) options() []KV {
	all := []KV{
		{"job-name", s.JobName}, {"nodes", s.nodes()}, {"ntasks-per-node", "1"},
		{"nodelist", s.NodeList}, {"partition", s.Partition}, {"account", s.Account}, {"time", s.Time},
		{"mem", s.Mem}, {"cpus-per-task", positive(s.CPUsPerTask)}, {"gres", s.Gres}, {"gpus", s.GPUs},
		{"constraint", s.Constraint}, {"qos", s.QOS}, {"reservation", s.Reservation},
		{"dependency", s.Dependency}, {"mail-type", s.MailType}, {"mail-user", s.MailUser},
	}
	var out []KV
	for _, o := range all {
		if o.Value != "" {
			out = append(out, o)
		}
	}
	if s.Exclusive {
		out = append(out, KV{"exclusive", ""})
	}
	raw, comment := splitComment(s.Raw)
	out = append(out, raw...)
	// Not the job's directory: Slurm would start bash there, which finds libraries and programs by the user's search
	// paths, before anything could be looked at.
	return append(out, KV{"comment", strings.TrimPrefix(comment+" ", " ") + s.mark()}, KV{"chdir", "/"},
		KV{"output", "/dev/null"}, KV{"export", "NONE"}, KV{"no-requeue", ""},
		KV{"signal", fmt.Sprintf("USR1@%d", int64(s.SealTime/time.Second))})
}

// mark is what a job is found by (Commands.FindByDir): the name of its directory, which is random.
func (s *Script) mark() string { return path.Base(s.Dir) }

// splitComment takes a comment out of options.
func splitComment(options []KV) (others []KV, comment string) {
	for _, o := range options {
		if o.Key == "comment" {
			comment = o.Value
		} else {
			others = append(others, o)
		}
	}
	return others, comment
}

// nodes returns the number of nodes, or the range, as sbatch takes it.
func (s *Script) nodes() string {
	if s.MinNodes > 0 {
		return strconv.Itoa(s.MinNodes) + "-" + strconv.Itoa(s.Nodes)
	}
	return strconv.Itoa(s.Nodes)
}

func positive(n int) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// reserved are the options that the script sets itself or that would change what it relies on, each
// with what to use instead.
var reserved = map[string]string{
	"job-name": "--job-name", "nodes": "--nodes", "nodelist": "--nodelist", "nodefile": "--nodelist", "partition": "--partition",
	"account": "--account", "time": "--time", "mem": "--mem", "cpus-per-task": "--cpus-per-task", "gres": "--gres",
	"gpus": "--gpus", "constraint": "--constraint", "qos": "--qos", "reservation": "--reservation", "exclusive": "--exclusive",
	"dependency": "--dependency", "mail-type": "--mail-type", "mail-user": "--mail-user", "signal": "--seal-time",
	"output": "", "error": "", "input": "", "open-mode": "", "export": "", "export-file": "", "get-user-env": "",
	"requeue": "", "no-requeue": "", "ntasks": "", "tasks": "", "ntasks-per-node": "", "tasks-per-node": "", "ntasks-per-core": "",
	"ntasks-per-socket": "", "ntasks-per-gpu": "", "array": "", "wrap": "", "chdir": "", "workdir": "", "container": "",
	"container-id": "", "clusters": "", "cluster": "", "parsable": "", "test-only": "", "wait": "", "uid": "", "gid": "", "umask": "",
	"help": "", "usage": "", "version": "", "quiet": "", "verbose": "", "jobid": "", "kill-on-invalid-dep": "", "ignore-pbs": "",
	"overcommit": "", "no-kill": "", "propagate": "", "batch": "", "bb": "", "bbf": "", "batch-script": "",
}

// check validates everything that came from a user.
func (s *Script) check() error {
	if s.Nodes < 1 || s.Nodes > maxNodes || s.MinNodes < 0 || s.MinNodes > s.Nodes {
		return fmt.Errorf("%w: %s nodes", ErrScript, s.nodes())
	}
	if s.CPUsPerTask < 0 {
		return fmt.Errorf("%w: %d CPUs a task", ErrScript, s.CPUsPerTask)
	}
	if s.JobName == "" || len(s.JobName) > 200 {
		return fmt.Errorf("%w: a job name has 1 to 200 bytes: %q", ErrScript, s.JobName)
	}
	for _, c := range []struct {
		name, value string
		shape       *regexp.Regexp
	}{
		{"partition", s.Partition, nameShape}, {"account", s.Account, nameShape}, {"qos", s.QOS, nameShape},
		{"reservation", s.Reservation, nameShape}, {"mem", s.Mem, memShape}, {"gres", s.Gres, resourceShape},
		{"gpus", s.GPUs, resourceShape}, {"constraint", s.Constraint, constraintShape},
		{"dependency", s.Dependency, dependencyShape}, {"mail-type", s.MailType, mailTypeShape}, {"mail-user", s.MailUser, mailUserShape},
	} {
		if c.value != "" && !c.shape.MatchString(c.value) {
			return fmt.Errorf("%w: %q is not a %s", ErrScript, c.value, c.name)
		}
	}
	for _, step := range []func() error{s.checkNodeList, s.checkTime, s.checkRaw, s.checkDir, s.checkSetup, s.Node.check} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, o := range s.options() {
		if err := checkDirective(o); err != nil {
			return err
		}
	}
	return nil
}

func (s *Script) checkNodeList() error {
	if s.NodeList == "" {
		return nil
	}
	if _, err := hostlist.Parse(maxNodes, s.NodeList); err != nil {
		return fmt.Errorf("%w: --nodelist: %w", ErrScript, err)
	}
	return nil
}

func (s *Script) checkTime() error {
	if s.SealTime < time.Second || s.SealTime > 18*time.Hour { // Slurm keeps it in 16 bits
		return fmt.Errorf("%w: --seal-time %v is not between a second and 18 hours", ErrScript, s.SealTime)
	}
	if s.Time == "" {
		return nil
	}
	limit, err := ParseTime(s.Time)
	if err != nil {
		return fmt.Errorf("%w: --time: %w", ErrScript, err)
	}
	if limit > 0 && limit <= s.SealTime {
		return fmt.Errorf("%w: --time %s leaves the application no time, since %v are kept for sealing its results; "+
			"raise --time or lower --seal-time",
			ErrScript, s.Time, s.SealTime)
	}
	return nil
}

// checkRaw refuses reserved options and, since sbatch takes them for the whole, beginnings of them.
func (s *Script) checkRaw() error {
	for _, o := range s.Raw {
		if !keyShape.MatchString(o.Key) {
			return fmt.Errorf("%w: --sbatch %s: an option is KEY or KEY=VALUE, with KEY as in sbatch --KEY", ErrScript, o.Key)
		}
		if o.Key == "array" {
			return fmt.Errorf("%w: --sbatch array: a job array is one submission, and keys are released to one job of a "+
				"submission; run job-prep once for each", ErrScript)
		}
		switch means := meant(o.Key); {
		case len(means) == 0:
		case len(means) == 1 && reserved[means[0]] != "":
			return fmt.Errorf("%w: --sbatch %s: use %s", ErrScript, o.Key, reserved[means[0]])
		case len(means) == 1 && means[0] == o.Key:
			return fmt.Errorf("%w: --sbatch %s is not possible: the job relies on how the script itself sets it", ErrScript, o.Key)
		default:
			return fmt.Errorf("%w: --sbatch %s is not possible: sbatch takes it for %s, and the job relies on how the script itself sets that",
				ErrScript, o.Key, strings.Join(means, " or "))
		}
	}
	return nil
}

// meant returns the reserved options for which sbatch may take key: itself, or those that begin with it.
func meant(key string) (names []string) {
	if _, ok := reserved[key]; ok {
		return []string{key}
	}
	for name := range reserved {
		if strings.HasPrefix(name, key) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *Script) checkDir() error {
	if !strings.HasPrefix(s.Dir, "/") {
		return fmt.Errorf("%w: the job's directory %q is not an absolute path", ErrScript, s.Dir)
	}
	if !fileShape.MatchString(s.Log) || !fileShape.MatchString(s.Pin.Name) || !digestShape.MatchString(s.Pin.SHA256) {
		return fmt.Errorf("%w: log %q, and %q with digest %q, are not files of a job's directory", ErrScript, s.Log, s.Pin.Name, s.Pin.SHA256)
	}
	return checkText("the input of the nodes", s.Input)
}

func (s *Script) checkSetup() error {
	for _, line := range s.Setup {
		if strings.ContainsAny(line, "\x00\r\n") || strings.HasPrefix(line, "#SBATCH") || strings.HasPrefix(line, "#SLURM") {
			return fmt.Errorf("%w: [supercomputer] setup: %q is not one line of shell", ErrScript, line)
		}
	}
	return nil
}

func (n *NodeRun) check() error {
	if len(n.Binaries) == 0 || !fileShape.MatchString(n.Command) {
		return fmt.Errorf("%w: nothing to run on the nodes", ErrScript)
	}
	seen := map[string]bool{}
	for _, b := range n.Binaries {
		if !fileShape.MatchString(b.Name) || seen[b.Name] || !fs.ValidPath(b.Path) ||
			!digestShape.MatchString(b.SHA256) || b.Size <= 0 {
			return fmt.Errorf("%w: not a program to take along: %q at %q with digest %q and %d bytes", ErrScript, b.Name, b.Path, b.SHA256, b.Size)
		}
		seen[b.Name] = true
	}
	for _, b := range n.Binaries {
		if err := checkText("a program's path", b.Path); err != nil {
			return err
		}
	}
	for _, a := range n.Args {
		if err := checkText("an argument of the supervisor", a); err != nil {
			return err
		}
	}
	return nil
}
