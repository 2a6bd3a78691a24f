package jobdir

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Names in a job's directory.
const (
	ManifestName  = "manifest.json"
	SignatureName = ManifestName + ".sig"
	ScriptName    = "job.sbatch"
	LogName       = "job.log"
	BinDir        = "bin"
	ScriptsDir    = "scripts" // with InputStage and OutputStage in it
	NodesDir      = "nodes"   // with the nodes' own directories in it
)

// The stages that verification scripts belong to, which are directories below
// ScriptsDir.
const (
	InputStage  = "input"
	OutputStage = "output"
)

// Names in a node's directory, JobDir/nodes/NODE.
const (
	StatementName = "statement.jws"
	OriginName    = "origin.jws"
	ReceiptName   = "receipt.jws"
	KeysName      = "keys.age"
	CipherDirName = "output"
	ScratchName   = "scratch"                // cipher directory whose key nobody keeps
	IndexName     = CipherDirName + ".index" // of a cipher directory that was not sealed
	SealedName    = "results.sealed"
	LeftName      = "left.age" // names what of the outputs could not be kept
	ReserveName   = "reserve"
)

// Files that the supervisor writes among the results, beside the application's own.
const (
	StdoutName   = "stdout"
	StderrName   = "stderr"
	ExitCodeName = "exit_code"
)

// MaxIndex bounds the file IndexName, in bytes.
const MaxIndex = 1<<31 + 1<<20

// PartialSuffix ends the names of files that are being written.
const PartialSuffix = ".partial"

// The programs that travel with every job, in BinDir.
const (
	Sealbatch = "sealbatch"
	Gocryptfs = "gocryptfs"
)

// Programs returns the names of the programs that travel with every job.
func Programs() []string { return []string{Sealbatch, Gocryptfs} }

// Prefix begins the names of jobs' directories.
const Prefix = "sealbatch-"

// Path returns the path of a run's directory below a work directory.
func Path(workdir, run string) string { return path.Join(workdir, Prefix+run[:16]) }

// NodePath returns the path of a node's directory in the job's directory, or of
// what elem names in it. node is as NodeName returns it.
func NodePath(jobDir, node string, elem ...string) string {
	return path.Join(append([]string{jobDir, NodesDir, node}, elem...)...)
}

// NodeName returns the name of a node's directory in NodesDir: that of the node,
// or NODE.rN for a job that Slurm has restarted N times.
func NodeName(node string, restart uint32) string {
	if restart == 0 {
		return node
	}
	return fmt.Sprintf("%s.r%d", node, restart)
}

var nodeRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,300}$`)

// IsNodeName reports whether a node's directory can have that name: others come
// from somebody else, and might steer a terminal.
func IsNodeName(name string) bool { return nodeRE.MatchString(name) }

// Restart returns the restart count in a node directory's name.
func Restart(name string) uint32 {
	i := strings.LastIndex(name, ".r")
	if i < 0 {
		return 0
	}
	n, err := strconv.ParseUint(name[i+2:], 10, 32)
	if err != nil {
		return 0 // a node's name with a dot
	}
	return uint32(n)
}
